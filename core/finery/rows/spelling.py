"""Finds labels that are misspelt: rare ones that look like a frequent one."""

from collections import Counter

from finery.rows.difference import first_difference
from finery.rows.near import normalise_text

FREQUENT = 5
"""How many times more frequent than a misspelt label the right one must be."""
SHORTEST = 4
"""Minimum length of a misspelt label, in characters. Shorter labels are too similar."""


def misspelt(counts: Counter[str]) -> dict[str, str]:
    """Rare label → the frequent label that it was probably meant to be.

    They differ in one letter, in two swapped letters, or only in case and punctuation. Labels that
    differ in a digit aren't mistakes (`level 1`, `level 2`).
    """
    ordered = [label for label, _ in counts.most_common()]
    typos = {}
    for label in ordered:
        for right in ordered:
            if counts[right] < FREQUENT * counts[label]:
                break
            if _looks_like(label, right):
                typos[label] = right
                break
    return typos


def _looks_like(label: str, right: str) -> bool:
    if normalise_text(label) == normalise_text(right):
        return True
    if min(len(label), len(right)) < SHORTEST or _digits(label) != _digits(right):
        return False
    return one_edit_apart(label.casefold(), right.casefold())


def one_edit_apart(one: str, other: str) -> bool:
    """Whether two labels differ by one changed, added or missing letter, or by two swapped ones.

    That is a (restricted) Damerau-Levenshtein distance of 1 or less.
    """
    if abs(len(one) - len(other)) > 1:
        return False
    start = first_difference(one, other)
    a, b = one[start:], other[start:]
    if len(a) != len(b):
        return a[1:] == b or a == b[1:]
    return a[1:] == b[1:] or (a[:2] == b[:2][::-1] and a[2:] == b[2:])


def _digits(label: str) -> str:
    return "".join(c for c in label if c.isdigit())
