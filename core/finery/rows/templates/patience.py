"""A time limit on a recipe's regular expressions, for each row.

A pattern such as `(a+)+$` tries every way to split a text before it fails, which takes hours for
forty letters. The limit is in CPU time, so that the load of the machine doesn't matter.

The package regex can stop a search by itself, but is no replacement: the package jsonschema
searches the patterns of JSON Schemas, and regex reads some patterns differently without an error,
e.g. `[[:alpha:]]`, `a{s}` (fuzzy), `(?i)ı`, and `\\s` for U+001C.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from finery.rows.badrow import BadRow
from finery.rows.templates.limits import Slow, time_limit

_REPEATED = "rewrite it without nested repetitions such as (a+)+"


def search(pattern: re.Pattern[str], text: str, where: str) -> re.Match[str] | None:
    """The first match of a pattern. `BadRow` at the setting `where` if the search is slow."""
    with patterns_of(f"{where}: the regular expression {pattern.pattern!r:.80}"):
        return pattern.search(text)


@contextmanager
def patterns_of(what: str) -> Iterator[None]:
    """`BadRow` if patterns that are searched for here take too long. what: names them."""
    try:
        with time_limit():
            yield
    except Slow as error:
        raise BadRow(f"{what} {error} for this row", _REPEATED) from None
