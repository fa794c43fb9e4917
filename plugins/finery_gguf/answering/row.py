"""A row to answer, and its raw answer."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from blake3 import blake3

from finery import Sampling


class Row(NamedTuple):
    """A row to answer. prefix: its first tokens that other rows may share. size: of its context."""

    tokens: list[int]
    prefix: int
    size: int
    sampling: Sampling


class Raw(NamedTuple):
    """An answer as the model generated it.

    tokens: without the one that ends the turn. evaluated: the number of tokens with it.
    is_finished: whether it ended before the limit of tokens.
    """

    text: str
    tokens: list[int]
    evaluated: int
    is_finished: bool


def seed_of(row: Row) -> int:
    """A seed for this row: rows with the same `sampling.seed` draw different numbers."""
    digest = blake3(msgspec.json.encode([row.sampling.seed, row.tokens])).digest(4)
    return int.from_bytes(digest, "little")


def cut(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string; None if there is none."""
    positions = [at for s in stop if (at := text.find(s)) >= 0]
    return text[: min(positions)] if positions else None
