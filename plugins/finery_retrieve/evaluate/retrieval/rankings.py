"""Rankings that indices retrieve for questions: their metrics, and their display.

Input: questions and indices. Output: the rank of each right chunk, values of each metric, the table
of documents, and a prediction for each question.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Index, Job
from finery.rows.badrow import BadRow
from finery.util.text import counted
from finery_eval.predictions import PROMPT_SHOWN
from finery_eval.tables import table
from finery_retrieve.evaluate.retrieval.gains import ndcg, recall, reciprocal_rank
from finery_retrieve.evaluate.rows import refuse_rows
from finery_retrieve.index.retriever import Hit, Retriever
from finery_retrieve.missing import reasons
from finery_retrieve.questions import Question, right_chunks

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
    why = reasons(questions, without, first)
    refuse_rows(
        "some questions have their chunk in no index",
        [(questions[number].row, why[number]) for number in without],
    )
    unlocated = [
        (question.row, _unlocated(question, dict(zip(right, map(len, of), strict=True))))
        for question, *of in every
        if not question.quote and len(set(map(len, of))) > 1
    ]
    refuse_rows("some questions can't be compared between the indices", unlocated)


def _unlocated(question: Question, counts: Mapping[str, int]) -> BadRow:
    """Why it isn't known which chunks of an index answer a question."""
    name = min(counts, key=lambda name: counts[name])
    named = counted(len(set(question.chunks)), "chunk")
    return BadRow(
        f"{name} has {counts[name]} of the {named} that the row names, and the row has no quote",
        "give the rows `quote`, a sentence of the document that is looked up in all indices, or "
        "compare only indices of the chunks that the rows name",
    )


def document_tables(rankings: Rankings, metric: str) -> list[dict[str, Any]]:
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
    return [table(title, ["document", "questions", *values], rows[:MOST_DOCUMENTS], units=units)]


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
