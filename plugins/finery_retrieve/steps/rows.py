"""`retrieve.rows`: rows with retrieved context in their prompts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from finery import Count, DataError, Dataset, Forecast, Job, takes
from finery.rows import Row, Turns, split_turns, with_turns
from finery.rows.parts import changed, named, read
from finery_retrieve.index.context import (
    ContextStep,
    Lookup,
    Prompted,
    check_limit,
    check_question,
)
from finery_retrieve.index.retriever import Retriever
from finery_retrieve.questions import listed

WINDOW = 256
"""Rows whose questions are looked up together."""


class RowsForecast(Forecast["RetrieveRows"]):
    """As many as there are questions."""

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """The number of the rows that it takes."""
        return next(iter(taken.get("rows", ())), None)


class RetrieveRows(
    ContextStep,
    sections=("data", "generate"),
    seeded=False,
    engines=True,
    packages=("bm25s", "PyStemmer"),
    forecast=RowsForecast,
):
    """Retrieve documents for the last user turn of each row, and put them into the prompt.

    The column `retrieved` lists the chunks in the prompt, in its order. A training on these rows
    sees the prompts that `retrieve.model` makes with the same settings.
    """

    rows: Dataset = takes(help="Rows with questions.")

    def run(self, job: Job) -> Dataset:
        """Write the rows, in their order."""
        prompt = self.template()
        lookup = Lookup(Retriever.open(self.index, job), prompt, self.k)
        counts = {"without_documents": 0, "limited": 0}
        emptied = 0

        def rows() -> Iterator[Row]:
            nonlocal emptied
            for row, prompted in _prompted(lookup, read(job, [self.rows])):
                counts["without_documents"] += not prompted.hits
                counts["limited"] += prompted.left_out > 0
                emptied += prompted.left_out > 0 and not prompted.hits
                yield _with_context(row, prompted)

        dataset = Dataset.write(job.out, rows())
        without = counts["without_documents"] - emptied  # nothing was retrieved for them
        check_limit(emptied, len(dataset) - without, self.limit, job)
        if count := counts["without_documents"]:
            job.log(f"{count:,} of {len(dataset):,} prompts contain no documents")
        if count := counts["limited"]:
            job.log(
                f"{count:,} of {len(dataset):,} prompts contain fewer chunks than were found: "
                f"limit is {self.limit or 0:,} tokens"
            )
        dataset.meta |= {"format": "retrieved", "k": self.k, **counts}
        return dataset


def _prompted(lookup: Lookup, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[Row, Prompted]]:
    """Each row with its prompt."""
    stream = iter(rows)
    while window := list(islice(stream, WINDOW)):
        conversations = [split_turns(row)[0] for _, row in window]
        for (number, row), conversation in zip(window, conversations, strict=True):
            _refuse_retrieved(row, named(number, row))
            check_question(conversation, named(number, row))
        prompts = lookup.prompts(conversations)
        yield from zip((row for _, row in window), prompts, strict=True)


def _refuse_retrieved(row: Row, where: str) -> None:
    """Raise `DataError` for a row whose last user turn is a prompt with documents, no question."""
    if row.get("retrieved") is not None:
        raise DataError(
            "the row's prompt already contains retrieved documents",
            where=where,
            fix="use the questions that it was made of, from before retrieve.rows or synth.raft",
        )


def _with_context(row: Row, prompted: Prompted) -> Row:
    turns = Turns.of(row)._replace(prompt=prompted.messages)
    return changed(row, {**with_turns(row, turns), "retrieved": listed(prompted.hits)})
