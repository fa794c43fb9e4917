"""`eval.grounded`: answers from the right document, from retrieved or other ones, and from none.

Input: questions, an index and models. Output: verdicts on each answer, and the effect of each
context.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from finery import (
    Completion,
    Dataset,
    File,
    Index,
    Job,
    Look,
    Metrics,
    Step,
    UsageError,
    nested_step,
    setting,
    takes,
)
from finery.rows import TURN_COLUMNS, Row
from finery.rows.report import Remark, Report, Scores
from finery_eval.asking import ask_each, generate
from finery_eval.evaluator import Judge, longest_answer
from finery_eval.measure import Value, pairs_of
from finery_eval.nested import Nested
from finery_retrieve.evaluate import tables
from finery_retrieve.evaluate.contexts import (
    CONTEXTS,
    Context,
    Library,
    QuestionInContext,
    prompts_of,
    read_questions_with_answers,
    right_chunks_or_raise,
)
from finery_retrieve.evaluate.outcome import HEADLINE, Outcome, metric_names, overlap_remarks
from finery_retrieve.evaluate.tables import measure_over_documents
from finery_retrieve.formats import require_answering, require_counts
from finery_retrieve.index.context import UNKNOWN, ContextPrompt, check_unknown
from finery_retrieve.index.retriever import Retriever

CONTEXT: Context = "retrieved"
"""The context whose answers are judged: what the model is shipped with."""


class JudgedAnswers(NamedTuple):
    """values: metric → model → its value for each question. remarks: on the judge.

    more: scores that aren't values of questions, see `Report`.
    """

    values: Mapping[str, Mapping[str, Sequence[Value]]] = {}
    remarks: Sequence[Remark] = ()
    more: Scores = {}


def check_judge(judge: Nested, contexts: Sequence[Context], own_metrics: Sequence[str]) -> None:
    """Raise `UsageError` for an evaluator that can't be used. own_metrics: those without it."""
    if CONTEXT not in contexts:
        raise UsageError(
            f"the judge judges answers with the context `{CONTEXT}`, which `contexts` lacks",
            where=judge.setting,
            fix=f"add {CONTEXT} to contexts, or remove `{judge.setting}`",
        )
    used_names = [
        name.removeprefix(f"{CONTEXT}.") for name in own_metrics if name.startswith(f"{CONTEXT}.")
    ]
    judge.check(slices=False, taken=used_names)


def make_judge(
    job: Job, judge: Nested | None, prompts: Sequence[QuestionInContext], questions: int
) -> Callable[[Mapping[str, Sequence[Completion]]], JudgedAnswers]:
    """Read what the evaluator judges; the result judges answers. questions: their number.

    Only answers to answerable questions are judged. The evaluator sees the whole prompt with its
    documents, and the row's answer. Its shares of answers become metrics, and so do means over
    answers; others, such as an F1 of classes, are left out.
    """
    places = [
        i for i, prompt in enumerate(prompts) if prompt.context == CONTEXT and prompt.expects_answer
    ]
    if judge is None or not places:
        return lambda answers: JudgedAnswers()
    rows: list[Row] = []
    for prompt in (prompts[i] for i in places):
        answer = prompt.question.answer
        reply = [{"role": "assistant", "content": answer}] if answer else []
        columns = {n: v for n, v in prompt.question.row.items() if n not in TURN_COLUMNS}
        rows.append({**columns, "messages": [*prompt.messages, *reply]})
    judge_rows = judge.judging(job, rows)
    numbers = [prompts[i].number for i in places]

    def judge_answers(answers: Mapping[str, Sequence[Completion]]) -> JudgedAnswers:
        verdicts = judge_rows(
            {name: [completions[i] for i in places] for name, completions in answers.items()}
        )
        values: dict[str, dict[str, Sequence[Value]]] = {}
        for metric, measure in verdicts.measures(None).items():
            columns = {name: measure.by_row(name) for name in verdicts.judged}
            if None not in columns.values():
                column_values = {
                    n: dict(zip(numbers, column_of_name or (), strict=True))
                    for n, column_of_name in columns.items()
                }
                values[f"{CONTEXT}.{metric}"] = {
                    name: [column.get(i) for i in range(questions)]
                    for name, column in column_values.items()
                }
        other_scores: Scores = {}
        for name, scores in verdicts.report.more.items():
            prefix = f"{CONTEXT}." if name in verdicts.judged else ""
            other_scores[name] = {f"{prefix}{metric}": score for metric, score in scores.items()}
        return JudgedAnswers(values, verdicts.report.remarks, other_scores)

    return judge_answers


class Grounded(
    Judge,
    engines=True,
    packages=("bm25s", "PyStemmer"),
    version="1",
    rehearsal={"max_tokens": 8},
):
    """Judge answers with four kinds of context: what a model knows, and what documents add.

    - `none`: the question alone.
    - `oracle`: the right chunk alone, as if retrieval were perfect.
    - `retrieved`: the first `k` chunks that the index retrieves.
    - `distractors`: the first `k` that don't contain the answer. The model should say `unknown`.

    Metrics, each from 0 to 1, e.g. `retrieved.answer`:
    - `answer`: with `expected` texts in the row, the share of answers that contain them all, as
      whole words. Else the mean F1 of the words that the answer shares with the row's (Rajpurkar et
      al. 2016), without citations and quotes. An answer that abstains has 0.
    - `cited`: the share of answers that cite the chunk with the answer, and no number that isn't in
      the prompt. Counted where the context contains the answer, as are the next two.
    - `quoted`: the share of answers with a quote before a citation, all of them word for word in
      a chunk that is cited right after them.
    - `answered`: the share of answers that don't abstain.
    - `abstained`: the share of answers that abstain if the documents don't contain the answer:
      with `distractors`, and in `retrieved` for rows with `answerable: false`.

    An answer abstains if it contains `unknown` and cites nothing. An `unknown` of fewer than 8
    letters must be the whole answer.

    Each metric has a 95 % interval. Questions about one document count together: intervals are
    bootstraps over documents (Efron and Tibshirani 1993), p-values are those of sign flips of
    documents (Fisher 1935, Pitman 1937). If each question is about a different document, shares
    have Wilson's interval, and differences Newcombe's and the exact McNemar test. Prompts are those
    of `retrieve.model` with the same settings.

    Raises DataError for rows without a question, an answer, or a right chunk in the index.
    """

    rows: Dataset = takes(
        help="Questions without documents, with an answer or `expected`, that name their chunk, "
        "e.g. of synth.from_docs with `context: without`."
    )
    judge: Step | None = nested_step(
        "evaluate",
        given={"models": "models", "rows": "rows"},
        help="An evaluator that also judges the answers in `retrieved`, e.g. {use: eval.judge, "
        "judge: critic, rubric: …}. It sees the documents and the row's answer. Its metrics are "
        "added, e.g. `retrieved.passed`.",
    )
    index: Index = takes(help="The documents, indexed by `retrieve.index`.")
    k: int = setting(4, ge=1, help="How many chunks to retrieve for each question.")
    prompt: File | None = setting(
        None, help="Jinja template of the prompts with a context, as in `retrieve.model`."
    )
    limit: int | None = setting(
        None, ge=1, help="Maximum tokens of all chunks in a prompt, as in `retrieve.model`."
    )
    unknown: str = setting(
        UNKNOWN, min_length=1, help="The expected answer if the documents don't contain it."
    )
    contexts: list[Context] = setting(
        list(CONTEXTS), min_length=1, help="The contexts that each question is asked with."
    )
    passing: float = setting(
        0.8,
        gt=0.0,
        le=1.0,
        help="Score from which an answer isn't listed as wrong. Changes no metric.",
    )
    max_tokens: int = longest_answer(256)
    temperature: float = setting(
        0.0, ge=0.0, help="Sampling temperature. 0 always takes the most likely token."
    )

    def metric_names(self) -> list[str]:
        """The metrics of each model, the headline first."""
        own, judge = metric_names(self.contexts), self._judge()
        names = judge.evaluator.metric_names() if judge else []
        return [*own, *(f"{CONTEXT}.{name}" for name in names)]

    def more_metrics(self) -> str:
        """How to add further metrics."""
        others = [context for context in CONTEXTS if context not in self.contexts]
        return f"add a context: {', '.join(others)}" if others else ""

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        check_unknown(self.unknown)
        require_counts(self.index, self.limit)
        if len(set(self.contexts)) < len(self.contexts):
            raise UsageError("a context is listed twice", where="contexts", fix="list each once")
        super().check()
        if judge := self._judge():
            check_judge(judge, self.contexts, metric_names(self.contexts))
        for model in self.models:
            require_answering(model, "models")

    def _judge(self) -> Nested | None:
        return Nested.of(self, "judge")

    def examine(self, look: Look) -> None:
        """Raise errors for an empty or invalid template, and for rows that can't be judged."""
        self._template()
        if look.open("rows") and look.open("index"):
            retriever = Retriever.open(self.index, look.job)
            right_chunks_or_raise(read_questions_with_answers(self.rows), self.index, retriever)

    def run(self, job: Job) -> Metrics:
        """Get the answers with each context, judge them, write the metrics."""
        library = Library.of(job, self.index, read_questions_with_answers(self.rows), self.k)
        asked = prompts_of(job, library, self._template(), self.contexts)
        judge = make_judge(job, self._judge(), asked, len(library.questions))
        prompts = [prompt.messages for prompt in asked]
        answers = ask_each(
            self, job, self.models,
            lambda engine, name: generate(self, job, engine, name, prompts),
        )  # fmt: skip
        outcome = Outcome.judge(
            job, library, asked, self.contexts, answers, self.unknown, self.passing
        )
        verdicts, names, measures = judge(answers), list(answers), outcome.measures()
        judged = {
            metric: measure_over_documents(values, outcome.documents)
            for metric, values in verdicts.values.items()
        }
        measures |= judged
        pairs = pairs_of(names, measures)
        headline = [*(name for name in HEADLINE if name in measures), *list(judged)[:1]]
        report = Report(
            headline=headline,
            pairs=pairs,
            tables=[
                *outcome.tables(),
                *tables.pairs_tables(pairs, headline),
                *([tables.intervals_table("Judged", names, judged)] if judged else []),
            ],
            more=verdicts.more,
            remarks=[*overlap_remarks(outcome), *verdicts.remarks],
        )
        return outcome.write(job, names, measures, report)

    def _template(self) -> ContextPrompt:
        return ContextPrompt.of(self.prompt, unknown=self.unknown, limit=self.limit)
