"""The schema of recipes for editors: every step type with titles and defaults."""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from finery.errors import PluginError
from finery.fields import FieldInfo
from finery.recipe.schema import _STEP_KEYS, _TOP, NAME, step_schema
from finery.recipe.steptypes import StepTypes
from finery.step.inspect import SECTIONS, nested_fields, sections_of
from finery.step.step import Step

TITLE = "finery recipe"
STEPS = "steps"
"""`$defs/steps.<section>` is any step of a section."""
LONGEST_DEFAULT = 60
"""Maximum characters of a default that are shown."""
_SECTION_HELP = {
    "models": "Models to train, to compare with, or to generate rows with.",
    "data": "Rows from files and other sources, and steps that select and split them.",
    "generate": "Rows that a model generates.",
    "train": "Trainings: models made from models and rows.",
    "evaluate": "Evaluations of models on rows. `require:` turns one into a gate.",
    "export": "Files to ship.",
}


def recipe_schema(plugins: StepTypes) -> dict[str, Any]:
    """The schema of recipes with the step types that are installed and can be loaded."""
    types = dict(_usable(plugins))
    by_section: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for name, cls in types.items():
        for section in sections_of(cls):
            by_section[section].append(name)
    defs: dict[str, Any] = {}
    for name, cls in types.items():
        defs |= _definitions(name, cls)
        for field, info in nested_fields(cls).items():
            defs |= _nest(defs[name], name, field, info, by_section[info.section], plugins)
    sections = {s: _section_schema(s) for s in by_section}
    defs |= {f"{STEPS}.{s}": _any_step(names) for s, names in by_section.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": TITLE,
        "type": "object",
        "properties": {**_shown(_TOP), **sections},
        "patternProperties": {"^x-": {"description": "Anything: a place for YAML anchors."}},
        "required": ["finery"],
        "additionalProperties": False,
        "$defs": defs,
    }


def _usable(plugins: StepTypes) -> Iterator[tuple[str, type[Step]]]:
    """The step types by name. Broken ones are reported by `finery plugins`, and where used."""
    for name in sorted(plugins.step_types):
        with contextlib.suppress(PluginError):
            cls = plugins.step_type(name)
            step_schema(cls)
            sections_of(cls)
            yield name, cls


def _definitions(name: str, cls: type[Step], prefix: str = "") -> dict[str, Any]:
    """A step type's schema and those of its groups of settings, by their names in the recipe's."""
    owner, schema = f"{prefix}{name}", step_schema(cls)
    schema["properties"]["use"] = {"const": name, "description": _first_line(cls)}
    groups = schema.pop("$defs", {})
    parts = {owner: {"title": name, **schema, "description": _unwrapped(schema["description"])}}
    parts |= {f"{owner}.{key}": _untitled(value) for key, value in groups.items()}
    for part in parts.values():
        if "properties" in part:
            part["properties"] = _shown(part["properties"])
    return {key: _renamed(part, owner) for key, part in parts.items()}


def _nest(
    outer: dict[str, Any], name: str, field: str, info: FieldInfo, types: Iterable[str],
    plugins: StepTypes,
) -> dict[str, Any]:  # fmt: skip
    """Let a field of a step type hold a step of one of these types; returns their definitions."""
    defs: dict[str, Any] = {}
    prefix = f"{name}.{field}."
    for inner in types:
        made = _definitions(inner, plugins.step_type(inner), prefix)
        schema = made[f"{prefix}{inner}"]
        for key in (*_STEP_KEYS, *info.given):
            schema["properties"].pop(key, None)
        schema["required"] = [key for key in schema["required"] if key not in info.given]
        defs |= made
    outer["properties"][field] |= {
        "properties": {"use": {"enum": list(types)}},
        "allOf": _by_use(types, prefix),
    }
    return defs


def _section_schema(section: str) -> dict[str, Any]:
    return {
        "title": section,
        "type": ["object", "null"],
        "description": _SECTION_HELP[section],
        "propertyNames": {"pattern": NAME},
        "additionalProperties": {"$ref": f"#/$defs/{STEPS}.{section}"},
    }


def _any_step(types: list[str]) -> dict[str, Any]:
    """A step of any of these types."""
    return {
        "type": "object",
        "required": ["use"],
        "properties": {"use": {"title": "use", "enum": types}},
        "allOf": _by_use(types),
    }


def _by_use(names: Iterable[str], prefix: str = "") -> list[dict[str, Any]]:
    """The conditions for a step, depending on its type.

    A chain of if/then instead of oneOf, so that an editor reports what is wrong with the type that
    `use` names, instead of the fact that none of twenty types fits.
    """
    return [
        {
            "if": {"properties": {"use": {"const": name}}, "required": ["use"]},
            "then": {"$ref": f"#/$defs/{prefix}{name}"},
        }
        for name in names
    ]


def _shown(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with what an editor shows over them: their name as title, and their default."""
    return {name: _with_title(name, field) for name, field in properties.items()}


def _with_title(name: str, field: Mapping[str, Any]) -> dict[str, Any]:
    text, default = field.get("description", ""), field.get("default")
    if default not in (None, "", [], {}):
        value = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
        if len(value) <= LONGEST_DEFAULT:
            text = f"{text}\n\nDefault: {value}"
    forms = {"anyOf": [_with_kind(form) for form in field["anyOf"]]} if "anyOf" in field else {}
    return {"title": name, **field, **forms, "description": text}


def _with_kind(form: Mapping[str, Any]) -> dict[str, Any]:
    """One of several forms of a setting; a list with a title, since editors show each form's."""
    return {"title": "a list", **form} if form.get("type") == "array" else dict(form)


def _unwrapped(text: str) -> str:
    """A docstring with each paragraph in one line, since editors keep line breaks."""
    return re.sub(r"(?<=\S)\n(?=[^\s-])", " ", re.sub(r"\n +(?=[^\s-])", " ", text))


def _untitled(group: dict[str, Any]) -> dict[str, Any]:
    """A group of settings without the name of its class."""
    return {key: value for key, value in group.items() if key != "title"}


def _renamed(schema: Any, owner: str) -> Any:
    """Point a step schema's `$ref`s at the names its parts have in the recipe schema."""
    if isinstance(schema, dict):
        return {
            k: v.replace("#/$defs/", f"#/$defs/{owner}.") if k == "$ref" else _renamed(v, owner)
            for k, v in schema.items()
        }
    return [_renamed(v, owner) for v in schema] if isinstance(schema, list) else schema


def _first_line(cls: type[Step]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]
