"""A query's text: its parameters, and whether it says in which order the rows come."""

import re

_NOT_CODE = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?(?:\*/|\Z)|\$(\w*)\$.*?\$\1\$""", re.DOTALL
)
_PARAMETER = re.compile(r"(?<![:\w\\]):(\w+)(?!:)")
"""As SQLAlchemy reads them, so that `::date` and `10:30` are none."""
_ORDER = re.compile(r"\border\s+by\b", re.IGNORECASE)
_PARENTHESIS = re.compile(r"([()])")


def trimmed(query: str) -> str:
    """The query without what ends it: a driver's cursor takes a single statement."""
    return query.strip().rstrip("; \t\r\n")


def parameters(query: str) -> list[str]:
    """The names of the parameters (`:name`) in a query, each once."""
    return list(dict.fromkeys(_PARAMETER.findall(query)))


def is_select(query: str) -> bool:
    """Whether the query begins like one that returns rows."""
    code = _NOT_CODE.sub(" ", query).lstrip("( \t\r\n").lower()
    return code.startswith(("select", "with", "values", "table"))


def is_ordered(query: str) -> bool:
    """Whether the outermost query, not only a part in parentheses, has an ORDER BY."""
    code = _NOT_CODE.sub(" ", query)
    outside, depth = list[str](), 0
    for part in _PARENTHESIS.split(code):
        if part in ("(", ")"):
            depth = max(0, depth + (1 if part == "(" else -1))
            outside.append(" ")
        elif depth == 0:
            outside.append(part)
    return bool(_ORDER.search("".join(outside)))


def line_of(query: str, token: str) -> int | None:
    """The line of a piece of the query; None if it occurs more than once."""
    places = [match.start() for match in re.finditer(re.escape(token), query)]
    return query.count("\n", 0, places[0]) + 1 if token and len(places) == 1 else None
