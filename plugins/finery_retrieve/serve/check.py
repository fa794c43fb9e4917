"""`retrieve.check`: start the app of a bundle, and compare its answers with those of the build."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from finery import (
    Bundle,
    Completion,
    Dataset,
    Job,
    Look,
    Metrics,
    Model,
    StepError,
    UsageError,
    setting,
    takes,
)
from finery.rows import Conversation
from finery.rows.difference import text_difference
from finery.rows.report import Report
from finery_eval.asking import Limits, generate
from finery_eval.evaluator import longest_answer
from finery_eval.measure import pairs_of
from finery_gguf.llama import PACKAGE, Gguf
from finery_gguf.prompts import model_template, tokenize
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
from finery_serve.check.answers import answers_of, completion_of
from finery_serve.check.server_check import (
    EVALUATED,
    FAULTS,
    ServerCheck,
    changed_tables,
    fault_tables,
    lost_answers,
    same_answers,
)
from finery_serve.client import Client
from finery_serve.servers import Fault, Prompt, Serving


class ServedAnswer(NamedTuple):
    """The app's intermediate results for a question.

    sources: ids of the chunks, in the order of their labels. messages, prompt: what it sends to the
    model, and the tokens that llama.cpp's server makes of them.
    """

    sources: list[str]
    messages: Conversation
    prompt: Prompt
    answer: Completion


class AppAnswers(NamedTuple):
    """The answers of a running app. build: of the server. faults: of the way it was started."""

    served: list[ServedAnswer]
    build: str
    faults: list[Fault]


def ask_app(
    bundle: Bundle,
    prompts: Sequence[QuestionInContext],
    settings: Mapping[str, Any],
    slots: int,
    job: Job,
) -> AppAnswers:
    """Start the app of a bundle with its llama.cpp server, and ask it every question.

    settings: of each request, e.g. `max_tokens`. slots: requests at once. Raises as `serve_bundle`,
    and `StepError` for a question that has no answer.
    """
    key = secrets.token_urlsafe(24)
    job.progress(0, len(prompts), "starting the app")
    with serve_bundle(bundle, Serving(name="app", key=key, checked=True)) as running:
        if (llama := running.llama) is None:
            raise StepError(
                "the bundle has no GGUF, but the model has one",
                fix="build the bundle again, of the model in `models`",
            )
        job.log(f"{running.build}, answers as {running.names[0]}")
        questions = [prompt.question for prompt in prompts]
        settings = {"model": running.names[0], **settings}
        answers = answers_of(
            Client(running.address, key),
            [(f"row {q.row['id']}", {"messages": q.prompt, **settings}) for q in questions],
            slots,
            lambda done: job.progress(done, len(prompts), "the app's answers"),
        )
        served_answers = []
        for question, answer in zip(questions, answers, strict=True):
            messages, _ = running.prompted(question.prompt)
            prompt = llama.prompt({"messages": messages})
            sources = [str(source["id"]) for source in answer["sources"]]
            served_answers.append(ServedAnswer(sources, messages, prompt, completion_of(answer)))
        return AppAnswers(served_answers, running.build, llama.faults())


Kind = Literal["sources", "prompts", "sampling"]
REBUILD_FIX = "build the bundle again, of the model in `models`"


class AppComparison(NamedTuple):
    """Whether the app's results are the same for each question."""

    sources: list[bool]
    prompts: list[bool]
    faults: list[Fault]


def compare_app(
    questions: Sequence[QuestionInContext], served: Sequence[ServedAnswer], gguf_model: Model
) -> AppComparison:
    """Compare sources and prompts. gguf_model: the GGUF that answers.

    A prompt is the same if its tokens are, and if the server counted as many when it answered.
    """
    gguf = Gguf(gguf_file(gguf_model), vocab_only=True)
    template = model_template(gguf, gguf_model)
    expected = [Prompt(*tokenize(gguf, template, prompt.messages)[:2]) for prompt in questions]
    sources = [
        [hit.id for hit in prompt.hits] == answer.sources
        for prompt, answer in zip(questions, served, strict=True)
    ]
    prompts = [*map(_is_same, expected, questions, served)]
    faults = []
    if not all(sources):
        index = sources.index(False)
        details = [
            f"for example {questions[index].question.text!r}:",
            f"built: {', '.join(hit.id for hit in questions[index].hits) or 'none'}",
            f"app:   {', '.join(served[index].sources) or 'none'}",
        ]
        counts = (
            f"{sources.count(False)} of {len(sources)} questions have other sources than in the "
        )
        faults.append(Fault("sources", f"{counts}build", details, REBUILD_FIX))
    if not all(prompts):
        index = prompts.index(False)
        expected_prompt, served_prompt = expected[index], served[index].prompt
        details = text_difference(("built:", "app:"), expected_prompt.text, served_prompt.text)
        if expected_prompt.text == served_prompt.text:
            sent_tokens = served[index].answer.prompt_tokens
            details = [
                f"built: {len(expected_prompt.tokens)} tokens, app: {len(served_prompt.tokens)}, "
                f"sent: {sent_tokens}"
            ]
        counts = f"{prompts.count(False)} of {len(prompts)} prompts differ from those of the build"
        example = f"for example {questions[index].question.text!r}:"
        faults.append(Fault("prompts", counts, [example, *details], REBUILD_FIX))
    return AppComparison(sources, prompts, faults)


def _is_same(expected: Prompt, question: QuestionInContext, served: ServedAnswer) -> bool:
    token_count = served.answer.prompt_tokens or len(expected.tokens)  # not all servers count
    return (
        served.messages == question.messages
        and served.prompt.tokens == expected.tokens
        and token_count == len(expected.tokens)
    )


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

    Faults fail the build, each by its name: `sources`, `prompts` and `sampling` (the server doesn't
    answer greedily). `allow` names those that are intended.

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
    slots: int = setting(1, ge=1, help="Requests that are sent to the app at once.")
    passing: float = setting(
        0.8, gt=0.0, le=1.0, help="Score from which an answer is right, for `lost`."
    )
    max_tokens: int = longest_answer(256)
    allow: list[Kind] = setting(
        [], affects_output=False, help="Faults that don't fail the build, by name."
    )

    def metric_names(self) -> list[str]:
        """The metrics of the app, the headline first."""
        return [*metric_names([CONTEXT]), *OWN]

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
        evaluated = EVALUATED.format(model.name)
        answers = {evaluated: generate(limits, job, engine, "finery's answers", prompts)}
        settings = {"max_tokens": self.max_tokens, "temperature": 0}
        app = ask_app(self.bundle, asked, settings, self.slots, job)
        answers[model.name] = [served.answer for served in app.served]
        same = compare_app(asked, app.served, under)
        faults = {model.name: [*same.faults, *app.faults]}
        sources, prompts_alike = sum(same.sources), sum(same.prompts)
        job.log(
            f"{model.name}: {sources} of {len(same.sources)} questions have the sources of the "
            f"build, and {prompts_alike} its prompt, token for token"
        )
        outcome = Outcome.judge(
            job, library, asked, [CONTEXT], answers, template.unknown, self.passing
        )
        return self._write(job, outcome, same, faults, {model.name: app.build})

    def _write(
        self,
        job: Job,
        outcome: Outcome,
        same: AppComparison,
        faults: Mapping[str, Sequence[Fault]],
        servers: Mapping[str, str],
    ) -> Metrics:
        evaluated, name = outcome.answers
        measures = outcome.measures()
        pairs = pairs_of([evaluated, name], measures)
        right = {n: [verdict.is_correct for verdict in of] for n, of in outcome.verdicts.items()}
        own = {
            "sources": same.sources,
            "prompts": same.prompts,
            "answers": same_answers(*outcome.answers.values()),
            "lost": lost_answers(name, right),
        }
        # They compare the app with the build, so finery's engine has none of them.
        nothing = [None] * outcome.questions
        measures |= {
            metric: measure_over_documents({name: values, evaluated: nothing}, outcome.documents)
            for metric, values in own.items()
        }
        rows = [prompt.question.row for prompt in outcome.prompts]
        report = Report(
            headline=[metric for metric in (f"{CONTEXT}.answer", *OWN) if metric in measures],
            pairs=pairs,
            references=[evaluated],
            tables=[
                *fault_tables(job, faults),
                *tables.pairs_tables(pairs, metric_names([CONTEXT])),
                *changed_tables(name, rows, outcome.answers, right),
            ],
            extra={FAULTS: faults, "servers": servers},
        )
        return outcome.write(job, [name, evaluated], measures, report)
