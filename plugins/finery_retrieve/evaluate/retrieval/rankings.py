"""What indices retrieve for questions: rankings, their metrics, and what `show` prints of them.

In go questions and indices, out come the rank of each right chunk, values of each metric, the table
of documents, and a prediction for each question.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery import Index, Job, counted
from finery_eval.evaluator import PROMPT_SHOWN, table
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
    """What an index retrieves for a question.

    right: the question's right chunks; none where the index has no whole one. gains: see
    `Question.gains`.
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
    the quote apart, misses it.
    """
    texts = [question.text for question in questions]
    by_index: dict[str, list[Ranked]] = {}
    for index in indices:
        retriever = Retriever.open(index, job)
        right = right_chunks(questions, index, retriever)
        by_index[index.name] = [
            Ranked(of, hits, question.gains(hits, of))
            for question, of, hits in zip(questions, right, retriever.search(texts, k), strict=True)
        ]
    every = enumerate(zip(*by_index.values(), strict=True))
    without = [number for number, of in every if not any(each.right for each in of)]
    why = reasons(questions, without, indices[0])
    refuse_rows(
        "some questions have their chunk in no index",
        [(questions[number].row, why[number]) for number in without],
    )
    for name, of in by_index.items():
        if missing := sum(not each.right for each in of):
            what = counted(missing, "question")
            job.log(f"{name}: no chunk contains the answer of {what}, counted as missed")
    return Rankings(questions, by_index)


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


def predictions(rankings: Rankings) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`: the rank of the right chunk, and what is retrieved."""
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
            }


def place(hit: Hit, quote: str = "") -> str:
    """A chunk in a line: its document, heading, and line or page; with the quote, if given."""
    heading = f" > {hit.heading}" if hit.heading else ""
    where = "".join(f", {name} {number}" for name, number in hit.place.items())
    return f"{hit.source or hit.id}{heading}{where}" + (f': "{quote}"' if quote else "")
