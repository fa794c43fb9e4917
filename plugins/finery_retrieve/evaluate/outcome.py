"""The outcome of `eval.grounded`: metrics, tables, and the lines of `predictions.jsonl`.

Input: all prompts, and each model's answers with their verdicts. Output: scores with intervals,
differences between models and between contexts, and what `show` prints.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Job, Metrics
from finery.advanced import counted
from finery.rows.report import Remark, Report, ReportTable
from finery_eval.evaluation import answers_table, write_scored
from finery_eval.measure import Measure, Value, scores_of
from finery_eval.predictions import PROMPT_SHOWN
from finery_eval.verdicts import Answers
from finery_retrieve.citations import (
    MIN_LETTERS,
    CheckedCitations,
    Expected,
    check_citations,
    citations,
    contains,
    occurs,
    one_line,
    strip_citations,
    strip_numbers,
)
from finery_retrieve.evaluate import tables
from finery_retrieve.evaluate.contexts import Context, Library, QuestionInContext
from finery_retrieve.evaluate.tables import measure_over_documents
from finery_retrieve.index.chunks import escape_control_tokens
from finery_retrieve.index.retriever import retrieved_column

_ENDS = " .!。…"
_ARTICLES = {"a", "an", "the"}
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])")
"""Characters of Chinese and Japanese, which are written without spaces."""


def token_f1(answer: str, reference: str) -> float:
    """The F1 of the words that two texts share, without case, punctuation and English articles.

    Citations and the quotes before them don't count. 1 if both have no words.

    Source: P. Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text",
    EMNLP 2016, and its script. Characters of Chinese and Japanese count as words, as in P. Lewis et
    al., "MLQA: Evaluating Cross-lingual Extractive Question Answering", ACL 2020.
    """
    answer_words, reference_words = (
        Counter(_tokens(strip_citations(text))) for text in (answer, reference)
    )
    shared = (answer_words & reference_words).total()
    if not answer_words or not reference_words:
        return float(answer_words == reference_words)
    return 2 * shared / (answer_words.total() + reference_words.total())


def has_expected(answer: str, expected: Expected) -> bool:
    """Whether an answer, without the numbers of its citations, contains all expected texts."""
    return contains(strip_numbers(answer), expected)


def abstains(answer: str, unknown: str) -> bool:
    """Whether an answer states that the documents don't have it: it has `unknown` and cites
    nothing.

    Case, whitespace, the kind of apostrophe and the last punctuation mark don't count. An `unknown`
    of fewer than `MIN_LETTERS` letters, e.g. `No`, must be the complete answer.
    """
    sentence, line = one_line(unknown).strip(_ENDS), one_line(answer)
    if sum(map(str.isalnum, sentence)) < MIN_LETTERS:
        return bool(sentence) and line.strip(_ENDS) == sentence
    return occurs(sentence, line) and not citations(answer)


def _tokens(text: str) -> list[str]:
    letters = "".join(
        c
        for c in one_line(text)
        if not (c in string.punctuation or unicodedata.category(c)[0] == "P")
    )
    return [word for word in _UNSPACED.sub(r" \1 ", letters).split() if word not in _ARTICLES]


class Verdict(NamedTuple):
    """The verdict on an answer.

    values: metric of its context → value; None if the metric doesn't apply. answer: from 0 to 1, if
    an answer is expected. cited: whether it cites the chunk with the answer, and only numbers that
    the prompt has. quoted: whether it quotes, and each quote is in a chunk that it cites. These and
    `answered` apply if the context contains the answer, `abstained` if no answer is expected.
    """

    values: Mapping[str, float | bool | None]
    is_correct: bool
    citations: CheckedCitations
    faults: list[str]


def verdict_on(prompt: QuestionInContext, answer: str, unknown: str, passing: float) -> Verdict:
    """The verdict on an answer. passing: the score from which it counts as correct."""
    has_abstained = abstains(answer, unknown)
    citations = check_citations(answer, [escape_control_tokens(hit.text) for hit in prompt.hits])
    score = None
    if prompt.expects_answer:
        score = 0.0 if has_abstained else _score(prompt, answer)
    is_correct = has_abstained if score is None else score >= passing
    cited = quoted = answered = None
    if prompt.expects_answer and prompt.has_answer:
        right = {n for n, hit in enumerate(prompt.hits, 1) if prompt.question.is_answered_by(hit)}
        cited = not citations.unknown and bool(right & set(citations.cited))
        quoted = citations.quotes > 0 and not citations.unknown and not citations.altered
        answered = not has_abstained
    abstained = None if prompt.expects_answer else has_abstained
    values = {
        "answer": score, "cited": cited, "quoted": quoted, "answered": answered,
        "abstained": abstained,
    }  # fmt: skip
    faults = [*_faults(prompt, score, passing, has_abstained=has_abstained), *citations.faults]
    return Verdict(values, is_correct, citations, faults)


def _score(prompt: QuestionInContext, answer: str) -> float:
    question = prompt.question
    if question.expected:
        return float(has_expected(answer, question.expected))
    return token_f1(answer, question.answer)


def _faults(
    prompt: QuestionInContext, score: float | None, passing: float, *, has_abstained: bool
) -> list[str]:
    if score is None:
        return [] if has_abstained else ["answers, but the documents don't contain the answer"]
    if has_abstained:
        where = "is in the context" if prompt.has_answer else "isn't in the context"
        return [f"doesn't answer; the answer {where}"]
    if score >= passing:
        return []
    if prompt.question.expected:
        return ["lacks an expected text"]
    return [f"shares few words with the expected answer: F1 {score:.2f}"]


METRICS_OF_CONTEXT: Mapping[Context, Sequence[str]] = {
    "none": ("answer",),
    "oracle": ("answer", "cited", "quoted", "answered"),
    "retrieved": ("answer", "cited", "quoted", "answered", "abstained"),
    "distractors": ("abstained",),
}
"""Context → its metrics."""
METRIC_ORDER = (
    "retrieved.answer", "oracle.answer", "none.answer", "distractors.abstained", "retrieved.cited",
    "retrieved.quoted", "retrieved.answered", "retrieved.abstained", "oracle.cited",
    "oracle.quoted", "oracle.answered",
)  # fmt: skip
"""All metrics, the headline first."""
HEADLINE = METRIC_ORDER[:6]
OTHER_METRICS = ("cited", "quoted", "answered", "abstained")
"""The metrics of a context besides `answer`, in the order of the table."""
COMPARED_CONTEXTS: Sequence[tuple[Context, Context]] = (
    ("none", "retrieved"),
    ("retrieved", "oracle"),
)
"""Contexts that each model's answers are compared between: the first, and what is better."""


def metric_names(contexts: Sequence[Context]) -> list[str]:
    """The metrics of some contexts, the headline first."""
    return [name for name in METRIC_ORDER if name.partition(".")[0] in contexts]


class Outcome(NamedTuple):
    """The answers of all models. contexts: those of `prompts`. documents: that of each question.
    answers, verdicts: model → one for each prompt. unknown: the expected answer if the documents
    don't contain it."""

    prompts: Sequence[QuestionInContext]
    contexts: Sequence[Context]
    documents: Sequence[str]
    answers: Answers
    verdicts: Mapping[str, Sequence[Verdict]]
    unknown: str

    @classmethod
    def judge(
        cls, job: Job, library: Library, prompts: Sequence[QuestionInContext],
        contexts: Sequence[Context], answers: Answers, unknown: str, passing: float,
    ) -> "Outcome":  # fmt: skip
        """The outcome of answers. unknown, passing: see `verdict_on`."""
        documents = [library.document(number) for number in range(len(library.questions))]
        tables.log_clusters(job, documents)
        verdicts = {
            name: [
                verdict_on(prompt, answer.text, unknown, passing)
                for prompt, answer in zip(prompts, completions, strict=True)
            ]
            for name, completions in answers.items()
        }
        return cls(prompts, contexts, documents, answers, verdicts, unknown)

    @property
    def questions(self) -> int:
        """The number of prompts."""
        return len(self.documents)

    def measures(self) -> dict[str, Measure]:
        """Metric → its values, for the metrics that apply to any question."""
        measures = dict[str, Measure]()
        for metric in metric_names(self.contexts):
            context, _, name = metric.partition(".")
            values = {model: self._values(model, context, name) for model in self.answers}
            if any(value is not None for column in values.values() for value in column):
                measures[metric] = measure_over_documents(values, self.documents)
        return measures

    def tables(self) -> list[ReportTable]:
        """Each model with each context, and the differences between contexts."""
        rows = [
            [name, context, *self._summary(name, context)]
            for name in self.answers
            for context in self.contexts
        ]
        columns = ["model", "context", "answer", tables.INTERVAL_COLUMN, *OTHER_METRICS]
        units: Any = dict.fromkeys(["answer", *OTHER_METRICS], "share")
        return [ReportTable("By context", columns, rows, units=units), *self._context_tables()]

    def write(
        self, job: Job, names: Sequence[str], measures: Mapping[str, Measure], report: Report
    ) -> Metrics:
        """Write the scores of some models. report: what else there is to say."""
        report.rows, report.scores = self.questions, scores_of(names, measures)
        report.tables += [*citation_table(self), answers_table(self.answers)]
        report.extra = {"documents": len(set(self.documents)), **report.extra}
        return write_scored(job, report, self.predictions(), answers=self.answers)

    def predictions(self) -> Iterator[dict[str, Any]]:
        """A line for each prompt and model."""
        for number, prompt in enumerate(self.prompts):
            for name, answers in self.answers.items():
                answer = answers[number]
                verdict = self.verdicts[name][number]
                question = prompt.question
                expected: Any = self.unknown
                if prompt.expects_answer:
                    expected = list(question.expected) or question.answer
                line: dict[str, Any] = {
                    "id": question.row["id"],
                    "model": name,
                    "context": prompt.context,
                    "prompt": question.text[:PROMPT_SHOWN],
                    "answer": answer.text,
                    "expected": expected,
                    "correct": verdict.is_correct,
                    "score": verdict.values["answer"],
                    "cited": verdict.citations.cited,
                    "retrieved": retrieved_column(prompt.hits),
                    "values": {
                        f"{prompt.context}.{metric}": verdict.values[metric]
                        for metric in METRICS_OF_CONTEXT[prompt.context]
                    },
                }
                if answer.reasoning:
                    line["reasoning"] = answer.reasoning
                if verdict.faults:
                    line["error"] = "; ".join(verdict.faults)
                line["finish_reason"] = answer.finish_reason
                yield {**line, "group": self.documents[prompt.number]}

    def _values(self, model: str, context: str, metric: str) -> list[Value]:
        """A metric of each question with a context."""
        values: list[Value] = [None] * self.questions
        for prompt, verdict in zip(self.prompts, self.verdicts[model], strict=True):
            if prompt.context == context:
                values[prompt.number] = verdict.values[metric]
        return values

    def _summary(self, model: str, context: Context) -> list[Any]:
        """The answer's score, its interval, and `OTHER_METRICS`; None if a metric doesn't apply."""
        values = [
            {model: self._values(model, context, name)} for name in ("answer", *OTHER_METRICS)
        ]
        scores = [measure_over_documents(column, self.documents).score(model) for column in values]
        interval = tables.share_interval(scores[0].interval or ()) if scores[0] else None
        share, *shares = [score.value if score else None for score in scores]
        return [share, interval, *shares]

    def _context_tables(self) -> list[ReportTable]:
        """The answers of each model, compared between contexts on the same questions."""
        differences = []
        context_pairs = [pair for pair in COMPARED_CONTEXTS if set(pair) <= set(self.contexts)]
        for model in self.answers:
            for context_a, context_b in context_pairs:
                values = [
                    self._values(model, context, "answer") for context in (context_a, context_b)
                ]
                measure = measure_over_documents(
                    dict(zip((context_a, context_b), values, strict=True)), self.documents
                )
                difference = measure.difference(context_a, context_b)
                if difference is not None:
                    differences.append((model, f"{context_b} − {context_a}", difference))
        if not differences:
            return []
        columns = ["model", "answer"]
        return [tables.differences_table("Contexts compared", columns, differences)]


def citation_table(outcome: Outcome) -> list[ReportTable]:
    """How many answers cite and quote, and how many citations and quotes are wrong."""
    rows = []
    for model, verdicts in outcome.verdicts.items():
        for context in outcome.contexts:
            citations = [
                verdict.citations
                for prompt, verdict in zip(outcome.prompts, verdicts, strict=True)
                if prompt.context == context
            ]
            counts = [
                sum(bool(answer.cited) for answer in citations),
                sum(len(answer.unknown) for answer in citations),
                sum(answer.quotes for answer in citations),
                sum(len(answer.altered) for answer in citations),
            ]
            if counts[0]:
                rows.append([model, context, len(citations), *counts])
    columns = ["model", "context", "answers", "citing", "unknown [n]", "quotes", "altered"]
    return [ReportTable("Citations", columns, rows)] if rows else []


def overlap_remarks(outcome: Outcome) -> list[Remark]:
    """A remark where answers are judged by the words that they share with the expected one."""
    by_words = {
        prompt.number
        for prompt in outcome.prompts
        if prompt.question.is_answerable and not prompt.question.expected
    }
    if not by_words:
        return []
    questions = f"{len(by_words):,} of {counted(outcome.questions, 'question')}"
    text = (
        f"the answers to {questions} are judged by the words that they share with the row's answer"
    )
    advice = (
        "A wrong number or name lowers such a score only a little. Give rows `expected`: the texts "
        "that a right answer contains."
    )
    return [Remark(text, advice)]
