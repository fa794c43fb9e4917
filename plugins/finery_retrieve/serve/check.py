"""`retrieve.check`: start the app of a bundle, and compare its answers with those of the build."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from finery import (
    Bundle,
    Dataset,
    Job,
    Key,
    Look,
    Metrics,
    Model,
    StepError,
    UsageError,
    setting,
    takes,
)
from finery.advanced import MAX_NAMED
from finery.rows import Conversation
from finery.rows.report import Report
from finery_eval.asking import Limits, generate
from finery_eval.evaluator import longest_answer
from finery_eval.measure import pairs_of
from finery_gguf.llama import PACKAGE, Gguf
from finery_retrieve.evaluate import tables
from finery_retrieve.evaluate.contexts import (
    Library,
    QuestionInContext,
    prompts_of,
    read_questions_with_answers,
    right_chunks_or_raise,
)
from finery_retrieve.evaluate.grounded import CONTEXT
from finery_retrieve.evaluate.outcome import Outcome, metric_names
from finery_retrieve.evaluate.tables import measure_over_documents
from finery_retrieve.formats import require_retrieving
from finery_retrieve.index.context import ContextPrompt
from finery_retrieve.index.retriever import Retriever
from finery_retrieve.serve.bundle import gguf_file, parts_of
from finery_retrieve.serve.running import serve_bundle
from finery_serve.check.answers import ServedModel, ServerQuestions
from finery_serve.check.prompts import ComparedPrompt, TrainedPrompts
from finery_serve.check.server_check import ComparedAnswers, ServerCheck, evaluated_name
from finery_serve.servers import Fault

FaultKind = Literal["sources", "template", "thinking", "prompts", "sampling"]
REBUILD_FIX = "build the bundle again, of the model in `models`"


def compare_sources(
    asked: Sequence[QuestionInContext], replies: Sequence[Mapping[str, Any]]
) -> tuple[list[bool], list[Fault]]:
    """(Whether an app shows the sources of the build, for each question; the fault if not)."""
    built = [[hit.id for hit in prompt.hits] for prompt in asked]
    shown = [[str(source["id"]) for source in reply["sources"]] for reply in replies]
    same = [a == b for a, b in zip(built, shown, strict=True)]
    if all(same):
        return same, []
    first = same.index(False)
    details = [
        f"for example {asked[first].question.text!r}:",
        f"built: {', '.join(built[first]) or 'none'}",
        f"app:   {', '.join(shown[first]) or 'none'}",
    ]
    problem = f"{same.count(False)} of {len(same)} questions have other sources than in the build"
    return same, [Fault("sources", problem, details, REBUILD_FIX)]


def prompts_of_app(asked: Sequence[QuestionInContext], model: Model) -> TrainedPrompts:
    """The prompts of the build, by the conversations that an app gets. model: the GGUF."""
    of_gguf = TrainedPrompts.of_engine(Gguf(gguf_file(model), vocab_only=True), model)
    built = {msgspec.json.encode(prompt.question.prompt): prompt.messages for prompt in asked}

    def render(messages: Conversation, tools: Any, arguments: Mapping[str, Any]) -> str:
        return of_gguf.render(built[msgspec.json.encode(messages)], tools, arguments)

    return of_gguf._replace(render=render)


def same_prompts(
    asked: Sequence[QuestionInContext], trained: TrainedPrompts, served: ServedModel
) -> tuple[list[bool], list[Fault]]:
    """(Whether the model got the prompt of each question, the fault if other tokens were counted).

    What the server makes of a prompt may be the same, and yet not what it answered.
    """
    same, miscounted = list(served.alike), []
    for number, (prompt, answer) in enumerate(zip(asked, served.answers, strict=True)):
        expected = len(trained.tokens(trained.render(prompt.question.prompt, None, {})))
        counted = answer.prompt_tokens or expected  # not all servers count
        if same[number] and counted != expected:
            same[number] = False
            text = prompt.question.text
            miscounted.append(f"{text!r}: built: {expected} tokens, sent: {counted}")
    if not miscounted:
        return same, []
    problem = f"{len(miscounted)} of {len(same)} prompts have another length than in the build"
    return same, [Fault("prompts", problem, miscounted[:MAX_NAMED], REBUILD_FIX)]


BUNDLE = "retrieve"
"""The format of a bundle of `retrieve.bundle`."""
OWN = ("sources", "prompts", "answers", "lost")


class RetrieveCheck(
    ServerCheck,
    engines=True,
    seeded=False,
    packages=(PACKAGE, "xllamacpp", "bm25s", "PyStemmer"),
):
    """Check the running app of a bundle: its sources, its prompts and its answers.

    The step starts the app of a `retrieve.bundle` with its llama.cpp server, as `finery serve`
    does, and asks it the questions of the rows through its HTTP API.

    - Sources: the chunks that the app shows must be those that the model in the recipe retrieves,
      in the same order.
    - Prompts: the tokens that the server makes of the app's messages must be those that
      `eval.grounded` sends for the GGUF with the same settings, and as many must be counted for
      the answer.
    - Answers: they are judged as by `eval.grounded`, next to those of finery's engine. If
      `max_tokens` is the same, the latter come from the cache. Tables have the paired differences
      and the answers that changed.

    Faults fail the build, each by its name: `sources`, and as in `serve.check`, `template`,
    `thinking`, `prompts` and `sampling`. `allow` names those that are intended.

    Metrics, each from 0 to 1 with a 95 % interval: those of `eval.grounded` in `retrieved`, for the
    app's answers; `sources` and `prompts`, the share of questions with the same ones; `answers`,
    the share of questions with the same answer as by finery's engine; `lost`, the share of
    questions that the engine gets right and the app doesn't.

    Raises DataError for rows without a question, an answer, or a right chunk in the index, and
    StepError if the server can't start, or if the bundle has no GGUF.
    """

    FAILED = "the app doesn't answer as the model in the recipe does"

    models: list[Model] = takes(
        uses_name=True, help="The step of `retrieve.model` that the bundle was made of."
    )
    rows: Dataset = takes(
        help="Questions without documents, with an answer or `expected`, that name their chunk, as "
        "for `eval.grounded`."
    )
    bundle: Bundle = takes(help="A `retrieve.bundle` of the model in `models`, with a GGUF.")
    passing: float = setting(
        0.8, gt=0.0, le=1.0, help="Score from which an answer is right, for `lost`."
    )
    max_tokens: int = longest_answer(256)
    allow: list[FaultKind] = setting(
        [], affects_output=False, help="Faults that don't fail the build, by name."
    )

    def metric_names(self) -> list[str]:
        """The metrics of the app, the headline first."""
        return [*metric_names([CONTEXT]), *OWN]

    def cache_key(self) -> Key:
        """Also the code of the app, which is found by the bundle's format."""
        return super().cache_key() | Key(code=(serve_bundle,))

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        super().check()
        if len(self.models) > 1:
            raise UsageError(
                "an app has one model, but `models` has several",
                where="models",
                fix="name the step of retrieve.model that the bundle was made of",
            )
        require_retrieving(self.models[0], "models")
        if (format_ := self.bundle.meta.get("format", BUNDLE)) != BUNDLE:
            raise UsageError(
                f"a bundle of the format '{format_}' has no app that retrieves",
                where="bundle",
                fix="name a step of retrieve.bundle, or check this bundle with serve.check",
            )

    def examine(self, look: Look) -> None:
        """Raise `DataError` for rows that can't be judged."""
        if look.open("rows") and look.open("models"):
            index = parts_of(self.models[0]).documents
            right_chunks_or_raise(
                read_questions_with_answers(self.rows), index, Retriever.open(index, look.job)
            )

    def run(self, job: Job) -> Metrics:
        """Start the app, compare sources, prompts and answers, write the metrics."""
        (model,) = self.models
        index, under = parts_of(model)
        if under.format != "gguf":
            raise StepError(
                "the model is behind an API, whose server doesn't show its prompts",
                fix="remove this step: the app retrieves and prompts by the model's own code",
            )
        library = Library.of(job, index, read_questions_with_answers(self.rows), model.meta["k"])
        template = ContextPrompt.stored(model.meta["prompt"])
        asked = prompts_of(job, library, template, [CONTEXT])
        limits, engine = Limits(self.max_tokens), job.engine(under)
        prompts = [prompt.messages for prompt in asked]
        evaluated = evaluated_name(model.name)
        answers = {evaluated: generate(limits, job, engine, "finery's answers", prompts)}
        settings = {"max_tokens": self.max_tokens, "temperature": 0}
        trained = prompts_of_app(asked, under)
        questions = [prompt.question for prompt in asked]
        rows = [ComparedPrompt(f"row {q.row['id']}", q.prompt, None) for q in questions]
        asking = ServerQuestions(
            rows, settings, self.slots, lambda _: trained, job, "retrieve.check", edge_cases=False
        )
        (served,) = asking.ask(self.bundle, [model]).values()
        answers[model.name] = served.answers
        sources, source_faults = compare_sources(asked, served.replies)
        alike, length_faults = same_prompts(asked, trained, served)
        faults = {model.name: [*source_faults, *served.faults, *length_faults]}
        job.log(
            f"{model.name}: {sum(sources)} of {len(sources)} questions have the sources of the "
            f"build, and {sum(alike)} its prompt, token for token"
        )
        outcome = Outcome.judge(
            job, library, asked, [CONTEXT], answers, template.unknown, self.passing
        )
        name, measures = model.name, outcome.measures()
        pairs = pairs_of([evaluated, name], measures)
        right = {n: [verdict.is_correct for verdict in of] for n, of in outcome.verdicts.items()}
        compared = ComparedAnswers(name, outcome.answers, right)
        own = {
            "sources": sources,
            "prompts": alike,
            "answers": compared.same(),
            "lost": compared.lost(),
        }
        # They compare the app with the build, so finery's engine has none of them.
        nothing = [None] * outcome.questions
        measures |= {
            metric: measure_over_documents({name: values, evaluated: nothing}, outcome.documents)
            for metric, values in own.items()
        }
        report = Report(
            headline=[metric for metric in (f"{CONTEXT}.answer", *OWN) if metric in measures],
            pairs=pairs,
            references=[evaluated],
            tables=[
                *self.fault_tables(job, faults),
                *tables.pairs_tables(pairs, metric_names([CONTEXT])),
                *compared.tables([q.row for q in questions]),
            ],
            extra=self.extra(faults, {name: served}),
        )
        return outcome.write(job, [name, evaluated], measures, report)
