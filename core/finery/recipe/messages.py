"""Violations of a JSON Schema, in the words of recipes."""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from finery.errors import FineryError
from finery.recipe.document import Recipe
from finery.recipe.fits import fits
from finery.recipe.hints import Aliases, aliased_setting, aliases_of, groups_of, setting_fix
from finery.recipe.yaml import redact_secrets
from finery.step.step import Step
from finery.util.text import counted, did_you_mean, nearest, shortened

MAX_SHOWN = 60
"""Maximum characters of a wrong value that are shown."""

_TYPE_WORDS = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a mapping", "null": "null",
}  # fmt: skip
_LIMIT_WORDS = {
    "minimum": "at least {}", "exclusiveMinimum": "greater than {}", "maximum": "at most {}",
    "exclusiveMaximum": "less than {}", "minLength": "at least {} characters",
    "maxLength": "at most {} characters", "minItems": "at least {} of them",
    "maxItems": "at most {} of them", "minProperties": "at least {} of them",
}  # fmt: skip


class _Subject(NamedTuple):
    """What is checked: `schema` of the value at `place` of a recipe, called `name` in messages."""

    recipe: Recipe
    place: tuple[Any, ...]
    name: str
    schema: dict[str, Any]
    aliases: Aliases


def schema_errors(
    recipe: Recipe,
    schema: dict[str, Any],
    value: Any,
    place: tuple[Any, ...],
    subject: str,
    cls: type[Step] | None = None,
) -> Iterator[FineryError]:
    """An error for each way in which `value`, at `place` of the recipe, breaks `schema`.

    subject: what the value is, e.g. the step type. cls: that step type, for its aliases.
    """
    if fits(schema, value):
        return
    about = _Subject(recipe, place, subject, schema, aliases_of(cls))
    for error in _validator()(schema).iter_errors(value):
        yield from _translate(about, error)


@lru_cache(maxsize=1)
def _validator() -> Any:
    """The validator, except that 2.0 isn't an integer, because settings are strictly typed."""
    from jsonschema import Draft202012Validator, validators

    extend: Any = validators.extend  # not annotated there
    types = Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    return extend(Draft202012Validator, type_checker=types)


def _translate(subject: _Subject, error: Any) -> Iterator[FineryError]:
    if error.validator == "additionalProperties":
        yield from _unknown_setting_errors(subject, error)
    elif error.validator == "required":
        yield from _missing_setting_errors(subject, error)
    elif error.validator in ("anyOf", "oneOf") and (branch_errors := _intended_branch(error)):
        for inner in branch_errors:
            yield from _translate(subject, inner)
    else:
        problem = f"'{_label(error) or subject.name}' can't be {literal(error.instance)}"
        place = (*subject.place, *error.absolute_path)
        yield subject.recipe.error(problem, place, fix=_error_fix(subject, error))


def _unknown_setting_errors(subject: _Subject, error: Any) -> Iterator[FineryError]:
    settings = list(error.schema.get("properties", {}))
    label = _label(error)
    owner = f"'{label}' of {subject.name}" if label else subject.name
    for key, value in error.instance.items():
        if key not in settings:
            yield subject.recipe.error(
                f"unknown setting '{key}' of {owner}",
                (*subject.place, *error.absolute_path, key),
                key=True,
                fix=setting_fix(
                    key, value, label, subject.schema, settings, subject.name, subject.aliases
                ),
            )


def _missing_setting_errors(subject: _Subject, error: Any) -> Iterator[FineryError]:
    settings, label = error.schema["properties"], _label(error)
    key = next(
        k for k in error.validator_value if k not in error.instance and repr(k) in error.message
    )
    dotted_name = f"{label}.{key}" if label else key
    unknown = [unknown_name for unknown_name in error.instance if unknown_name not in settings]
    if any(
        aliased_setting(unknown_name, label, subject.aliases) == dotted_name
        for unknown_name in unknown
    ) or any(nearest(unknown_name, settings) == key for unknown_name in unknown):
        return  # written under another name, and reported as unknown
    owner = f"'{label}' of {subject.name}" if label else subject.name
    text = settings.get(key, {}).get("description", "").partition("\n")[0]
    yield subject.recipe.error(
        f"{owner} needs '{key}'",
        (*subject.place, *error.absolute_path),
        key=True,
        fix=f"{key}: {text}" if text else f"add {key}: …",
    )


def _intended_branch(error: Any) -> list[Any]:
    """For anyOf: the errors of the only branch with a fitting type; empty if several fit."""
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
    """The path inside the value: `lora.r`, `path[1]`."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    return "".join(parts).removeprefix(".")


def literal(value: Any) -> str:
    """A value of a recipe as messages show it."""
    match value:
        case None:
            return "empty"
        case bool():
            return str(value).lower()
        case str():
            return f"'{shortened(redact_secrets(value), MAX_SHOWN)}'"
        case dict():
            return "a mapping" if value else "an empty mapping"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return str(value)


def _error_fix(subject: _Subject, error: Any) -> str:
    label, value = _label(error) or subject.name, error.instance
    keys = subject.schema.get("properties", {})
    if len(error.absolute_path) == 1 and label not in keys and (near := nearest(label, keys)):
        return f"did you mean '{near}'?"
    if fix := subject.aliases.value_fix(label, value):
        return fix
    if fix := value_fix(label, value, _kinds(error.schema), error.schema):
        return fix
    forms = error.schema.get("anyOf", [error.schema])
    if isinstance(value, str) and any("use" in form.get("properties", ()) for form in forms):
        return f"write {{use: {value}}}"
    match error.validator:
        case "enum":
            fitting = [str(allowed) for allowed in error.validator_value]
            return did_you_mean(str(value), fitting) or f"remove {label}"
        case "pattern" if error.schema.get("description"):
            return f"{label}: {error.schema['description'].partition(chr(10))[0]}"
        case _:
            return f"give {phrase(error.schema)}{_value_hint(subject, error)}"


def _value_hint(subject: _Subject, error: Any) -> str:
    """How to write the value if only the quotes are wrong, or else an example."""
    value, kinds, label = error.instance, _kinds(error.schema), _label(error)
    if "string" in kinds and isinstance(value, (bool, int, float)):
        return " (put it in quotes)"
    if value is None:
        return f", or remove the line {label}:" if label and "default" in error.schema else ""
    settings = groups_of(subject.schema).get(label)
    if settings:
        name, field = next(iter(settings.items()))
        return f", such as {label}: {{{name}: {field.get('default', '…')}}}"
    return ""


def _kinds(schema: dict[str, Any]) -> set[str]:
    named = schema.get("type", [])
    if isinstance(named, str):
        return {named}
    return {*named}.union(*map(_kinds, schema.get("anyOf", [])))


def phrase(schema: dict[str, Any]) -> str:
    """The values that a schema accepts, in words: `a whole number, at least 1`."""
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
    words = [_TYPE_WORDS.get(k, k) for k in ([kinds] if isinstance(kinds, str) else kinds)]
    limits = [text.format(schema[key]) for key, text in _LIMIT_WORDS.items() if key in schema]
    if "pattern" in schema and "description" not in schema:
        limits.append(f"matching {schema['pattern']}")
    return ", ".join([" or ".join(words) + _content_words(schema), *limits])


def _content_words(schema: dict[str, Any]) -> str:
    """The contents of a list or a mapping, in words."""
    if schema.get("items"):
        return f" of {_plural(phrase(schema['items']))}"
    if isinstance(schema.get("additionalProperties"), dict) and schema["additionalProperties"]:
        return f" of names to {_plural(phrase(schema['additionalProperties']))}"
    return ""


def _plural(words: str) -> str:
    for singular in ("a whole number", "a number", "a list", "a mapping"):
        if words.startswith(singular):
            return f"{singular[2:]}s{words[len(singular) :]}"
    return words


_TRUE_WORDS, _FALSE_WORDS = (
    frozenset({"true", "yes", "on", "y", "1"}),
    frozenset({"false", "no", "off", "n", "0"}),
)
_NULL_WORDS = frozenset({"none", "null", "nil", "nan", "na", "undefined", "~"})
_THOUSANDS = re.compile(r"\d{1,3}([ ,']\d{3})+")


def value_fix(label: str, value: Any, kinds: set[str], schema: dict[str, Any]) -> str | None:
    """The fix for a wrong value; None if the schema's message can't be improved.

    label: the name of the setting in messages. kinds: the types that it accepts, in JSON Schema's
    terms. schema: of the value.
    """
    name = label.rpartition(".")[2]
    if isinstance(value, str):
        return _text_fix(name, value, kinds, schema)
    if isinstance(value, bool):
        return f"write {name}: null" if "null" in kinds and not value else None
    if isinstance(value, (int, float)):
        return _number_fix(name, value, kinds, schema)
    if isinstance(value, list) and "array" not in kinds:
        return _list_fix(name, value, kinds)
    if isinstance(value, dict) and "array" in kinds and value:
        return f"write {name}: [{', '.join(value)}]"
    return None


def number_of(text: str) -> str | None:
    """The number that a text means, in YAML notation; None if it doesn't mean one."""
    share = text.removesuffix("%").strip()
    if share != text and (number := _is_finite(share.replace(",", "."))) is not None:
        return f"{number / 100:g}"
    if _THOUSANDS.fullmatch(text):
        return re.sub(r"\D", "", text)
    for candidate in (text, text.replace(",", ".")):
        if _is_finite(candidate) is not None:
            return candidate
    return None


def _is_finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _text_fix(name: str, text: str, kinds: set[str], schema: dict[str, Any]) -> str | None:
    if "null" in kinds and text.strip().lower() in _NULL_WORDS:
        return f"write {name}: null"
    if kinds & {"integer", "number"} and (number := number_of(text)):
        return f"write {name}: {number}"
    if "boolean" in kinds and text.strip().lower() in _TRUE_WORDS | _FALSE_WORDS:
        return f"write {name}: {'true' if text.strip().lower() in _TRUE_WORDS else 'false'}"
    if "array" in kinds and not text.lstrip().startswith("-"):
        items = re.split(r"[,;]? +|[,;]", text.strip())
        forms = (schema, *schema.get("anyOf", ()))
        accepted = set[str]().union(*(_kinds(form.get("items", {})) for form in forms))
        if not accepted or "string" in accepted or all(map(number_of, items)):
            return f"write {name}: [{', '.join(items)}]"
    return None


def _number_fix(name: str, value: float, kinds: set[str], schema: dict[str, Any]) -> str | None:
    if "boolean" in kinds and value in (0, 1):
        return f"write {name}: {'true' if value else 'false'}"
    limit = schema.get("maximum", schema.get("exclusiveMaximum"))
    if limit == 1 and 2 <= value < 100:
        return f"write {name}: {value / 100:g} for {value:g} %"
    if "array" in kinds and "integer" in _kinds(schema.get("items", {})):
        return f"write {name}: [{value}]"
    return None


def _list_fix(name: str, value: list[Any], kinds: set[str]) -> str | None:
    if "string" not in kinds or not all(isinstance(item, str) for item in value):
        return None
    if len(value) == 1:
        return f"write {name}: {value[0]}"
    return f"write one of the {counted(len(value), 'name')}" if value else None
