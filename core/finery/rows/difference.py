"""The first difference of two sequences, for the errors of failed comparisons."""

from collections.abc import Sequence
from typing import Any

_CONTEXT_CHARACTERS = 40  # characters shown before and after


def first_difference(first: Sequence[Any], second: Sequence[Any]) -> int:
    """The position of the first difference, or the shorter length if there is none before."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def text_difference(labels: tuple[str, str], first: str, second: str) -> list[str]:
    """Two lines that show both texts around their first difference, which `>>>` marks."""
    position = first_difference(first, second)
    start, end = max(position - _CONTEXT_CHARACTERS, 0), position + _CONTEXT_CHARACTERS
    width = max(map(len, labels))
    return [
        f"{label:<{width}} {text[start:position]!r} >>>{text[position:end]!r}"
        for label, text in zip(labels, (first, second), strict=True)
    ]
