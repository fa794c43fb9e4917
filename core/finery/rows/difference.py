"""The first difference of two sequences, for the errors of failed comparisons."""

from collections.abc import Sequence
from typing import Any

_AROUND = 40  # characters shown before and after


def first_difference(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The position of the first difference, or the shorter length if there is none before."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def text_difference(labels: tuple[str, str], one: str, other: str) -> list[str]:
    """Two lines that show both texts around their first difference, which `>>>` marks."""
    at = first_difference(one, other)
    width = max(map(len, labels))
    return [
        f"{label:<{width}} {text[max(at - _AROUND, 0) : at]!r} >>>{text[at : at + _AROUND]!r}"
        for label, text in zip(labels, (one, other), strict=True)
    ]
