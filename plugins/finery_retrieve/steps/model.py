"""`retrieve.model` and `retrieve.rows`: prompts with documents, for a model and as rows."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice

import msgspec

from finery import (
    DataError,
    Dataset,
    EngineJob,
    Forecast,
    Inputs,
    Job,
    Model,
    Promise,
    Request,
    takes,
)
from finery.rows import Conversation, Row, Turns, split_turns, with_turns
from finery.rows.parts import read_numbered, replace_content, row_label
from finery_prompt.engine import WrappingEngine
from finery_retrieve.formats import RETRIEVING, require_answering
from finery_retrieve.index.context import ContextStep, Lookup, Prompted, check_limit, check_question
from finery_retrieve.index.retriever import Retriever, retrieved_column


class RetrieveModel(ContextStep, sections=("models",), seeded=False):
    """Retrieve documents for the last user turn of each prompt, and answer from them.

    The result is a model like any other: evaluators judge it, and compare it with the model without
    documents. Its prompts are those of `retrieve.rows` with the same settings.
    """

    model: Model = takes(help="The model that answers.")

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format for the checks of steps that take it."""
        return {"": Promise(Model, {"format": RETRIEVING})}

    def check(self) -> None:
        """Raise `UsageError` for settings and models that can't work. Light: reads no input."""
        super().check()
        require_answering(self.model, "model")

    def run(self, job: Job) -> Model:
        """Describe the model. Nothing is retrieved yet."""
        meta = {"format": RETRIEVING, "k": self.k, "prompt": self.template().facts()}
        return Model(job.out, meta=meta, refs={"model": self.model, "index": self.index})


REMEMBERED = 2_048
"""Prompts that are remembered between forming batches and answering them."""


class RetrievingEngine(WrappingEngine):
    """Puts documents into the last user turn of each conversation."""

    packages = ("bm25s", "PyStemmer")

    def __init__(self, model: Model, job: EngineJob) -> None:
        super().__init__(model, job)
        self._prompts: OrderedDict[bytes, Conversation] = OrderedDict()
        self._has_logged_limit = False

    def complete(self, requests: Sequence[Request]) -> list[Request]:
        """The requests with documents in their prompts."""
        keys = [msgspec.json.encode(request.messages) for request in requests]
        new = {
            key: request.messages
            for key, request in zip(keys, requests, strict=True)
            if key not in self._prompts
        }
        for key, prompted in zip(new, self._lookup.prompts([*new.values()]), strict=True):
            self._prompts[key] = prompted.messages
            if prompted.left_out and not self._has_logged_limit:
                self._has_logged_limit = True
                limit = self.model.meta["prompt"]["limit"]
                self.job.log(
                    f"prompts contain fewer chunks than were found: limit is {limit:,} tokens"
                )
        prompts = [self._prompts[key] for key in keys]
        while len(self._prompts) > REMEMBERED:
            self._prompts.popitem(last=False)
        return [
            msgspec.structs.replace(request, messages=messages)
            for request, messages in zip(requests, prompts, strict=True)
        ]

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup.of(self.model, self.job)


WINDOW = 256
"""Rows whose questions are looked up together."""


class RetrieveRows(
    ContextStep,
    sections=("data", "generate"),
    seeded=False,
    engines=True,
    packages=("bm25s", "PyStemmer"),
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
            for row, prompted in _prompted(lookup, read_numbered(job, [self.rows])):
                counts["without_documents"] += not prompted.hits
                counts["limited"] += prompted.left_out > 0
                emptied += prompted.left_out > 0 and not prompted.hits
                turns = Turns.of(row)._replace(prompt=prompted.messages)
                yield replace_content(
                    row, {**with_turns(row, turns), "retrieved": retrieved_column(prompted.hits)}
                )

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

    def forecast(self, inputs: Inputs) -> Forecast:
        """As many rows as there are questions."""
        return Forecast(rows=lambda: inputs.count("rows"))


def _prompted(lookup: Lookup, rows: Iterable[tuple[int, Row]]) -> Iterator[tuple[Row, Prompted]]:
    """Each row with its prompt."""
    stream = iter(rows)
    while window := list(islice(stream, WINDOW)):
        conversations = [split_turns(row)[0] for _, row in window]
        for (number, row), conversation in zip(window, conversations, strict=True):
            where = row_label(number, row)
            if row.get("retrieved") is not None:
                raise DataError(
                    "the row's prompt already contains retrieved documents",
                    where=where,
                    fix="use the questions that it was made of, from before retrieve.rows or "
                    "synth.raft",
                )
            check_question(conversation, row_label(number, row))
        prompts = lookup.prompts(conversations)
        yield from zip((row for _, row in window), prompts, strict=True)
