"""Why a row can't be used."""

from typing import Any


class BadRow(Exception):
    """A row that can't be used: `what` is wrong with it and the `fix`."""

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


def kind_of(value: Any) -> str:
    """A value's type in the words of JSON, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case bytes():
            return "bytes"
    return f"a {type(value).__name__}"
