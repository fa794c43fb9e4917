"""Held-out rows, and which other rows leak them: copies, near copies, and what contains them."""

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from finery import Dataset
from finery.rows import Row
from finery.rows.near import (
    CROWDED_BUCKET,
    NEAR_SIMILARITY,
    Entry,
    NearIndex,
    common_pieces,
    is_template,
    prompt_entry,
)
from finery.rows.parts import row_id_of

WHOLE = 50
"""Minimum letters and digits of a held-out prompt that is searched for inside longer prompts."""

FEW = 8
"""Beginnings of held-out prompts that are looked for one by one, which is faster for a few."""
EXAMPLES = 3
"""Copies of a kind that are shown."""
BATCH = 500
Progress = Callable[[str, int, int], None]
"""(what is done, rows done, of how many)."""


class Leak(NamedTuple):
    """Why a row leaks a held-out row: a short name, and a sentence that names the row."""

    reason: str
    detail: str


class _Group(NamedTuple):
    """Texts that start alike, sorted. shared: how all of them start; longest: their length."""

    shared: str
    texts: list[str]
    longest: int


class _Whole:
    """A set of texts that finds which of them another text contains.

    If one text is the beginning of another, only the shorter one is kept, because every text that
    contains the longer one contains the shorter one, too. So in sorted order, only the last text
    that isn't greater can be the beginning of a given text. The search time grows with the
    logarithm of the number of texts, even if they all begin alike.
    """

    def __init__(self) -> None:
        self._added: dict[str, int] = {}
        self._groups: dict[str, _Group] = {}  # by their first characters

    def add(self, text: str, number: int) -> None:
        """Add a text of at least `WHOLE` characters. Of equal texts, the first one counts."""
        self._added.setdefault(text, number)
        self._groups.clear()

    def inside(self, text: str) -> int | None:
        """The number of a text that this one has inside."""
        if not self._groups:
            self._sort()
        for start in self._starts(text):
            group = self._groups.get(text[start : start + WHOLE])
            if group is None or not text.startswith(group.shared, start):
                continue
            rest = text[start : start + group.longest]
            at = bisect_right(group.texts, rest)
            if at and rest.startswith(group.texts[at - 1]):
                return self._added[group.texts[at - 1]]
        return None

    def _starts(self, text: str) -> Iterable[int]:
        """Positions at which one of the texts may begin in this one."""
        if len(self._groups) > FEW:
            return range(len(text) - WHOLE + 1)
        groups = self._groups.values()
        return sorted(at for group in groups for at in _places(group.shared, text))

    def _sort(self) -> None:
        last, found = None, dict[str, list[str]]()
        for text in sorted(self._added):
            if last is None or not text.startswith(last):
                last = text
                found.setdefault(text[:WHOLE], []).append(text)
        for start, texts in found.items():
            shared = os.path.commonprefix([texts[0], texts[-1]])  # noqa: RUF071  # of texts, not paths
            self._groups[start] = _Group(shared, texts, max(map(len, texts)))


def _places(part: str, text: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


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
        self._whole = _Whole()

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def crowded(self) -> int:
        """Rows that are only found by their copies, see `NearIndex`."""
        return self._near.crowded

    def add(self, row: Row, entry: Entry | None) -> None:
        """Hold a row out. entry: its `prompt_entry`."""
        number = len(self._ids)
        self._ids.append(row_id_of(row))
        if entry is None:
            return
        self._near.add(number, entry)
        text = entry.texts[0]
        if len(text) >= WHOLE and not is_template(text, self._common):
            self._whole.add(text, number)

    def leak(self, entry: Entry | None) -> Leak | None:
        """The held-out row that a row copies, nearly copies, or contains. entry: its prompt's."""
        if entry is None:
            return None
        match = self._near.find(entry)
        if match is not None:
            its = self._named(match.number)
            if match.exact:
                return Leak("copy", f"has the same prompt as {its}")
            return Leak("near-copy", f"has a prompt {match.similarity:.2f} similar to {its}")
        inside = self._whole.inside(entry.texts[0])
        if inside is not None:
            return Leak("contains-copy", f"contains the full prompt of {self._named(inside)}")
        return None

    def _named(self, number: int) -> str:
        return f"the {self._name} row {self._ids[number]}"


def crowd_note(crowded: int) -> str:
    """A log line about rows that weren't compared with all others, see `NearIndex`."""
    return (
        f"warning: {crowded:,} rows resemble {CROWDED_BUCKET} or more before them; near copies of "
        "these were looked for only among the first"
    )


@dataclass
class Overlap:
    """Rows of `one` whose prompt copies, nearly copies or contains one of `other`.

    one, other: names of data sets. searched, held_out: rows of each that were compared, of `total`
    and `other_total`. counts: rows by reason.
    """

    one: str
    other: str
    searched: int
    held_out: int
    total: int
    other_total: int
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def compared(self) -> str:
        """Which rows were compared, if not all: `the first 5,000 of 100,000 rows of train`."""
        sides = (
            (self.one, self.searched, self.total),
            (self.other, self.held_out, self.other_total),
        )
        return " and ".join(
            f"the first {rows:,} of {total:,} rows of {name}"
            for name, rows, total in sides
            if rows < total
        )

    @property
    def limits(self) -> str:
        """The same in brackets."""
        return f" (compared: {self.compared})" if self.compared else ""


def overlap_of(
    one: tuple[str, Dataset],
    other: tuple[str, Dataset],
    most: int,
    folder: Path,
    progress: Progress,
    *,
    are_apart: bool = False,
) -> Overlap:
    """The rows of a data set that leak rows of another one, as `data.decontaminate` finds them.

    one, other: (name, rows). most: rows of each that are compared. folder: for the texts that are
    compared meanwhile. are_apart: whether a step has compared all of them and dropped such rows.
    What many rows share depends on which rows there are, so to compare only those that it kept
    could give another result.
    """
    (name, rows), (held_name, held_rows) = one, other
    sizes = len(rows), len(held_rows)
    if are_apart:
        return Overlap(name, held_name, *sizes, *sizes)
    searched, held_out = (min(most, size) for size in sizes)
    overlap = Overlap(name, held_name, searched, held_out, *sizes)
    every = chain(islice(rows, most), islice(held_rows, most))
    held = HeldOut(held_name, NEAR_SIMILARITY, folder, common_pieces(map(prompt_entry, every)))
    for row in islice(held_rows, most):
        held.add(row, prompt_entry(row))
    for number, row in enumerate(islice(rows, most)):
        if number % BATCH == 0:
            progress(f"{name} against {held_name}", number, overlap.searched)
        if (leak := held.leak(prompt_entry(row))) is not None:
            overlap.counts[leak.reason] += 1
            if len(overlap.examples) < EXAMPLES:
                overlap.examples.append(f"{row_id_of(row)} {leak.detail}")
    return overlap
