"""Finds rows with control tokens of the model in their text, which the tokenizer takes as real.

A `<|im_end|>` in a user's text ends the turn there, and the model misreads the rest. That may be
intended, so such rows are kept and reported.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finery import some_of
from finery.rows import Row, Turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Control:
    """Searches rows for control tokens, without changing them."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._pattern = _pattern(tokenizer)
        self._read = 0
        self._ids: list[str] = []
        self._tokens: dict[str, None] = {}

    def add(self, row: Row) -> None:
        """Search one row."""
        self._read += 1
        tokens = [t for text in _texts(row) for t in self._pattern.findall(text)]
        if tokens:
            self._ids.append(row["id"])
            self._tokens |= dict.fromkeys(tokens)

    def notes(self) -> list[str]:
        """A line about the rows with control tokens, if there are any."""
        if not self._ids:
            return []
        return [
            f"{len(self._ids):,} of {self._read:,} rows have control tokens in their text "
            f"({', '.join(self._tokens)}), which the model takes as real: {some_of(self._ids)}"
        ]


def _pattern(tokenizer: Any) -> re.Pattern[str]:
    """Matches any control token; nothing if the tokenizer splits them in texts."""
    if getattr(tokenizer, "split_special_tokens", False):
        return re.compile(r"(?!)")
    added = (t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    known = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, known)) or r"(?!)")


def _texts(row: Row) -> Iterator[str]:
    """The texts of all turns of a row."""
    turns = Turns.of(row)
    for turn in (*turns.conversation, *(turns.rejected or ())):
        if isinstance(turn.get("content"), str):
            yield turn["content"]
