"""Whether two answers say the same."""

from collections.abc import Sequence

from finery.rows.answers.jsonvalues import NotJson, parse
from finery.rows.answers.reading import Reader, Unreadable
from finery.rows.parts import canonical


def meaning(text: str) -> str:
    """What an answer says: of JSON its value, else its text but for case, spaces, a full stop."""
    try:
        value = parse(text)
    except NotJson:
        value = None
    if isinstance(value, dict | list):
        return canonical(value)
    return " ".join(text.casefold().split()).rstrip(" .")


def fields_of(names: Sequence[str], text: str) -> tuple[str, ...] | None:
    """The values of fields in an answer, None where one is missing or given twice."""
    try:
        return Reader(fields=tuple(names)).expected({"prompt": "", "completion": text}).values
    except Unreadable:
        return None
