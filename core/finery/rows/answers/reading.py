"""Reads an answer's text as one class, or as fields that each have a class."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec

from finery.errors import DataError
from finery.rows.badrow import BadRow
from finery.rows.row import Row, answer_text
from finery.rows.templates.limits import search

INVALID = "(invalid)"
"""Stands for every answer that names no allowed class, in tables and confusion matrices."""


class Unreadable(ValueError):
    """An expected answer can't be read; the message says why, in words for the rows' author."""


class Expected(msgspec.Struct, frozen=True):
    """A row's expected class for each column, and what a well-formed answer may contain."""

    values: tuple[str, ...]
    keys: frozenset[str] = frozenset()  # line names or JSON keys of the expected answer
    form: str = ""  # of fields "json" or "lines", "" is either; of one class "bare" or "free"
    extracted: bool = False  # the expected answer is itself only a part of its completion


class Reading(msgspec.Struct, frozen=True):
    """An answer as read: each column's class (None: no allowed one), and if it is well-formed."""

    values: tuple[str | None, ...]
    valid: bool


class Reader(msgspec.Struct, frozen=True, kw_only=True):
    """Reads answers. Without `fields` an answer is one class, under the column `label`.

    labels: the allowed classes of each column, normalised; empty while they aren't known.
    """

    fields: tuple[str, ...] = ()
    labels: tuple[tuple[str, ...], ...] = ()
    extract: str | None = None
    match: str = "exact"
    ignore_case: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The judged columns, in order."""
        return self.fields or ("label",)

    def expected(self, row: Row) -> Expected:
        """The expected classes, from the row's `label` or completion. Raises `Unreadable`."""
        completion, label = answer_text(row), row.get("label")
        text = extract_answer(completion, self.extract)
        if self.fields:
            expected = self._expected_fields(text, label)
        elif isinstance(label, (dict, list)):
            raise Unreadable("the label is not one class: name its parts in `fields`")
        else:
            value = self._normal(as_text(label)) if label is not None else ""
            if label is None:
                name = self._find_class(text, self.labels[0]) if self.labels else None
                is_first = self.match == "first_line"
                value = name or self._normal(_first_line(text) if is_first else text)
            form = "bare" if self._normal(text) in ("", value) else "free"
            expected = Expected((value,), form=form)
        for column, value, allowed in zip(
            self.columns, expected.values, self.labels or [()] * len(expected.values), strict=True
        ):
            if not value:
                raise Unreadable(f"no {column} in the expected answer")
            if value == INVALID or (allowed and value not in allowed):
                raise Unreadable(f"{column} {value!r} is not an allowed label")
        return msgspec.structs.replace(expected, extracted=text != completion)

    def read(self, answer: str, expected: Expected) -> Reading:
        """Read an answer to a row that expects `expected`. Needs `labels`."""
        text = extract_answer(answer, self.extract)
        judged_text = text if expected.extracted else answer
        if self.fields:
            pairs = self._pairs(text, self._form(text, expected))
            answered = [_single_value(pairs.get(self._normal(field), [])) for field in self.fields]
            choices = zip(answered, self.labels, strict=True)
            values = tuple(value if value in allowed else None for value, allowed in choices)
            return Reading(
                values, valid=None not in values and self._is_well_formed(judged_text, expected)
            )
        (allowed,) = self.labels
        guess = self._find_class(text, allowed)
        bare = expected.form == "free" or self._normal(judged_text) in allowed
        return Reading((guess,), valid=guess is not None and bare)

    def normal(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Labels as they are compared, each once, in their order."""
        return tuple(dict.fromkeys(self._normal(label) for label in labels))

    def _normal(self, text: str) -> str:
        text = text.strip()
        return text.casefold() if self.ignore_case else text

    def _find_class(self, text: str, allowed: tuple[str, ...]) -> str | None:
        """The one allowed class that the text names, by `match`."""
        if self.match == "contains":
            # Whole words; if one label contains another, the longer one matches.
            names = "|".join(map(re.escape, sorted(allowed, key=len, reverse=True)))
            classes = set(re.findall(rf"(?<!\w)(?:{names})(?!\w)", self._normal(text)))
            return classes.pop() if len(classes) == 1 else None
        guess = self._normal(_first_line(text) if self.match == "first_line" else text)
        return guess if guess in allowed else None

    def _expected_fields(self, text: str, label: Any) -> Expected:
        form = ("json" if _json_object(text) is not None else "lines") if text.strip() else ""
        pairs = self._pairs(text, form)
        values = pairs
        if isinstance(label, dict):
            values = self._object_pairs(label)
            pairs = pairs or values
        fields = tuple(_single_value(values.get(self._normal(f), [])) or "" for f in self.fields)
        return Expected(fields, frozenset(pairs), form)

    def _is_well_formed(self, text: str, expected: Expected) -> bool:
        """Whether a text has each field once, and only names that the expected answer has."""
        form = self._form(text, expected)
        if form == "json" and _json_object(text) is None:
            return False
        pairs = self._pairs(text, form)
        has_each_once = all(len(pairs.get(self._normal(field), [])) == 1 for field in self.fields)
        return has_each_once and pairs.keys() <= expected.keys

    def _form(self, text: str, expected: Expected) -> str:
        return expected.form or ("lines" if _first_object(text) is None else "json")

    def _pairs(self, text: str, form: str) -> dict[str, list[str]]:
        """Name → the values given for it. A line without a colon has the name ""."""
        if form == "json":
            return self._object_pairs(_first_object(text) or {})
        pairs: dict[str, list[str]] = {}
        for line in filter(None, map(str.strip, text.splitlines())):
            name, colon, value = line.partition(":")
            pairs.setdefault(self._normal(name) if colon else "", []).append(self._normal(value))
        return pairs

    def _object_pairs(self, value: Mapping[str, Any]) -> dict[str, list[str]]:
        return {self._normal(k): [self._normal(as_text(v))] for k, v in value.items()}


def extract_answer(text: str, pattern: str | None) -> str:
    """The group of the pattern's first match, or the whole text if it doesn't match."""
    match = search_in(text, pattern, "extract") if pattern else None
    return match[1] or "" if match else text


def search_in(text: str, pattern: str, where: str, flags: int = 0) -> re.Match[str] | None:
    """The first match of a pattern. `DataError` at the setting `where` if the search is slow."""
    with explain_bad_row(text):
        return search(re.compile(pattern, flags), text, where)


@contextmanager
def explain_bad_row(text: str) -> Iterator[None]:
    """Turn a `BadRow` into an error that shows the beginning of the answer."""
    try:
        yield
    except BadRow as error:
        raise DataError(
            error.what, details=[f"the answer begins: {text!r:.80}"], fix=error.fix
        ) from None


def field_names(texts: Iterable[str]) -> list[str]:
    """The field names that all these answers share; empty if they don't look like fields."""
    common: list[str] | None = None
    for text in texts:
        lines = [line.partition(":") for line in text.splitlines() if line.strip()]
        has_values = all(value.strip() for _, _, value in lines)
        names = list(_json_object(text) or ())
        names = names or [name.strip() for name, _, _ in lines if has_values]
        if len(names) < 2 or (common is not None and set(names) != set(common)):
            return []
        common = common or names
    return common or []


def as_text(value: Any) -> str:
    """A JSON value as the text of a class: `true`, `3`, or the text itself."""
    return (
        value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    )


def _single_value(values: list[str]) -> str | None:
    """The value, if it is given, and contradicted nowhere."""
    return values[0] if len(set(values)) == 1 else None


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first_object(text: str) -> dict[str, Any] | None:
    """The first JSON object in the text."""
    decoder = json.JSONDecoder()
    for start in (brace.start() for brace in re.finditer(r"\{", text)):
        try:
            value: dict[str, Any] = decoder.raw_decode(text, start)[0]
        except (ValueError, RecursionError):
            continue
        return value
    return None
