"""What breaks a JSON Schema, in the words of recipes."""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from finery.errors import FineryError
from finery.recipe.document import Recipe
from finery.recipe.excerpt import without_secrets
from finery.recipe.fits import fits
from finery.util.text import did_you_mean, nearest

LONGEST = 60
"""Characters of a wrong value that are shown."""

_TYPES = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a mapping", "null": "null",
}  # fmt: skip
_LIMITS = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}",
    "exclusiveMaximum": "less than {}", "minLength": "at least {} characters",
    "maxLength": "at most {} characters", "minItems": "at least {} of them",
    "maxItems": "at most {} of them", "minProperties": "at least {} of them",
}  # fmt: skip


def complaints(
    recipe: Recipe, schema: dict[str, Any], value: Any, place: tuple[Any, ...], subject: str
) -> Iterator[FineryError]:
    """An error for each way in which `value`, at `place` of the recipe, breaks `schema`.

    subject: what the value is, e.g. the step type.
    """
    if fits(schema, value):
        return
    for error in _validator()(schema).iter_errors(value):
        yield from _translated(recipe, error, place, subject)


@lru_cache(maxsize=1)
def _validator() -> Any:
    """The validator, except that 2.0 is no whole number: settings are typed strictly."""
    from jsonschema import Draft202012Validator, validators

    extend: Any = validators.extend  # not annotated there
    types = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return extend(Draft202012Validator, type_checker=types)


def _translated(
    recipe: Recipe, error: Any, place: tuple[Any, ...], subject: str
) -> Iterator[FineryError]:
    if error.validator == "additionalProperties":
        yield from _unknown(recipe, error, place, subject)
    elif error.validator == "required":
        yield from _missing(recipe, error, place, subject)
    elif error.validator in ("anyOf", "oneOf") and (meant := _branch_meant(error)):
        for inner in meant:
            yield from _translated(recipe, inner, place, subject)
    else:
        what = f"'{_label(error) or subject}' can't be {literal(error.instance)}"
        yield recipe.error(what, (*place, *error.absolute_path), fix=_fix(error))


def _unknown(
    recipe: Recipe, error: Any, place: tuple[Any, ...], subject: str
) -> Iterator[FineryError]:
    known = list(error.schema.get("properties", {}))
    owner = f"'{_label(error)}' of {subject}" if error.absolute_path else subject
    for key in error.instance:
        if key not in known:
            yield recipe.error(
                f"unknown setting '{key}' of {owner}",
                (*place, *error.absolute_path, key),
                key=True,
                fix=did_you_mean(key, known),
            )


def _missing(
    recipe: Recipe, error: Any, place: tuple[Any, ...], subject: str
) -> Iterator[FineryError]:
    known = error.schema["properties"]
    key = next(
        k for k in error.validator_value if k not in error.instance and repr(k) in error.message
    )
    if any(nearest(k, known) == key for k in error.instance if k not in known):
        return  # mistyped, and reported as unknown
    owner = f"'{_label(error)}' of {subject}" if error.absolute_path else subject
    text = known.get(key, {}).get("description", "").partition("\n")[0]
    yield recipe.error(
        f"{owner} needs '{key}'",
        (*place, *error.absolute_path),
        key=True,
        fix=f"{key}: {text}" if text else f"add {key}: …",
    )


def _branch_meant(error: Any) -> list[Any]:
    """Of an anyOf: the complaints of the one branch whose type fits; none if several do."""
    branches: dict[Any, list[Any]] = {}
    for inner in error.context:
        branches.setdefault(inner.schema_path[0], []).append(inner)
    fitting = [
        complaints
        for complaints in branches.values()
        if not any(e.validator == "type" and not e.path for e in complaints)
    ]
    return fitting[0] if len(fitting) == 1 else []


def _label(error: Any) -> str:
    """Where in the value: `lora.r`, `path[1]`."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    return "".join(parts).removeprefix(".")


def literal(value: Any) -> str:
    """A value of a recipe, as messages show it."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            text = without_secrets(value)
            return f"'{text}'" if len(text) <= LONGEST else f"'{text[: LONGEST - 1]}…'"
        case dict():
            return "a mapping" if value else "an empty mapping"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return str(value)


def _fix(error: Any) -> str:
    match error.validator:
        case "enum":
            return did_you_mean(str(error.instance), map(str, error.validator_value)) or "drop it"
        case "pattern" if error.schema.get("description"):
            return f"{_label(error)}: {error.schema['description'].partition(chr(10))[0]}"
        case _:
            return f"give {phrase(error.schema)}{_hint(error)}"


def _hint(error: Any) -> str:
    """How to write the value, where only brackets or quotes are wrong."""
    value, kinds = error.instance, _kinds(error.schema)
    if "string" in kinds and isinstance(value, (bool, int, float)):
        return " (put it in quotes)"
    if kinds & {"integer", "number"} and isinstance(value, str) and _is_number(value):
        return f" (without quotes: {value})"
    if "array" in kinds and isinstance(value, str):
        return f": [{value}]"
    return ""


def _kinds(schema: dict[str, Any]) -> set[str]:
    named = schema.get("type", [])
    return {named} if isinstance(named, str) else {*named, *_kinds_of(schema.get("anyOf", []))}


def _kinds_of(schemas: Iterable[dict[str, Any]]) -> set[str]:
    return {kind for schema in schemas for kind in _kinds(schema)}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def phrase(schema: dict[str, Any]) -> str:
    """What a schema takes, in words: `a whole number, at least 1`."""
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(str(v) for v in schema["enum"])
    for form in ("anyOf", "oneOf"):
        if form in schema:
            return " or ".join(phrase(s) for s in schema[form] if s != {"type": "null"})
    if "$ref" in schema:
        return "a mapping of settings"
    kinds = schema.get("type", "something else")
    words = [_TYPES.get(k, k) for k in ([kinds] if isinstance(kinds, str) else kinds)]
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    if "pattern" in schema and "description" not in schema:
        limits.append(f"matching {schema['pattern']}")
    return ", ".join([" or ".join(words) + _inside(schema), *limits])


def _inside(schema: dict[str, Any]) -> str:
    """What a list or a mapping holds."""
    if schema.get("items"):
        return f" of {_plural(phrase(schema['items']))}"
    if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        return f" of names to {_plural(phrase(schema['additionalProperties']))}"
    return ""


def _plural(words: str) -> str:
    for one in ("a whole number", "a number", "a list"):
        if words.startswith(one):
            return f"{one[2:]}s{words[len(one) :]}"
    return words
