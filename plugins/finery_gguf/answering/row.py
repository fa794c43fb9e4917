"""A row to answer, and its raw answer."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from blake3 import blake3

from finery import Sampling


class Row(NamedTuple):
    """A row to answer.

    prefix: the number of leading tokens that other rows may share. size: tokens of its context.
    """

    tokens: list[int]
    prefix: int
    size: int
    sampling: Sampling


class Raw(NamedTuple):
    """An answer as the model generated it.

    tokens: without the token that ends the turn. evaluated: their number, including that token.
    is_finished: whether the answer ended before it reached the token limit.
    """

    text: str
    tokens: list[int]
    evaluated: int
    is_finished: bool


def seed_of(row: Row) -> int:
    """A seed from `sampling.seed` and the prompt, so that rows don't draw the same numbers."""
    digest = blake3(msgspec.json.encode([row.sampling.seed, row.tokens])).digest(4)
    return int.from_bytes(digest, "little")


def cut(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string; None if it contains none."""
    positions = [at for string in stop if (at := text.find(string)) >= 0]
    return text[: min(positions)] if positions else None
