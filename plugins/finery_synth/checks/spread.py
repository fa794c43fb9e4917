"""The variety of rows: distinct n-grams, similarity of pairs, near copies."""

import heapq
import re
from collections.abc import Iterable
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

from blake3 import blake3

from finery.rows import Row
from finery.rows.near import PIECE, entry_of
from finery.rows.parts import id_of, prompt
from finery.util.text import percent

SAMPLE = 300
"""Number of rows that are compared: those with the lowest digests of their ids."""
NEAR = 0.8
"""Minimum similarity of near copies."""
_WORD = re.compile(r"\w+")


def spread(rows: Iterable[Row], seeds: Iterable[Row]) -> dict[str, Any]:
    """The variety of the prompts of rows, compared with that of their seeds.

    distinct_1, distinct_2: the share of distinct words, and of distinct pairs of adjacent words (Li
    et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models).
    similarity: mean Jaccard similarity of all pairs, over pieces of five letters. near_copies:
    share of rows with a similarity of at least 0.8 to another row; near_seeds: to a seed.
    """
    own, start = sample(rows), sample(seeds)
    seeds_pieces = _pieces(start)
    near = [any(_similarity(one, seed) >= NEAR for seed in seeds_pieces) for one in _pieces(own)]
    return {
        "rows": len(own),
        **measures(own),
        "near_seeds": _rounded(near),
        "seeds": {"rows": len(start), **measures(start)},
    }


def sample(rows: Iterable[Row]) -> list[str]:
    """The prompts of a reproducible sample of rows."""
    ranked = ((blake3(id_of(row).encode()).digest(8), id_of(row), prompt(row)) for row in rows)
    return [text for _, _, text in heapq.nsmallest(SAMPLE, ranked)]


def measures(texts: list[str]) -> dict[str, Any]:
    """The measures that don't involve seeds."""
    words = [[word.casefold() for word in _WORD.findall(text)] for text in texts]
    pairs = [pair for line in words for pair in pairwise(line)]
    ones = [word for line in words for word in line]
    every = _pieces(texts)
    near, similar = [False] * len(texts), list[float]()
    for i, j in combinations(range(len(texts)), 2):
        similar.append(_similarity(every[i], every[j]))
        if similar[-1] >= NEAR:
            near[i] = near[j] = True
    return {
        "distinct_1": round(len(set(ones)) / max(len(ones), 1), 3),
        "distinct_2": round(len(set(pairs)) / max(len(pairs), 1), 3),
        "similarity": _rounded(similar),
        "near_copies": _rounded(near),
    }


def in_words(measured: dict[str, Any]) -> str:
    """A spread as one line, for the log."""
    seeds = measured["seeds"]
    return (
        f"spread: {measured['distinct_2']:.2f} of word pairs are distinct (seeds: "
        f"{seeds['distinct_2']:.2f}), mean similarity is {measured['similarity']:.2f} (seeds: "
        f"{seeds['similarity']:.2f}), {percent(measured['near_copies'])} are near "
        f"copies of each other, {percent(measured['near_seeds'])} of seeds"
    )


def _pieces(texts: list[str]) -> list[set[str]]:
    """Each text's pieces of five letters."""
    normal = [entry_of([text]).texts[0] for text in texts]
    return [{line[i : i + PIECE] for i in range(max(1, len(line) - PIECE + 1))} for line in normal]


def _similarity(one: set[str], other: set[str]) -> float:
    """Jaccard similarity, also of texts that differ in a number, unlike `data.dedup`."""
    return len(one & other) / len(one | other)


def _rounded(values: list[float] | list[bool]) -> float:
    return round(fmean(values), 4) if values else 0.0
