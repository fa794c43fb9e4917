"""How varied rows are: distinct n-grams, similarity of pairs, near copies."""

import heapq
import re
from collections.abc import Iterable
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

from blake3 import blake3

from finery import percent
from finery.rows import Row
from finery.rows.near import PIECE, entry_of
from finery.rows.parts import id_of, prompt

SAMPLE = 300
"""Rows that are looked at, those whose ids have the lowest digests."""
NEAR = 0.8
"""Similarity from which on a row is a near copy of another."""
_WORD = re.compile(r"\w+")


def spread(rows: Iterable[Row], seeds: Iterable[Row]) -> dict[str, Any]:
    """How varied rows are, beside the seeds that they were made from; by their prompts.

    distinct_1, distinct_2: different words, and pairs of neighbouring words, over all of them (Li
    et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models).
    similarity: mean of all pairs (Jaccard, of pieces of five letters). near_copies: share of rows
    that are 0.8 similar to another one; near_seeds: to a seed.
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
    """The prompts of some rows, always the same ones."""
    ranked = ((blake3(id_of(row).encode()).digest(8), id_of(row), prompt(row)) for row in rows)
    return [text for _, _, text in heapq.nsmallest(SAMPLE, ranked)]


def measures(texts: list[str]) -> dict[str, Any]:
    """What is measured of some texts alone."""
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
    """A spread in a line, for the log."""
    seeds = measured["seeds"]
    return (
        f"spread: pairs of words {measured['distinct_2']:.2f} distinct (seeds "
        f"{seeds['distinct_2']:.2f}), two rows {measured['similarity']:.2f} similar (seeds "
        f"{seeds['similarity']:.2f}), near copies {percent(measured['near_copies'])} "
        f"of each other, {percent(measured['near_seeds'])} of seeds"
    )


def _pieces(texts: list[str]) -> list[set[str]]:
    """Each text's pieces of five letters."""
    normal = [entry_of([text]).texts[0] for text in texts]
    return [{line[i : i + PIECE] for i in range(max(1, len(line) - PIECE + 1))} for line in normal]


def _similarity(one: set[str], other: set[str]) -> float:
    """Jaccard, also of texts that differ in a number: `data.dedup` is stricter about these."""
    return len(one & other) / len(one | other)


def _rounded(values: list[float] | list[bool]) -> float:
    return round(fmean(values), 4) if values else 0.0
