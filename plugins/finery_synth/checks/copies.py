"""Generated rows that repeat others: seeds, or rows generated before them."""

from collections.abc import Callable, Iterable
from pathlib import Path

from finery.rows import Row, split_turns
from finery.rows.generated import Checked
from finery.rows.near import Common, Entry, NearIndex, entry_of, normal, row_entry, similarity
from finery.rows.parts import id_of, joined, prompt
from finery_synth.checks.settings import Similarity


def repeats(row: Row, others: Iterable[Row]) -> Checked:
    """Whether another row has the same prompt, except for case, punctuation and whitespace."""
    text = normal(prompt(row))
    same = next((other for other in others if normal(prompt(other)) == text), None)
    detail = "" if same is None else f"has the same prompt as the row {id_of(same)}"
    return Checked(check="copy", passed=same is None, detail=detail)


class Neighbours:
    """All rows that a generated one must not be similar to.

    Takes 2 to 3 KB of memory for each row. With `settings` None, only exact copies count, and a row
    takes some 100 bytes.
    on: what is compared if `settings` doesn't define it: prompt, answer, or row.
    seeds: returns the seed rows, on each call.
    """

    def __init__(
        self,
        settings: Similarity | None,
        on: str,
        folder: Path,
        seeds: Callable[[], Iterable[Row]],
    ) -> None:
        self._on = on if settings is None else settings.on or on
        to = ["seeds", "others"] if settings is None else settings.to
        self._takes_others = "others" in to
        self._ids: list[str] = []
        self._common = _common(map(self._entry, seeds()))
        threshold = 1.0 if settings is None else settings.max
        self._index = NearIndex(threshold, folder, self._common)
        if "seeds" in to:
            for row in seeds():
                self._add(row)
        self._seeds = len(self._ids)

    def checked(self, row: Row, seeds: Iterable[Row]) -> Checked:
        """Whether a row is new. The value is its similarity to the closest of its own seeds."""
        entry = self._entry(row)
        match = self._index.find(entry)
        if match is None:
            own = [_similarity(entry, self._entry(seed), self._common) for seed in seeds]
            value = round(max(own), 3) if own else None
            return Checked(check="similarity", passed=True, value=value)
        of = "the seed" if match.number < self._seeds else "the generated row"
        name = f"{of} {self._ids[match.number]}"
        detail = (
            f"repeats {name}" if match.exact else f"is {match.similarity:.2f} similar to {name}"
        )
        check, value = "copy" if match.exact else "similarity", round(match.similarity, 3)
        return Checked(check=check, passed=False, value=value, detail=detail)

    def add(self, row: Row) -> None:
        """Add a generated row that passed."""
        if self._takes_others:
            self._add(row)

    def _add(self, row: Row) -> None:
        self._index.add(len(self._ids), self._entry(row))
        self._ids.append(id_of(row))

    def _entry(self, row: Row) -> Entry:
        return entry_for(row, self._on)


def entry_for(row: Row, on: str) -> Entry:
    """The part of a row that is compared."""
    if on == "answer":
        return entry_of([joined(split_turns(row)[1])])
    return row_entry(row, "row" if on == "row" else "prompt")


def _common(entries: Iterable[Entry]) -> frozenset[str]:
    common = Common()
    for entry in entries:
        common.add(entry)
    return common.pieces()


def _similarity(one: Entry, other: Entry, common: frozenset[str]) -> float:
    """The similarity of the least similar texts; 0 if the numbers of texts differ."""
    if len(one.texts) != len(other.texts):
        return 0.0
    return min(similarity(a, b, common) for a, b in zip(one.texts, other.texts, strict=True))
