"""Held-out rows, and which other rows give them away."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3

from finery.rows import Row
from finery.rows.near import Entry, NearIndex, entry_of, is_template
from finery.rows.parts import id_of, prompt

NEAR = 0.7
"""Similarity from which on a prompt is a near copy of a held-out one."""
WHOLE = 50
"""Letters and digits from which on a held-out prompt is looked for inside of longer ones."""


class Leak(NamedTuple):
    """Why a row gives a held-out row away: a short name, and a sentence that names the row."""

    reason: str
    detail: str


class _Text(NamedTuple):
    length: int
    digest: bytes
    number: int


class HeldOut:
    """The prompts of held-out rows, to find copies of them by.

    name: what details call the rows, e.g. `test`. threshold, common: see `NearIndex`. Rows without
    a prompt are compared by their text, if they have one, else not at all.
    """

    def __init__(
        self, name: str, threshold: float, folder: Path, common: Collection[str] = frozenset()
    ) -> None:
        self._name = name
        self._common = common
        self._near = NearIndex(threshold, folder, common)
        self._ids: list[str] = []
        self._whole: dict[str, list[_Text]] = {}  # by how a text starts

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, row: Row) -> None:
        """Hold a row out."""
        entry, number = prompt_entry(row), len(self._ids)
        self._ids.append(id_of(row))
        if entry is None:
            return
        self._near.add(number, entry)
        text = entry.texts[0]
        if len(text) >= WHOLE and not is_template(text, self._common):
            held = _Text(len(text), _digest(text), number)
            self._whole.setdefault(text[:WHOLE], []).append(held)

    def leak(self, row: Row) -> Leak | None:
        """What the row gives away: a held-out row that it copies, nearly copies, or contains."""
        entry = prompt_entry(row)
        if entry is None:
            return None
        match = self._near.find(entry)
        if match is not None:
            its = self._named(match.number)
            if match.exact:
                return Leak("copy", f"has the prompt of {its}")
            return Leak("near-copy", f"has a prompt {match.similarity:.2f} similar to {its}")
        inside = self._inside(entry.texts[0])
        if inside is not None:
            return Leak("contains-copy", f"has the whole prompt of {self._named(inside)} inside")
        return None

    def _inside(self, text: str) -> int | None:
        if not self._whole:
            return None
        for start in range(len(text) - WHOLE + 1):
            for held in self._whole.get(text[start : start + WHOLE], ()):
                if _digest(text[start : start + held.length]) == held.digest:
                    return held.number
        return None

    def _named(self, number: int) -> str:
        return f"the {self._name} row {self._ids[number]}"


def prompt_entry(row: Row) -> Entry | None:
    """What of a row's prompt is compared; None where it has none."""
    text = prompt(row)
    return entry_of([text]) if text.strip() else None


def _digest(text: str) -> bytes:
    return blake3(text.encode("utf-8")).digest(16)
