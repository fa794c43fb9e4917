"""JSON Schemas (2020-12) made from the step types, and the check of a recipe against them."""

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from finery.advice import known_notes
from finery.artifacts import Artifact
from finery.errors import FineryError, PluginError, RecipeError, UsageError, did_you_mean, nearest
from finery.plugins import Plugins
from finery.recipe import Recipe
from finery.step import (
    RESERVED,
    SECTIONS,
    FieldInfo,
    Files,
    OneFile,
    Step,
    full_name,
    inner_of,
    inputs_of,
    sections_of,
)
from finery.wording import complaints, literal

NAME = "^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$"
"""A step's name: it becomes a folder's name and part of `step.output`."""
_NAME_FIX = "use letters, digits, - and _, starting with a letter or digit (at most 100)"

_STEP_KEYS: dict[str, Any] = {
    "needs": {
        "description": "Steps to wait for, and to be blocked by when they fail.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    },
    "seed": {
        "description": "The step's seed. Default: from the recipe's seed and the step's name.",
        "type": "integer",
        "minimum": 0,
        "maximum": 2**31 - 1,
    },
    "env": {
        "description": "Names of environment variables that are passed to the step, e.g. API keys.",
        "type": "array",
        "items": {
            "type": "string",
            "pattern": "^[A-Za-z_][A-Za-z0-9_]*$",
            "description": "A variable's name, e.g. OPENAI_API_KEY.",
        },
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
    "silence": {
        "type": "array",
        "items": {
            "type": "string",
            "description": "A note's name; for one step only, with the step before: sft/epochs.",
        },
        "description": "Notes not to give, e.g. few-rows, or sft/few-rows for one step.",
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
        raise PluginError(f"{full_name(cls)}: a setting's type has no schema: {error}") from error
    own = defs.pop(cls.__name__)
    properties: dict[str, Any] = {"use": {"type": "string"}, **own["properties"], **_STEP_KEYS}
    for field, accepts in inputs_of(cls).items():
        properties[field] = _input_schema(cls, field, accepts.kind, accepts.many, accepts.optional)
    for field, info in inner_of(cls).items():
        defs.pop(Step.__name__, None)
        properties[field] = _inner_schema(info)
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


def _inner_schema(info: FieldInfo) -> dict[str, Any]:
    """A step inside a step; what it holds is checked by `_check_inner`, type by type."""
    return {
        "description": info.help,
        "type": ["object", "null"],
        "properties": {"use": {"type": "string", "description": "Its step type."}},
        "required": ["use"],
    }


def _custom_schema(kind: type) -> dict[str, Any]:
    if issubclass(kind, Artifact | OneFile):
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
        "type": ["object", "null"],
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
    return [
        *_check_top(recipe),
        *_check_silence(recipe, plugins),
        *_check_steps(recipe, plugins),
    ]


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
    elif recipe.data["finery"] != 1 or isinstance(recipe.data["finery"], bool):
        yield recipe.error(
            f"recipe language {literal(recipe.data['finery'])} isn't one that this finery reads",
            ["finery"],
            fix="write `finery: 1`",
        )
    name = recipe.data.get("name")
    if isinstance(name, str) and not is_name(name):
        yield recipe.error(f"a recipe can't be named '{name}'", ["name"], fix=_NAME_FIX)
    for key, schema in _TOP.items():
        if key in recipe.data and key != "finery" and not (key == "name" and isinstance(name, str)):
            yield from complaints(recipe, schema, recipe.data[key], (key,), key)


def _check_silence(recipe: Recipe, plugins: Plugins) -> Iterator[FineryError]:
    """An error for each silenced note that no plugin gives, or whose step isn't there."""
    silenced = recipe.data.get("silence")
    if not isinstance(silenced, list):
        return
    known = known_notes(plugins)
    steps = [n for s in SECTIONS if isinstance(recipe.data.get(s), dict) for n in recipe.data[s]]
    for index, text in enumerate(silenced):
        if not isinstance(text, str):
            continue
        step, slash, name = text.rpartition("/")
        place = ("silence", index)
        if name not in known:
            yield recipe.error(f"there is no note '{name}'", place, fix=did_you_mean(name, known))
        if slash and step not in steps:
            yield recipe.error(f"there is no step '{step}'", place, fix=did_you_mean(step, steps))


def is_name(text: str) -> bool:
    """Whether a step or a recipe can be named so."""
    return re.fullmatch(NAME.strip("^$"), text) is not None


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
    recipe: Recipe, plugins: Plugins, section: str, name: str, step: Any
) -> Iterator[FineryError]:
    place = (section, name)
    if not is_name(name):
        yield recipe.error(f"a step can't be named '{name}'", place, key=True, fix=_NAME_FIX)
        return
    if not isinstance(step, dict):
        yield recipe.error(f"step '{name}' is a mapping", place, fix=f"{name}: {{use: …}}")
        return
    use = step.get("use")
    if not isinstance(use, str):
        yield _without_use(recipe, plugins, place, step)
        return
    if use not in plugins.step_types:
        yield recipe.error(f"unknown step type '{use}'", (*place, "use"), fix=plugins.suggest(use))
        return
    try:
        cls = plugins.step_type(use)
        schema, sections = step_schema(cls), sections_of(cls)
    except PluginError as error:
        yield recipe.error(error.what, (*place, "use"), fix=error.fix)
        return
    if section not in sections:
        yield recipe.error(
            f"step type '{use}' doesn't belong in section '{section}'",
            (*place, "use"),
            fix=f"move step '{name}' to section {' or '.join(sections)}",
        )
        return
    yield from complaints(recipe, schema, step, place, use)
    for field, info in inner_of(cls).items():
        if isinstance(step.get(field), dict):
            yield from _check_inner(recipe, plugins, (*place, field), step[field], info)


def _check_inner(
    recipe: Recipe, plugins: Plugins, place: tuple[str, ...], step: Any, info: FieldInfo
) -> Iterator[FineryError]:
    use = step.get("use")
    if not isinstance(use, str):
        return  # the outer step's schema says so
    fitting = _types_for(info.section, plugins)
    if use not in fitting:
        what = f"'{use}' is no step type for section {info.section}"
        yield recipe.error(what, (*place, "use"), fix=did_you_mean(use, fitting))
        return
    schema = step_schema(plugins.step_type(use))
    for key in (*_STEP_KEYS, *info.given):
        schema["properties"].pop(key, None)
    schema["required"] = [key for key in schema["required"] if key not in info.given]
    yield from complaints(recipe, schema, step, place, use)


def _without_use(
    recipe: Recipe, plugins: Plugins, place: tuple[str, str], step: dict[str, Any]
) -> FineryError:
    near = nearest("use", step)
    fix = f"use: one of {', '.join(_types_for(place[0], plugins))}"
    if near == "use":
        return recipe.error("'use' names one step type", (*place, "use"), fix=fix)
    if near:
        what = f"step '{place[1]}' has no 'use'"
        return recipe.error(what, (*place, near), key=True, fix=f"write 'use', not '{near}'")
    return recipe.error(f"step '{place[1]}' doesn't say its step type", place, key=True, fix=fix)


def _types_for(section: str, plugins: Plugins) -> list[str]:
    """Step types that a section takes, for a hint; broken ones are left to where they are used."""
    found = []
    for name in sorted(plugins.step_types):
        with contextlib.suppress(PluginError):
            if section in sections_of(plugins.step_type(name)):
                found.append(name)
    return found


def convert_step(
    recipe: Recipe, section: str, name: str, cls: type[Step], plugins: Plugins
) -> Step:
    """The step as an instance of its type, with placeholders for artifacts; defaults filled in."""
    return _converted(recipe, (section, name), recipe.data[section][name], cls, plugins)


def _converted(
    recipe: Recipe, place: tuple[str, ...], written: Any, cls: type[Step], plugins: Plugins
) -> Step:
    inner = {f: written[f] for f in inner_of(cls) if written.get(f) is not None}
    given = {k: v for k, v in written.items() if k not in RESERVED and k not in inner}
    for field, accepts in inputs_of(cls).items():
        if accepts.many and isinstance(given.get(field), str):
            given[field] = [given[field]]
    try:
        step = msgspec.convert(given, cls, dec_hook=_decode)
    except msgspec.ValidationError as error:
        what, _, inside = str(error).partition(" - at `$.")
        where = (*place, *inside.rstrip("`").split(".")) if inside else place
        raise recipe.error(
            f"step '{place[1]}': {what}",
            where,
            fix=f"`finery plugins {written['use']}` tells its settings",
        ) from error
    for field, within in inner.items():
        filled = {**within, **inner_of(cls)[field].given}
        kind = plugins.step_type(within["use"])
        setattr(step, field, _converted(recipe, (*place, field), filled, kind, plugins))
    return step


def _decode(kind: Any, value: Any) -> Any:
    if issubclass(kind, Artifact):
        return kind.placeholder(value)
    return kind([value] if isinstance(value, str) else value)


class RecipeErrors(UsageError):
    """Several mistakes of one recipe, printed one after the other."""

    def __init__(self, errors: list[FineryError]) -> None:
        super().__init__(f"{len(errors)} mistakes")
        self.errors = errors

    def __str__(self) -> str:
        return "\n\n".join(str(e) for e in self.errors)


def _position(error: FineryError) -> tuple[str, int, int]:
    file, line, column = ["", "", *(error.where or "").rsplit(":", 2)][-3:]
    whole = line.isdecimal() and column.isdecimal()
    return (file, int(line), int(column)) if whole else (error.where or "", 0, 0)


def raise_all(found: Iterable[FineryError]) -> None:
    """Raise one error, or several as one, in the order of the file; return when there is none."""
    # An anchor that several steps share has its mistakes once.
    errors = sorted({(e.where, e.what): e for e in found}.values(), key=_position)
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
