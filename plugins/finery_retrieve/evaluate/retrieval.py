"""`eval.retrieval`: how often indices retrieve the chunk that answers a question.

Input: questions and indices. Output: the rank of each right chunk, values of each metric, the table
of documents, and a prediction for each question.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import DataError, Dataset, Index, Job, Metrics, UsageError, setting, takes
from finery.advanced import counted
from finery.rows.badrow import BadRow
from finery.rows.report import Report, ReportTable
from finery_eval.evaluation import write_scored
from finery_eval.evaluator import Gate
from finery_eval.measure import pairs_of, scores_of
from finery_eval.predictions import PROMPT_SHOWN
from finery_retrieve.evaluate import tables
from finery_retrieve.evaluate.contexts import read_questions, refuse_bad_rows
from finery_retrieve.evaluate.tables import measure_over_documents
from finery_retrieve.index.retriever import Hit, Retriever
from finery_retrieve.questions import Question, missing_chunk_reasons, right_chunks


def recall(gains: Sequence[bool], right: int, k: int) -> float:
    """The share of the `right` chunks that are among the first k."""
    return sum(gains[:k]) / right


def reciprocal_rank(gains: Sequence[bool], k: int) -> float:
    """1 / the rank of the first right chunk, 0 if none is among the first k.

    Its mean over questions is the MRR. Source: E. M. Voorhees, "The TREC-8 Question Answering Track
    Report" (1999).
    """
    return next((1 / rank for rank, hit in enumerate(gains[:k], 1) if hit), 0.0)


def ndcg(gains: Sequence[bool], right: int, k: int) -> float:
    """The normalised discounted cumulative gain of the first k, with gains of 0 or 1.

    Source: K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM
    Transactions on Information Systems 20 (2002) 422-446, with the discount log2(rank + 1) that is
    usual today.
    """
    ideal = _dcg([True] * min(right, k))
    return _dcg(gains[:k]) / ideal


def _dcg(gains: Sequence[bool]) -> float:
    return math.fsum(1 / math.log2(rank + 1) for rank, hit in enumerate(gains, 1) if hit)


TOP = 3
"""Retrieved chunks that a prediction names."""
MOST_DOCUMENTS = 30
"""Documents in the table of documents, the worst first."""


class Ranked(NamedTuple):
    """The ranking of an index for a question.

    right: the question's right chunks; empty if no chunk of the index contains the full quote.
    gains: see `Question.gains`.
    """

    right: list[Hit]
    hits: list[Hit]
    gains: list[bool]

    @property
    def rank(self) -> int | None:
        """The rank of the first right chunk, from 1; None if none is retrieved."""
        return next((rank for rank, gain in enumerate(self.gains, 1) if gain), None)

    def value(self, metric: str) -> float:
        """The value of a metric such as `recall@5`."""
        name, _, k = metric.partition("@")
        if name == "mrr":
            return reciprocal_rank(self.gains, int(k))
        measure = recall if name == "recall" else ndcg
        return measure(self.gains, max(1, len(self.right)), int(k))


class Rankings(NamedTuple):
    """The rankings of all indices. by_index: its name → its ranking for each question."""

    questions: Sequence[Question]
    by_index: Mapping[str, Sequence[Ranked]]

    @property
    def right(self) -> list[Hit]:
        """The first right chunk of each question, in the first index that has one."""
        return [
            next(each.right[0] for each in of if each.right)
            for of in zip(*self.by_index.values(), strict=True)
        ]

    def values(self, metric: str) -> dict[str, list[float]]:
        """Index → the value of a metric for each question."""
        return {name: [each.value(metric) for each in of] for name, of in self.by_index.items()}


def ranked(job: Job, indices: Sequence[Index], questions: Sequence[Question], k: int) -> Rankings:
    """Search each index for each question. Raises `DataError` for questions without a right chunk.

    A question has to have one in any of the indices. Another index that has none, since it cuts
    the quote apart, misses it. Questions without a quote can't be looked up in an index that lacks
    their chunks, although it may have the answer in others: they are refused.
    """
    retrievers = {index.name: Retriever.open(index, job) for index in indices}

    def located(questions: Sequence[Question]) -> dict[str, list[list[Hit]]]:
        return {i.name: right_chunks(questions, i, retrievers[i.name]) for i in indices}

    right = located(questions)
    _refuse_unlocated(questions, right, indices[0])
    quoted = [
        question._replace(chunks=()) if len(set(map(len, of))) > 1 and max(map(len, of)) > 1
        else question
        for question, *of in zip(questions, *right.values(), strict=True)
    ]  # fmt: skip
    if count := sum(a is not b for a, b in zip(questions, quoted, strict=True)):
        job.log(
            f"{counted(count, 'question')} of several chunks, which not all indices have: only the "
            "chunk with the quote counts"
        )
        questions, right = quoted, located(quoted)
        _refuse_unlocated(questions, right, indices[0])
    texts = [question.text for question in questions]
    by_index: dict[str, list[Ranked]] = {}
    for name, retriever in retrievers.items():
        every = zip(questions, right[name], retriever.search(texts, k), strict=True)
        by_index[name] = [Ranked(of, hits, q.gains(hits, of)) for q, of, hits in every]
        if missing := sum(not of for of in right[name]):
            what = counted(missing, "question")
            job.log(f"{name}: no chunk contains the answer of {what}, counted as missed")
    return Rankings(questions, by_index)


def _refuse_unlocated(
    questions: Sequence[Question], right: Mapping[str, Sequence[Sequence[Hit]]], first: Index
) -> None:
    """Raise `DataError` for questions whose right chunks aren't known in all indices."""
    every = list(zip(questions, *right.values(), strict=True))
    without = [number for number, (_, *of) in enumerate(every) if not any(of)]
    why = missing_chunk_reasons(questions, without, first)
    refuse_bad_rows(
        "some questions have their chunk in no index",
        [(questions[number].row, why[number]) for number in without],
    )
    unlocated = [
        (question.row, _unlocated(question, dict(zip(right, map(len, of), strict=True))))
        for question, *of in every
        if not question.quote and len(set(map(len, of))) > 1
    ]
    refuse_bad_rows("some questions can't be compared between the indices", unlocated)


def _unlocated(question: Question, counts: Mapping[str, int]) -> BadRow:
    """Why it isn't known which chunks of an index answer a question."""
    name = min(counts, key=lambda name: counts[name])
    named = counted(len(set(question.chunks)), "chunk")
    return BadRow(
        f"{name} has {counts[name]} of the {named} that the row names, and the row has no quote",
        "give the rows `quote`, a sentence of the document that is looked up in all indices, or "
        "compare only indices of the chunks that the rows name",
    )


def document_tables(rankings: Rankings, metric: str) -> list[ReportTable]:
    """A metric for the questions about each document, the worst first; none for one document."""
    documents: dict[str, list[int]] = {}
    for number, hit in enumerate(rankings.right):
        documents.setdefault(hit.source, []).append(number)
    if len(documents) < 2:
        return []
    values = rankings.values(metric)
    rows: list[list[Any]] = [
        [source, len(at), *(sum(of[i] for i in at) / len(at) for of in values.values())]
        for source, at in documents.items()
    ]
    rows.sort(key=lambda row: (min(row[2:]), str(row[0])))
    title = f"{metric} by document"
    if len(rows) > MOST_DOCUMENTS:
        title += f", the worst {MOST_DOCUMENTS} of {len(rows):,}"
    units: Any = dict.fromkeys(values, "share")
    columns, shown = ["document", "questions", *values], rows[:MOST_DOCUMENTS]
    return [ReportTable(title, columns, shown, units=units, is_private=True)]


def predictions(rankings: Rankings, metrics: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`: the rank of the right chunk, and what is retrieved.

    Questions about one document are a `group`, as in the intervals.
    """
    for number, (question, right) in enumerate(
        zip(rankings.questions, rankings.right, strict=True)
    ):
        for name, of in rankings.by_index.items():
            yield {
                "id": question.row["id"],
                "model": name,
                "prompt": question.text[:PROMPT_SHOWN],
                "expected": place(right, question.quote),
                "answer": "\n".join(place(hit) for hit in of[number].hits[:TOP]),
                "correct": of[number].rank is not None,
                "rank": of[number].rank,
                "retrieved": [hit.id for hit in of[number].hits],
                "values": {metric: of[number].value(metric) for metric in metrics},
                "group": right.source or right.id,
            }


def place(hit: Hit, quote: str = "") -> str:
    """A chunk in a line: its document, heading, and line or page; with the quote, if given."""
    heading = f" > {hit.heading}" if hit.heading else ""
    where = "".join(f", {name} {number}" for name, number in hit.place.items())
    return f"{hit.source or hit.id}{heading}{where}" + (f': "{quote}"' if quote else "")


class Retrieval(
    Gate,
    engines=True,
    seeded=False,
    packages=("bm25s", "PyStemmer"),
    version="1",
):
    """Measure how often indices retrieve the chunk that a question was made from.

    - `recall@k`: the share of the right chunks that are among the first k. With one right chunk a
      question, it is the share of questions whose chunk is retrieved.
    - `mrr@k`: mean of 1 / the rank of the first right chunk, 0 beyond the largest k (Voorhees
      1999).
    - `ndcg@k`: normalised discounted cumulative gain for the largest k (Järvelin and Kekäläinen
      2002).

    The right chunk of a row is named by `chunk` or `parents`; synth.from_docs writes them. In an
    index without that id, it is the first chunk that contains the row's `quote`, in the document
    `source` if the row names one. So indices with chunks of different sizes can be compared, and
    questions can be written by hand. Another chunk with the same quote, e.g. an overlapping one,
    counts as the right one. Rows without a quote whose chunk an index lacks are refused. Rows
    with `answerable: false` are left out.

    Each metric has a 95 % interval. Questions about one document count together: intervals are
    bootstraps over documents (Efron and Tibshirani 1993), p-values are those of sign flips of
    documents (Fisher 1935, Pitman 1937). If each question is about a different document, shares
    have Wilson's interval, and differences Newcombe's and the exact McNemar test. Every further
    index is compared with the first.

    Raises DataError for rows without a question, or without a right chunk in any index, and for
    those that can't be looked up in all indices.
    """

    indices: list[Index] = takes(
        uses_name=True, help="The indices to compare on the same questions."
    )
    rows: Dataset = takes(help="Questions that name their chunk, e.g. of synth.from_docs.")
    k: list[int] = setting(
        [1, 3, 5, 10], min_length=1, help="Numbers of retrieved chunks to measure the recall of."
    )
    require: dict[str, str] = setting(
        {},
        affects_output=False,
        help="Conditions that the build must meet: <index>.<metric> compared (>=, >, <=, <) with a "
        "share from 0 to 1 or with another metric, or `not worse than` another index `by` a "
        "margin.",
        examples=[{"index.recall@5": ">= 0.9"}],
    )

    def metric_names(self) -> list[str]:
        """The metrics of each index, the recall of the largest k first."""
        *others, deepest = sorted(set(self.k))
        recalls = [f"recall@{k}" for k in (deepest, *others)]
        return [*recalls, f"mrr@{deepest}", f"ndcg@{deepest}"]

    def nouns(self) -> tuple[str, str]:
        """What is judged, in the singular and the plural, for errors."""
        return "index", "indices"

    def more_metrics(self) -> str:
        """How to add the recall of other numbers of chunks."""
        return f"for other numbers of chunks, add them to `k`, which is {self.k}"

    def measured(self) -> dict[str, list[str]]:
        """The indices → their metrics, for `require`."""
        return {index.name: self.metric_names() for index in self.indices}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        names = [index.name for index in self.indices]
        if not names:
            raise UsageError("`indices` is empty", where="indices", fix="name one: [index]")
        if len(set(names)) < len(names):
            raise UsageError("an index is listed twice", where="indices", fix="list each once")
        if min(self.k) < 1:
            raise UsageError(f"k contains {min(self.k)}", where="k", fix="use numbers from 1")
        super().check()

    def run(self, job: Job) -> Metrics:
        """Search the indices, write the metrics."""
        questions = answerable(job, read_questions(self.rows))
        rankings = ranked(job, self.indices, questions, max(self.k))
        documents = [hit.source or hit.id for hit in rankings.right]
        tables.log_clusters(job, documents)
        names = list(rankings.by_index)
        metrics = self._useful_first(job)
        measures = {m: measure_over_documents(rankings.values(m), documents) for m in metrics}
        pairs = pairs_of(names, measures)
        shown = [
            tables.intervals_table("Metrics", names, measures),
            *tables.pairs_tables(pairs, metrics),
            *document_tables(rankings, metrics[0]),
        ]
        report = Report(
            rows=len(questions),
            scores=scores_of(names, measures),
            headline=metrics,
            pairs=pairs,
            tables=shown,
            intervals_cover="the choice of questions only",
            extra={"documents": len(set(documents))},
        )
        return write_scored(job, report, predictions(rankings, metrics))

    def _useful_first(self, job: Job) -> list[str]:
        """The metrics, those last that any order of all chunks has at 100 %."""
        smallest = min(self.indices, key=lambda index: int(index.meta["chunks"]))
        chunks = int(smallest.meta["chunks"])
        whole = [f"recall@{k}" for k in sorted(set(self.k)) if k >= chunks]
        if whole:
            what = f"{smallest.name} has {counted(chunks, 'chunk')}"
            job.log(f"{', '.join(whole)} says nothing about the order of the chunks: {what}")
        others = [metric for metric in self.metric_names() if metric not in whole]
        recalls = [metric for metric in others if metric.startswith("recall")]
        headline = sorted(recalls, key=lambda metric: -int(metric.partition("@")[2]))[:1]
        headline += [metric for metric in others if metric not in headline]
        return [*headline, *whole]


def answerable(job: Job, questions: Sequence[Question]) -> list[Question]:
    """The questions that the documents answer; logs how many others there are."""
    answered = [question for question in questions if question.is_answerable]
    if not answered:
        raise DataError(
            "no row has a question that the documents answer",
            fix="add questions of synth.from_docs, or remove answerable: false",
        )
    others = len(questions) - len(answered)
    if others:
        job.log(f"left out: {counted(others, 'row')} with answerable: false")
    return answered
