"""Checks if two answers have the same meaning."""

from collections.abc import Sequence

from finery.rows.answers.jsonvalues import NotJson, parse
from finery.rows.answers.reading import Reader, Unreadable
from finery.rows.parts import canonical


def meaning(text: str) -> str:
    """The meaning of an answer: its JSON value, or its text.

    The text is lower case, with single spaces, and without spaces and full stops at the end.
    """
    try:
        value = parse(text)
    except NotJson:
        value = None
    if isinstance(value, dict | list):
        return canonical(value)
    return " ".join(text.casefold().split()).rstrip(" .")


def fields_of(names: Sequence[str], text: str) -> tuple[str, ...] | None:
    """The values of fields in an answer; None if one is missing or repeated."""
    try:
        return Reader(fields=tuple(names)).expected({"prompt": "", "completion": text}).values
    except Unreadable:
        return None
