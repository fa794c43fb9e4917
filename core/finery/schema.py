"""JSON Schemas (2020-12) made from the step types, and the check of a recipe against them."""

from collections.abc import Iterator
from typing import Any

import msgspec

from finery.artifacts import Artifact
from finery.errors import FineryError, PluginError, RecipeError, UsageError, did_you_mean
from finery.plugins import Plugins
from finery.recipe import Recipe
from finery.step import SECTIONS, Files, Step, inputs_of, sections_of

NAME = "^[A-Za-z0-9][A-Za-z0-9_-]*$"
"""A step's name: it becomes a folder's name and part of `step.output`."""

_STEP_KEYS: dict[str, Any] = {
    "needs": {
        "description": "Steps to wait for, and to be blocked by when they fail.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    },
    "seed": {
        "description": "The step's seed. Default: derived from the recipe's seed and the step's name.",
        "type": "integer",
        "minimum": 0,
        "maximum": 2**31 - 1,
    },
    "env": {
        "description": "Names of environment variables that are passed to the step, e.g. API keys.",
        "type": "array",
        "items": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
    },
}
_TOP: dict[str, Any] = {
    "finery": {"const": 1, "description": "The version of the recipe language."},
    "name": {
        "type": "string",
        "pattern": NAME,
        "description": "The recipe's name; build/NAME/ holds what it makes.",
    },
    "seed": {
        "type": "integer",
        "minimum": 0,
        "maximum": 2**31 - 1,
        "description": "Seeds of steps derive from it. Default 0.",
    },
    "plugins": {
        "type": "array",
        "items": {"type": "string"},
        "description": "Plugin files beside the recipe, e.g. ./checks.py.",
    },
}
_SECTION_HELP = {
    "models": "Models to start from, to compare with, or to generate with.",
    "data": "Rows from outside, and what selects and splits them.",
    "generate": "Rows that a model makes.",
    "train": "Models made from models and rows.",
    "evaluate": "Judgements of models on rows; `require:` makes one a gate.",
    "export": "What is shipped.",
}


def step_schema(cls: type[Step]) -> dict[str, Any]:
    """The schema of one step of this type, as it is written in a recipe; self-contained."""
    try:
        (_,), defs = msgspec.json.schema_components(
            [cls], schema_hook=_custom_schema, ref_template="#/$defs/{name}"
        )
    except TypeError as error:
        raise PluginError(
            f"{cls.__module__}.{cls.__qualname__}: a setting's type has no schema: {error}"
        ) from error
    own = defs.pop(cls.__name__)
    properties: dict[str, Any] = {"use": {"type": "string"}, **own["properties"], **_STEP_KEYS}
    for field, accepts in inputs_of(cls).items():
        properties[field] = _input_schema(cls, field, accepts.kind, accepts.many, accepts.optional)
    made = {
        "type": "object",
        "description": (cls.__doc__ or "").strip(),
        "properties": properties,
        "required": ["use", *own.get("required", [])],
        "additionalProperties": False,
    }
    return {**made, "$defs": defs} if defs else made


def _input_schema(
    cls: type[Step], field: str, kind: type[Artifact], many: bool, optional: bool
) -> dict[str, Any]:
    one = {"type": "string"}
    forms: list[dict[str, Any]] = [one]
    if many:
        forms.append({"type": "array", "items": one, "minItems": 1})
    if optional:
        forms.append({"type": "null"})
    text = cls.__finery_fields__[field].help
    note = f"Names a step that makes a {kind.kind}" + (", or a list of them." if many else ".")
    made = {"description": f"{text} {note}".strip()}
    return {**made, **one} if len(forms) == 1 else {**made, "anyOf": forms}


def _custom_schema(kind: type) -> dict[str, Any]:
    if issubclass(kind, Artifact):
        return {"type": "string"}
    if issubclass(kind, Files):
        return {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
            ]
        }
    raise NotImplementedError(f"no schema for {kind}")


def recipe_schema(plugins: Plugins) -> dict[str, Any]:
    """The schema of whole recipes with the step types that are installed, for editors."""
    defs: dict[str, Any] = {}
    by_section: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for name in sorted(plugins.step_types):
        cls = plugins.step_type(name)
        schema = step_schema(cls)
        schema["properties"]["use"] = {"const": name, "description": _first_line(cls)}
        inner = schema.pop("$defs", {})
        defs[name] = _renamed(schema, name)
        defs |= {f"{name}.{key}": _renamed(value, name) for key, value in inner.items()}
        for section in sections_of(cls):
            by_section[section].append(name)
    sections = {s: _section_schema(names, _SECTION_HELP[s]) for s, names in by_section.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "finery recipe",
        "type": "object",
        "properties": {**_TOP, **sections},
        "patternProperties": {"^x-": {"description": "Anything: a place for YAML anchors."}},
        "required": ["finery"],
        "additionalProperties": False,
        "$defs": defs,
    }


def _section_schema(names: list[str], text: str) -> dict[str, Any]:
    # A chain of if/then, not oneOf: an editor then shows what is wrong with the type that `use`
    # names, instead of that none of twenty types fit.
    branches = [
        {
            "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
            "then": {"$ref": f"#/$defs/{name}"},
        }
        for name in names
    ]
    step = {
        "type": "object",
        "required": ["use"],
        "properties": {"use": {"enum": names}},
        "allOf": branches,
    }
    return {
        "type": "object",
        "description": text,
        "propertyNames": {"pattern": NAME},
        "additionalProperties": step,
    }


def _renamed(schema: Any, name: str) -> Any:
    """Point a step schema's `$ref`s at the names its parts have in the recipe schema."""
    if isinstance(schema, dict):
        return {
            k: v.replace("#/$defs/", f"#/$defs/{name}.") if k == "$ref" else _renamed(v, name)
            for k, v in schema.items()
        }
    return [_renamed(v, name) for v in schema] if isinstance(schema, list) else schema


def _first_line(cls: type[Step]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def check_recipe(recipe: Recipe, plugins: Plugins) -> list[FineryError]:
    """Every way in which the recipe breaks its schema, with positions; empty when it is fine."""
    return [*_check_top(recipe), *_check_steps(recipe, plugins)]


def _check_top(recipe: Recipe) -> Iterator[FineryError]:
    known = [*_TOP, *SECTIONS]
    for key in recipe.data:
        if key not in known and not key.startswith("x-"):
            yield recipe.error(
                f"unknown section '{key}'", [key], key=True, fix=did_you_mean(key, known)
            )
    if "finery" not in recipe.data:
        yield recipe.error(
            "the recipe doesn't say which recipe language it is in",
            fix="put `finery: 1` at its top",
        )
    for key, schema in _TOP.items():
        if key in recipe.data:
            yield from _errors(recipe, schema, recipe.data[key], (key,), key)


def _check_steps(recipe: Recipe, plugins: Plugins) -> Iterator[FineryError]:
    for section in SECTIONS:
        steps = recipe.data.get(section)
        if steps is None:
            continue
        if not isinstance(steps, dict):
            yield recipe.error(
                f"section '{section}' maps names to steps",
                [section],
                fix=f"{section}: {{NAME: {{use: …}}}}",
            )
            continue
        for name, step in steps.items():
            yield from _check_step(recipe, plugins, section, name, step)


def _check_step(
    recipe: Recipe, plugins: Plugins, section: str, name: Any, step: Any
) -> Iterator[FineryError]:
    import re

    place = (section, name)
    if not re.match(NAME, str(name)):
        yield recipe.error(
            f"a step can't be named '{name}'", place, key=True,
            fix="use letters, digits, - and _, starting with a letter or digit",
        )  # fmt: skip
        return
    if not isinstance(step, dict):
        yield recipe.error(f"step '{name}' is a mapping", place, fix=f"{name}: {{use: …}}")
        return
    use = step.get("use")
    if not isinstance(use, str):
        kinds = [n for n in plugins.step_types if section in sections_of(plugins.step_type(n))]
        yield recipe.error(
            f"step '{name}' doesn't say its step type",
            place,
            key=True,
            fix=f"use: one of {', '.join(sorted(kinds))}",
        )
        return
    if use not in plugins.step_types:
        yield recipe.error(f"unknown step type '{use}'", (*place, "use"), fix=plugins.suggest(use))
        return
    try:
        cls = plugins.step_type(use)
        schema = step_schema(cls)
    except PluginError as error:
        yield recipe.error(error.what, (*place, "use"), fix=error.fix)
        return
    if section not in sections_of(cls):
        yield recipe.error(
            f"step type '{use}' doesn't belong in section '{section}'", (*place, "use"),
            fix=f"move step '{name}' to: {', '.join(sections_of(cls))}",
        )  # fmt: skip
        return
    yield from _errors(recipe, schema, step, place, use)


def _errors(
    recipe: Recipe, schema: dict[str, Any], value: Any, place: tuple[Any, ...], subject: str
) -> Iterator[FineryError]:
    from jsonschema import Draft202012Validator

    for error in Draft202012Validator(schema).iter_errors(value):
        yield from _translated(recipe, error, place, subject)


def _translated(
    recipe: Recipe, error: Any, place: tuple[Any, ...], subject: str
) -> Iterator[FineryError]:
    """A jsonschema error in the words of recipes."""
    here = (*place, *error.absolute_path)
    inside = tuple(error.absolute_path)
    label = ".".join(str(p) for p in inside) or subject
    match error.validator:
        case "additionalProperties":
            known = list(error.schema.get("properties", {}))
            for key in error.instance:
                if key not in known:
                    owner = f"'{'.'.join(map(str, inside))}' of {subject}" if inside else subject
                    yield recipe.error(
                        f"unknown setting '{key}' of {owner}",
                        (*here, key),
                        key=True,
                        fix=did_you_mean(key, known),
                    )
        case "required":
            missing = [k for k in error.validator_value if k not in error.instance]
            key = next(k for k in missing if repr(k) in error.message)
            text = error.schema["properties"].get(key, {}).get("description", "").partition("\n")[0]
            yield recipe.error(
                f"{subject} needs '{key}'",
                here,
                key=True,
                fix=f"{key}: {text}" if text else f"add {key}: …",
            )
        case "anyOf" | "oneOf":
            yield recipe.error(
                f"'{label}' can't be {_literal(error.instance)}",
                here,
                fix=_expected({"anyOf": _explained(error)}, label),
            )
        case _:
            yield recipe.error(
                f"'{label}' can't be {_literal(error.instance)}",
                here,
                fix=_expected(error.schema, label, error),
            )


def _explained(error: Any) -> list[Any]:
    """The branches of an anyOf, with the one that got furthest described by its own complaint."""
    return list(error.validator_value)


def _literal(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    if value is None:
        return "empty"
    return (
        f"'{value}'"
        if isinstance(value, str)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


_TYPE_WORDS = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a mapping", "null": "null",
}  # fmt: skip
_LIMITS = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}",
    "exclusiveMaximum": "less than {}", "minItems": "at least {} of them", "maxItems": "at most {} of them",
    "minLength": "at least {} characters", "maxLength": "at most {} characters", "pattern": "like {}",
}  # fmt: skip


def _expected(schema: dict[str, Any], label: str, error: Any = None) -> str:
    if error is not None and error.validator == "enum":
        guess = did_you_mean(str(error.instance), [str(v) for v in error.validator_value])
        return guess or "see `finery plugins`"
    return f"give {describe_phrase(schema)}"


def describe_phrase(schema: dict[str, Any]) -> str:
    """A schema in words: `a whole number, at least 1`."""
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(str(v) for v in schema["enum"])
    for form in ("anyOf", "oneOf"):
        if form in schema:
            return " or ".join(describe_phrase(s) for s in schema[form])
    if "$ref" in schema:
        return "a mapping of settings"
    kinds = schema.get("type", "something else")
    words = [_TYPE_WORDS.get(k, k) for k in ([kinds] if isinstance(kinds, str) else kinds)]
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    return ", ".join([" or ".join(words), *limits])


def convert_step(recipe: Recipe, section: str, name: str, cls: type[Step]) -> Step:
    """The step as an instance of its type, with placeholders for artifacts; defaults filled in."""
    given = {
        k: v
        for k, v in recipe.data[section][name].items()
        if k not in ("use", "needs", "seed", "env")
    }
    for field, accepts in inputs_of(cls).items():
        if accepts.many and isinstance(given.get(field), str):
            given[field] = [given[field]]
    try:
        return msgspec.convert(given, cls, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise recipe.error(
            f"step '{name}': {error}", (section, name), fix="see `finery plugins`"
        ) from error


def _decode(kind: type, value: Any) -> Any:
    if issubclass(kind, Artifact):
        return kind.placeholder(value)
    return Files([value] if isinstance(value, str) else value)


class RecipeErrors(UsageError):
    """Several mistakes of one recipe, printed one after the other."""

    def __init__(self, errors: list[FineryError]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = errors

    def __str__(self) -> str:
        return "\n\n".join(str(e) for e in self.errors)


def raise_all(errors: list[FineryError]) -> None:
    """Raise one error, or several as one; return when there is none."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise RecipeErrors(errors)


__all__ = [
    "RecipeError",
    "RecipeErrors",
    "check_recipe",
    "convert_step",
    "raise_all",
    "recipe_schema",
    "step_schema",
]
