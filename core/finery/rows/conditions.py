"""Conditions on the texts of a row that several steps share: patterns and lengths."""

import re
from typing import Any, NamedTuple

from finery.errors import UsageError
from finery.rows.parts import check_lengths
from finery.rows.templates.limits import search

FIELDS = ("matches", "excludes", "min_characters", "max_characters")
"""Settings that hold conditions by the name of a text, see `per_text_setting`."""


class Condition(NamedTuple):
    """A condition on the text `name`. field: its setting. place: of the value in the recipe."""

    field: str
    name: str
    limit: re.Pattern[str] | int
    place: str

    def problem(self, text: str) -> str:
        """What is wrong with the text; empty if nothing is. `BadRow` if a search is slow."""
        if isinstance(self.limit, int):
            is_minimum = self.field == "min_characters"
            if len(text) >= self.limit if is_minimum else len(text) <= self.limit:
                return ""
            word = "fewer" if is_minimum else "more"
            return f"{self.name} has {len(text):,} characters, {word} than {self.limit:,}"
        match = search(self.limit, text, self.place)
        if bool(match) == (self.field == "matches"):
            return ""
        if match:
            return f"{self.name} matches {self.limit.pattern}: {match[0]!r:.80}"
        return f"{self.name} doesn't match {self.limit.pattern}"


def conditions_of(settings: Any, within: str = "") -> list[Condition]:
    """The conditions in a step's settings. Raises `UsageError` for invalid ones.

    settings: with some of `FIELDS`. within: the setting that contains them, followed by a dot.
    """
    check_lengths(settings.min_characters, settings.max_characters, within)
    conditions = []
    for field in FIELDS:
        for name, limit in getattr(settings, field, {}).items():
            place = f"{within}{field}.{name}"
            if isinstance(limit, str):
                limit = compile_pattern(limit, place)
            conditions.append(Condition(field, name, limit, place))
    return conditions


def compile_pattern(pattern: str, where: str) -> re.Pattern[str]:
    """The compiled regular expression. `UsageError` if it isn't one."""
    try:
        return re.compile(pattern)
    except (re.error, RecursionError) as error:
        raise UsageError(
            f"not a regular expression: {error}", where=where, fix="correct it"
        ) from None
