"""How many tokens the chunks of an index have, by the tokenizer of a model."""

from array import array
from collections.abc import Iterable, Iterator, Mapping
from statistics import median_low
from typing import Any

import msgspec

from finery import Model, load_reference
from finery_retrieve.index.chunks import Chunk
from finery_retrieve.index.control import plain

LOADING = "finery_transformers.loading"
"""By name, since only an index with a tokenizer has its code in the key."""
BATCH = 512
"""Most chunks that are tokenized at once."""
CHARACTERS = 2**20
"""Characters from which on fewer chunks are a batch."""


def in_words(facts: Mapping[str, int], name: str) -> str:
    """The facts of `TokenCounts`. name: of the model with the tokenizer."""
    return f"median {facts['median']:,}, longest {facts['longest']:,} (tokenizer of {name})"


class TokenCounts:
    """Counts the tokens of chunks, and holds four bytes for each chunk.

    Raises `StepError` for a model whose tokenizer can't be loaded.
    """

    def __init__(self, model: Model) -> None:
        self._tokenizer: Any = load_reference(f"{LOADING}:load_tokenizer")(model)
        self._counts = array("I")

    def counted(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The chunks, each with the tokens of its text as prompts contain it.

        Without the special tokens that a tokenizer adds around a text.
        """
        for batch in _batches(chunks):
            for chunk, count in zip(batch, self._count(batch), strict=True):
                self._counts.append(count)
                yield msgspec.structs.replace(chunk, tokens=count)

    def facts(self) -> dict[str, int]:
        """The median, the most and the sum of the counts so far, of which there is at least one."""
        counts = self._counts
        return {"median": median_low(counts), "longest": max(counts), "total": sum(counts)}

    def _count(self, chunks: list[Chunk]) -> list[int]:
        encoded = self._tokenizer(
            [plain(chunk.text) for chunk in chunks],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [len(ids) for ids in encoded["input_ids"]]


def _batches(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    batch, characters = list[Chunk](), 0
    for chunk in chunks:
        batch.append(chunk)
        characters += len(chunk.text)
        if len(batch) == BATCH or characters >= CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
