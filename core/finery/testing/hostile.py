"""Rows that steps rarely meet and must survive: none, odd text, very long text."""

from collections.abc import Callable
from typing import Any

from finery.rows import Row

Change = Callable[[list[Row]], list[Row]]
"""Makes other rows of the same columns."""

LARGE_BYTES = 10 * 1024 * 1024
ODD_TEXT = (
    "\ufeffnul \x00, escape \x1b[31m, line\u2028paragraph\u2029next\x85, family 👩‍👩‍👧, "
    "cafe\u0301, \u202eright to left\u202c, 中文, عربى, '\"\\{{ x }}%s<b>&amp;\r\n\ttab "
)
"""Control characters, line ends that only Unicode knows, joined and bidirectional characters, and
what templates, SQL, HTML and format strings take for their own."""
_TEXTS = ("prompt", "completion", "chosen", "rejected", "text", "content")
"""Columns, and keys of messages, that hold text."""


def odd_rows(rows: list[Row]) -> list[Row]:
    """The same rows with odd text around all their texts."""
    return [_changed(row, lambda text: f"{ODD_TEXT}{text}{ODD_TEXT}") for row in rows]


def large_rows(rows: list[Row]) -> list[Row]:
    """The same rows; the texts of the first have 10 MB together."""
    if not rows:
        return rows
    texts: list[str] = []
    _changed(rows[0], lambda text: texts.append(text) or text)  # type: ignore[func-returns-value]
    words = "lorem ipsum dolor sit amet "
    filler = words * (LARGE_BYTES // len(words) // max(1, len(texts)))
    return [_changed(rows[0], lambda text: f"{text} {filler}"), *rows[1:]]


HOSTILE: dict[str, Change] = {"none": lambda rows: [], "odd": odd_rows, "large": large_rows}


def _changed(row: Row, change: Callable[[str], str]) -> Row:
    """The row with its texts changed; ids go, since the content is another."""
    return {
        key: _changed_value(key, value, change)
        for key, value in row.items()
        if key not in ("id", "parents")
    }


def _changed_value(key: str, value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value) if key in _TEXTS else value
    if isinstance(value, list):
        return [_changed_value(key, part, change) for part in value]
    if isinstance(value, dict):
        return {name: _changed_value(name, part, change) for name, part in value.items()}
    return value
