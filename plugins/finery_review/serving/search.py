"""Finding rows by their texts."""

from collections.abc import Iterator
from typing import Any

from finery.rows import Row
from finery.rows.parts import NOT_TEXT
from finery_review.serving.rowfile import RowFile


class Search:
    """Which rows contain a text, ignoring case. The result of the last search is remembered."""

    def __init__(self, rows: RowFile) -> None:
        self._rows = rows
        self._text = ""
        self._found: dict[int, bool] = {}

    def has(self, number: int, text: str) -> bool:
        """Whether the row's turns, columns or id hold the text."""
        if text != self._text:
            self._text, self._found = text, {}
        if number not in self._found:
            self._found[number] = self._holds(number, text.casefold())
        return self._found[number]

    def _holds(self, number: int, text: str) -> bool:
        if _as_in_json(text) and text not in self._rows.raw(number).decode().casefold():
            return False  # quick, and enough for nearly all rows without it
        return text in self._rows.ids[number] or holds(self._rows[number], text)


def holds(row: Row, text: str) -> bool:
    """Whether the visible parts of a row contain a text, which is casefolded."""
    values = (value for name, value in row.items() if name not in NOT_TEXT)
    return any(text in part.casefold() for value in values for part in _within(value))


def _as_in_json(text: str) -> bool:
    """Whether a text needs no escapes in JSON."""
    return text.isprintable() and not set(text) & set('"\\/')


def _within(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("role", "type"):
                yield from _within(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _within(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)
