"""How similar generated rows are: to their seeds and to each other, one by one and on average."""

import heapq
import re
from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from blake3 import blake3

from finery.advanced import percent
from finery.rows import Row, split_turns
from finery.rows.generated import CheckResult
from finery.rows.near import (
    PIECE_CHARACTERS,
    Entry,
    NearIndex,
    common_pieces,
    make_entry,
    normalise_or_keep,
    row_entry,
    similarity,
)
from finery.rows.parts import join_turns, prompt_text, row_id_of
from finery_synth.checks import Similarity

SAMPLE_ROWS = 300
"""Number of rows whose variety is measured: those with the lowest digests of their ids."""
NEAR_SIMILARITY = 0.8
"""Minimum similarity of near copies."""
_WORD = re.compile(r"\w+")


def repeats(row: Row, other_rows: Iterable[Row]) -> CheckResult:
    """Whether another row has the same prompt, except for case, punctuation and whitespace."""
    text = normalise_or_keep(prompt_text(row))
    same = next(
        (
            other_row
            for other_row in other_rows
            if normalise_or_keep(prompt_text(other_row)) == text
        ),
        None,
    )
    detail = "" if same is None else f"has the same prompt as the row {row_id_of(same)}"
    return CheckResult(check="copy", passed=same is None, detail=detail)


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
        self._common = common_pieces(map(self._entry, seeds()))
        threshold = 1.0 if settings is None else settings.max
        self._index = NearIndex(threshold, folder, self._common)
        for row in seeds() if "seeds" in to else ():
            self._add(row)
        self._seeds = len(self._ids)

    def checked(self, row: Row, seeds: Iterable[Row]) -> CheckResult:
        """Whether a row is new. The value is its similarity to the closest of its own seeds."""
        entry = self._entry(row)
        match = self._index.find(entry)
        if match is None:
            seed_similarities = [self._similarity(entry, self._entry(seed)) for seed in seeds]
            value = round(max(seed_similarities), 3) if seed_similarities else None
            return CheckResult(check="similarity", passed=True, value=value)
        source = "the seed" if match.number < self._seeds else "the generated row"
        name = f"{source} {self._ids[match.number]}"
        detail = (
            f"repeats {name}" if match.exact else f"is {match.similarity:.2f} similar to {name}"
        )
        check, value = "copy" if match.exact else "similarity", round(match.similarity, 3)
        return CheckResult(check=check, passed=False, value=value, detail=detail)

    def add(self, row: Row) -> None:
        """Add a generated row that passed."""
        if self._takes_others:
            self._add(row)

    def _add(self, row: Row) -> None:
        self._index.add(len(self._ids), self._entry(row))
        self._ids.append(row_id_of(row))

    def _entry(self, row: Row) -> Entry:
        """The part of a row that is compared."""
        if self._on == "answer":
            return make_entry([join_turns(split_turns(row)[1])])
        return row_entry(row, "row" if self._on == "row" else "prompt")

    def _similarity(self, row: Entry, seed: Entry) -> float:
        """The similarity of the least similar texts; 0 if the numbers of texts differ."""
        if len(row.texts) != len(seed.texts):
            return 0.0
        return min(
            similarity(a, b, self._common) for a, b in zip(row.texts, seed.texts, strict=True)
        )


def spread(rows: Iterable[Row], seeds: Iterable[Row]) -> dict[str, Any]:
    """The variety of the prompts of rows, compared with that of their seeds.

    distinct_1, distinct_2: the share of distinct words, and of distinct pairs of adjacent words (Li
    et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models).
    similarity: mean Jaccard similarity of all pairs, over pieces of five letters. near_copies:
    share of rows with a similarity of at least 0.8 to another row; near_seeds: to a seed.
    """
    row_sample, start = _sample(rows), _sample(seeds)
    seeds_pieces = _pieces(start)
    near = [
        any(_jaccard(text, seed) >= NEAR_SIMILARITY for seed in seeds_pieces)
        for text in _pieces(row_sample)
    ]
    return {
        "rows": len(row_sample),
        **_variety(row_sample),
        "near_seeds": _round_values(near),
        "seeds": {"rows": len(start), **_variety(start)},
    }


def spread_line(measured: dict[str, Any]) -> str:
    """A spread as one line, for the log."""
    seeds = measured["seeds"]
    return (
        f"spread: {measured['distinct_2']:.2f} of word pairs are distinct (seeds: "
        f"{seeds['distinct_2']:.2f}), mean similarity is {measured['similarity']:.2f} (seeds: "
        f"{seeds['similarity']:.2f}), {percent(measured['near_copies'])} are near "
        f"copies of each other, {percent(measured['near_seeds'])} of seeds"
    )


def _sample(rows: Iterable[Row]) -> list[str]:
    """The prompts of a reproducible sample of rows."""
    ranked = (
        (blake3(row_id_of(row).encode()).digest(8), row_id_of(row), prompt_text(row))
        for row in rows
    )
    return [text for _, _, text in heapq.nsmallest(SAMPLE_ROWS, ranked)]


def _variety(texts: list[str]) -> dict[str, Any]:
    words = [[word.casefold() for word in _WORD.findall(text)] for text in texts]
    pairs = [pair for line in words for pair in pairwise(line)]
    ones = [word for line in words for word in line]
    every = _pieces(texts)
    near, similar = [False] * len(texts), list[float]()
    for i, j in combinations(range(len(texts)), 2):
        similar.append(_jaccard(every[i], every[j]))
        if similar[-1] >= NEAR_SIMILARITY:
            near[i] = near[j] = True
    return {
        "distinct_1": round(len(set(ones)) / max(len(ones), 1), 3),
        "distinct_2": round(len(set(pairs)) / max(len(pairs), 1), 3),
        "similarity": _round_values(similar),
        "near_copies": _round_values(near),
    }


def _pieces(texts: list[str]) -> list[set[str]]:
    """Each text's pieces of five letters."""
    normal_texts = [make_entry([text]).texts[0] for text in texts]
    return [
        {text[i : i + PIECE_CHARACTERS] for i in range(max(1, len(text) - PIECE_CHARACTERS + 1))}
        for text in normal_texts
    ]


def _jaccard(first: set[str], second: set[str]) -> float:
    """Jaccard similarity, also of texts that differ in a number, unlike `data.dedup`."""
    return len(first & second) / len(first | second)


def _round_values(values: list[float] | list[bool]) -> float:
    return round(fmean(values), 4) if values else 0.0
