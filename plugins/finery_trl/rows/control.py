"""Rows whose own text holds the model's control tokens, which the tokenizer takes for real ones.

A `<|im_end|>` within a user's text ends the turn there: the model reads what follows as a turn of
its own, or as none. That may be meant, so such rows are learned, and named.
"""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from finery import some_of
from finery.rows import Row, split_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Control:
    """Looks for control tokens in the rows that pass by."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._pattern = _pattern(tokenizer)
        self._read = 0
        self._ids: list[str] = []
        self._tokens: dict[str, None] = {}

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows, one by one."""
        for row in rows:
            self._read += 1
            found = [t for text in _texts(row) for t in self._pattern.findall(text)]
            if found:
                self._ids.append(row["id"])
                self._tokens |= dict.fromkeys(found)
            yield row

    def notes(self) -> list[str]:
        """What there is to say of the rows that passed by."""
        if not self._ids:
            return []
        return [
            f"{len(self._ids):,} of {self._read:,} rows have control tokens within their text, "
            f"which the model reads as such ({', '.join(self._tokens)}): {some_of(self._ids)}"
        ]


def _pattern(tokenizer: Any) -> re.Pattern[str]:
    """Any control token; nothing where the tokenizer splits those that stand in a text."""
    if getattr(tokenizer, "split_special_tokens", False):
        return re.compile(r"(?!)")
    added = (t.content for t in tokenizer.added_tokens_decoder.values() if t.special)
    known = sorted({*tokenizer.all_special_tokens, *added}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, known)) or r"(?!)")


def _texts(row: Row) -> Iterator[str]:
    """What the turns of a row say."""
    prompt, completion = split_turns(row)
    _, rejected = split_turns({"completion": row.get("rejected", [])})
    for turn in (*prompt, *completion, *rejected):
        if isinstance(turn.get("content"), str):
            yield turn["content"]
