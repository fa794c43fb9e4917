"""Finds labels that look like mistakes: misspelt ones, and conflicting ones for one prompt."""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from finery import Dataset
from finery.advanced import counted
from finery.rows import Row
from finery.rows.near import (
    NEAR_SIMILARITY,
    Entry,
    NearIndex,
    TemplateFinder,
    prompt_entry,
)
from finery.rows.parts import row_label, text_by_name
from finery.rows.spelling import misspelt

CONFLICT = "label-conflict"
"""The check for labels that similar rows don't have."""
MOST = 1_000
"""Labels, from which on they aren't taken for classes."""


class _First(NamedTuple):
    """The first row with a prompt, its label and name; and the rows by label of all with it."""

    label: str
    row: str
    counts: dict[str, int]

    def usual(self) -> str:
        """The most frequent label, the first of several."""
        counts = self.counts
        return max(counts, key=lambda label: (counts[label], label == self.label))


class Labels:
    """Collects the labels of all rows, and then finds those that look wrong, row by row.

    folder: for the texts of prompts while rows are compared. column: what labels a row, see
    `text_by_name`; by default its `label`, or its answer if no row of `datasets` has that column.
    """

    def __init__(
        self, folder: Path, datasets: Sequence[Dataset], column: str | None = None
    ) -> None:
        has_column = any("label" in dataset.meta.get("columns", ()) for dataset in datasets)
        self.column = column or ("label" if has_column else "output")
        self._may_be_texts = column is None and not has_column
        self._counts: Counter[str] = Counter()
        self._first: dict[bytes, _First] = {}  # by prompt
        self._folder = folder
        self._common = TemplateFinder()
        self._added: dict[int, tuple[str, str]] = {}
        self._typos: dict[str, str] | None = None

    @cached_property
    def _near(self) -> NearIndex:
        return NearIndex(NEAR_SIMILARITY, self._folder, self._common.pieces())

    @property
    def are_classes(self) -> bool:
        """Whether labels can be compared: there aren't too many, and answers repeat, on average."""
        count = len(self._counts)
        return count <= MOST and not (self._may_be_texts and 2 * count > self._counts.total())

    def survey(self, number: int, row: Row) -> None:
        """Note the label of a row, of all rows before any is judged."""
        label = text_by_name(row, self.column)
        if not label:
            return
        self._counts[label] += 1
        entry = prompt_entry(row) if len(self._counts) <= MOST else None
        if entry is None:
            return
        self._common.add(entry)
        key = entry.digest()
        if key not in self._first:
            self._first[key] = _First(label, row_label(number, row), {})
        counts = self._first[key].counts
        counts[label] = counts.get(label, 0) + 1

    def typo(self, label: str) -> str | None:
        """Why a label seems to be misspelt; None if it doesn't."""
        if self._typos is None:
            self._typos = misspelt(self._counts) if self.are_classes else {}
        right = self._typos.get(label)
        if right is None:
            return None
        rare, frequent = (counted(self._counts[one], "row") for one in (label, right))
        return f"the label {label!r} ({rare}) looks like {right!r} ({frequent})"

    def conflict(self, number: int, row: Row) -> str | None:
        """The earlier row that has another label for nearly the same prompt; None if there is none.

        Of the rows with one prompt, those with the rarer label are in conflict.
        """
        label = text_by_name(row, self.column)
        entry = prompt_entry(row) if label and self.are_classes else None
        if not label or entry is None:
            return None
        first = self._first[entry.digest()]
        if len(first.counts) > 1:
            conflict, label = self._outvoted(first, label), first.usual()
        else:
            conflict = self._unlike(entry, label)
        if self._near.add(number, entry):
            self._added[number] = label, row_label(number, row)
        return conflict

    def _unlike(self, entry: Entry, label: str) -> str | None:
        for match in self._near.matches(entry):
            other, its_row = self._added[match.number]
            if other != label:
                return (
                    f"the label is {label!r}, and {other!r} in {its_row}, whose prompt is "
                    f"{match.similarity:.2f} similar"
                )
        return None

    def _outvoted(self, first: _First, label: str) -> str | None:
        if label == (usual := first.usual()):
            return None
        where = f", the first being {first.row}" if usual == first.label else ""
        rows = counted(first.counts[usual], "row")
        return f"the label is {label!r}, and {usual!r} in {rows} with the same prompt{where}"


def contradictions(dataset: Dataset, folder: Path) -> Iterator[tuple[int, Row, str]]:
    """(number, row, what contradicts its label) of the rows that a `Labels` finds.

    folder: as for `Labels`.
    """
    labels = Labels(folder, [dataset])
    for number, row in enumerate(dataset, 1):
        labels.survey(number, row)
    for number, row in enumerate(dataset, 1):
        if conflict := labels.conflict(number, row):
            yield number, row, conflict
