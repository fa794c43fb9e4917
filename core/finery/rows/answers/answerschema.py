"""Validation of answers against a JSON Schema."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from finery.errors import DataError, UsageError
from finery.rows.answers.jsonvalues import NotJson, parse
from finery.util.paths import shown

MAX_SHOWN = 200
"""Longest problem, in characters, that is reported in full."""


def check_schema(schema: dict[str, Any], where: str) -> None:
    """Raise `UsageError` at the setting `where` if a schema in a recipe is invalid."""
    try:
        AnswerSchema(schema)
    except DataError as error:
        raise UsageError(error.what, where=where, fix=error.fix) from None


class Problem(NamedTuple):
    """What is wrong with an answer. kind: the description that groups similar problems."""

    kind: str
    text: str


class AnswerSchema:
    """A JSON Schema, from a file or as a dictionary.

    Its `$schema` selects the draft; the default is 2020-12. `format` isn't checked, and references
    must stay in the schema, since nothing is fetched. Raises `DataError`, which names the file, if
    it isn't a JSON Schema, and later if a reference or pattern that is used is broken.

    value: the schema's content.
    """

    def __init__(self, source: Path | dict[str, Any]) -> None:
        from jsonschema import Draft202012Validator, SchemaError, validators
        from referencing import Registry

        self._where = shown(source) if isinstance(source, Path) else "the schema"
        self.value = schema = self._read(source) if isinstance(source, Path) else source
        uri = schema.get("$schema")
        stated = {"$schema": uri} if isinstance(uri, str) else {}
        draft: Any = validators.validator_for(stated, default=Draft202012Validator)
        try:
            draft.check_schema(schema)
        except SchemaError as error:
            place = ".".join(map(str, error.absolute_path)) or "the outermost object"
            raise self._error(f"not a JSON Schema: {place}: {error.message}") from None
        self._validator = draft(schema, registry=Registry())

    def problem(self, value: Any) -> Problem | None:
        """The most relevant violation of the schema; None if the value is valid."""
        from jsonschema.exceptions import best_match
        from referencing.exceptions import Unresolvable

        try:
            error = best_match(self._validator.iter_errors(value))
        except Unresolvable as broken:
            raise self._error(
                f"the schema refers to {broken.ref}, which it doesn't contain"
            ) from None
        except re.error as broken:
            raise self._error(f"a pattern isn't a regular expression: {broken}") from None
        except RecursionError:
            raise self._error("the schema refers to itself without end") from None
        if error is None:
            return None
        place = ".".join(map(str, error.absolute_path)) or "the object"
        return Problem(f"{place}: {error.validator}", f"{place}: {error.message}"[:MAX_SHOWN])

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            schema = parse(path.read_text(encoding="utf-8"))
        except (NotJson, UnicodeDecodeError) as error:
            raise self._error(f"not a JSON Schema: {error}") from None
        if not isinstance(schema, dict):
            raise self._error("not a JSON Schema: it must be an object")
        return schema

    def _error(self, problem: str) -> DataError:
        return DataError(problem, where=self._where, fix="repair the schema")
