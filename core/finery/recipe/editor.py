"""JSON Schemas for editors: what they complete, check and show while a recipe is being written.

`recipe_schema` is the schema of all recipes, from the installed step types. `schema_of` adds the
steps, outputs and metrics of one recipe. `write_schema` keeps a file next to a recipe up to date.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery.artifact.kinds import Artifact
from finery.errors import PluginError, UsageError
from finery.fields import FieldInfo
from finery.recipe.document import Recipe
from finery.recipe.schema import _STEP_KEYS, _TOP_LEVEL, NAME_PATTERN, StepTypes, step_schema
from finery.recipe.validate import convert_step
from finery.step.inspect import SECTIONS, declared_outputs, inputs_of, nested_fields, sections_of
from finery.step.look import promises_of
from finery.step.step import Step
from finery.util.files import check_plain
from finery.util.paths import shown

SCHEMA_TITLE = "finery recipe"
STEPS_KEY = "steps"
"""`$defs/steps.<section>` is any step of a section."""
MAX_SHOWN_DEFAULT = 60
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
    types = dict(_loadable_types(plugins))
    by_section: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for name, cls in types.items():
        for section in sections_of(cls):
            by_section[section].append(name)
    defs: dict[str, Any] = {}
    for name, cls in types.items():
        defs |= _definitions(name, cls)
        for field, info in nested_fields(cls).items():
            defs |= _nest(defs[name], name, field, info, by_section[info.section], plugins)
    sections = {}
    for section, names in by_section.items():
        sections[section] = {
            "title": section,
            "type": ["object", "null"],
            "description": _SECTION_HELP[section],
            "propertyNames": {"pattern": NAME_PATTERN},
            "additionalProperties": {"$ref": f"#/$defs/{STEPS_KEY}.{section}"},
        }
        defs[f"{STEPS_KEY}.{section}"] = {
            "type": "object",
            "required": ["use"],
            "properties": {"use": {"title": "use", "enum": names}},
            "allOf": _conditions_by_type(names),
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA_TITLE,
        "type": "object",
        "properties": {**_add_titles(_TOP_LEVEL), **sections},
        "patternProperties": {"^x-": {"description": "Anything: a place for YAML anchors."}},
        "required": ["finery"],
        "additionalProperties": False,
        "$defs": defs,
    }


def _loadable_types(plugins: StepTypes) -> Iterator[tuple[str, type[Step]]]:
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
    first_line = (cls.__doc__ or "").strip().partition("\n")[0]
    schema["properties"]["use"] = {"const": name, "description": first_line}
    groups = schema.pop("$defs", {})
    # Each paragraph in one line, since editors keep line breaks.
    description = re.sub(r"\n +(?=[^\s-])", " ", schema["description"])
    description = re.sub(r"(?<=\S)\n(?=[^\s-])", " ", description)
    definitions = {owner: {"title": name, **schema, "description": description}}
    for key, group in groups.items():  # without the names of its classes
        definitions[f"{owner}.{key}"] = {k: v for k, v in group.items() if k != "title"}
    for definition in definitions.values():
        if "properties" in definition:
            definition["properties"] = _add_titles(definition["properties"])
    return {key: _prefix_references(definition, owner) for key, definition in definitions.items()}


def _nest(
    outer: dict[str, Any], name: str, field: str, info: FieldInfo, types: Iterable[str],
    plugins: StepTypes,
) -> dict[str, Any]:  # fmt: skip
    """Let a field of a step type hold a step of one of these types; returns their definitions."""
    defs: dict[str, Any] = {}
    prefix = f"{name}.{field}."
    for inner in types:
        inner_definitions = _definitions(inner, plugins.step_type(inner), prefix)
        schema = inner_definitions[f"{prefix}{inner}"]
        for key in (*_STEP_KEYS, *info.given):
            schema["properties"].pop(key, None)
        schema["required"] = [key for key in schema["required"] if key not in info.given]
        defs |= inner_definitions
    field_schema = outer["properties"][field]
    single_form, list_form, *_ = field_schema.get("anyOf", [field_schema, {}])
    for form in (single_form, list_form.get("items", {})):
        form |= {
            "properties": {"use": {"enum": list(types)}},
            "allOf": _conditions_by_type(types, prefix),
        }
    return defs


def _conditions_by_type(names: Iterable[str], prefix: str = "") -> list[dict[str, Any]]:
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


def _add_titles(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with what an editor shows over them: their name as title, and their default."""
    return {name: _with_title(name, field) for name, field in properties.items()}


def _with_title(name: str, field: Mapping[str, Any]) -> dict[str, Any]:
    text, default = field.get("description", ""), field.get("default")
    if default not in (None, "", [], {}):
        value = default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)
        if len(value) <= MAX_SHOWN_DEFAULT:
            text = f"{text}\n\nDefault: {value}"
    titled = {"title": name, **field, "description": text}
    if "anyOf" in field:  # a list with a title, since editors show that of each form
        titled["anyOf"] = [
            {"title": "a list", **f} if f.get("type") == "array" else f for f in field["anyOf"]
        ]
    return titled


def _prefix_references(schema: Any, owner: str) -> Any:
    """Point a step schema's `$ref`s at the names its parts have in the recipe schema."""
    if isinstance(schema, dict):
        return {
            k: v.replace("#/$defs/", f"#/$defs/{owner}.")
            if k == "$ref"
            else _prefix_references(v, owner)
            for k, v in schema.items()
        }
    return [_prefix_references(v, owner) for v in schema] if isinstance(schema, list) else schema


class StepSummary(NamedTuple):
    """A step, with as much as can be read of its part of the recipe.

    outputs: name → kind; None if its type is unknown. choices: see `Step.choices`.
    """

    section: str
    name: str
    use: str
    outputs: Mapping[str, type[Artifact] | None]
    choices: Mapping[str, Sequence[str]]


def schema_of(recipe: Recipe, plugins: StepTypes) -> dict[str, Any]:
    """The schema for one recipe, with the names of its steps. The recipe may have mistakes."""
    schema, steps = recipe_schema(plugins), list(_steps(recipe, plugins))
    defs = schema["$defs"]
    for use in plugins.step_types:
        for key in [name for name in defs if name == use or name.endswith(f".{use}")]:
            _offer_references(defs, key, plugins.step_type(use), steps)
    names = _enum_schema({step.name: f"{step.use}, in {step.section}" for step in steps})
    for definition in defs.values():
        if "needs" in definition.get("properties", {}):
            _restrict_texts(definition["properties"]["needs"], names)
    notes = sorted(plugins.note_names)
    silence = [*notes, *(f"{step.name}/{note}" for step in steps for note in notes)]
    field = schema["properties"]["silence"]
    field["items"] = {**field["items"], "enum": silence}
    for step in steps:
        _offer_choices(schema["properties"][step.section], step)
    return schema


def _steps(recipe: Recipe, plugins: StepTypes) -> Iterator[StepSummary]:
    for section in SECTIONS:
        written = recipe.data.get(section)
        for name, step in written.items() if isinstance(written, dict) else ():
            use = str(step.get("use") or "") if isinstance(step, dict) else ""
            yield StepSummary(
                section, name, use, *_declared_outputs(recipe, plugins, section, name, use)
            )


def _declared_outputs(
    recipe: Recipe, plugins: StepTypes, section: str, name: str, use: str
) -> tuple[Mapping[str, type[Artifact] | None], Mapping[str, Sequence[str]]]:
    """A step's outputs and choices, from its settings if they are valid, or else from its type."""
    try:
        cls = plugins.step_type(use)
    except PluginError:
        return {"": None}, {}
    try:
        written = recipe.data[section][name]
        step = convert_step(recipe, (section, name), written, cls, plugins)
        return {n: p.kind for n, p in promises_of(step).items()}, step.choices()
    except Exception:  # half-written settings may break a step type in any way
        with contextlib.suppress(PluginError):  # unknown if its settings decide about them
            return {**declared_outputs(cls)}, {}
        return {"": None}, {}


def _offer_references(
    defs: dict[str, Any], key: str, cls: type[Step], steps: Sequence[StepSummary]
) -> None:
    """Let the inputs of a step type take the outputs of the recipe that fit."""
    for field, accepts in inputs_of(cls).items():
        if field not in defs[key]["properties"]:
            continue
        name = f"names.{accepts.kind.kind}"
        if name not in defs:
            defs[name] = _enum_schema(dict(_matching_outputs(accepts.kind, steps)))
        _restrict_texts(defs[key]["properties"][field], {"$ref": f"#/$defs/{name}"})


def _matching_outputs(
    kind: type[Artifact], steps: Sequence[StepSummary]
) -> Iterator[tuple[str, str]]:
    """(reference, description) of each output of a kind."""
    for step in steps:
        for output, kind_of_output in step.outputs.items():
            if kind_of_output is None or issubclass(kind_of_output, kind):
                ref = f"{step.name}.{output}" if output else step.name
                yield ref, f"{kind_of_output.kind} of {step.use}" if kind_of_output else step.use


def _enum_schema(names: Mapping[str, str]) -> dict[str, Any]:
    """A schema that takes one of some names. Where there are none, any text."""
    if not names:
        return {"type": "string"}
    return {"type": "string", "enum": [*names], "enumDescriptions": [*names.values()]}


def _restrict_texts(field: dict[str, Any], schema: Mapping[str, Any]) -> None:
    """Let a field take `one` wherever it takes any text."""
    if field.get("type") == "string":
        field.pop("type")
        field |= schema
    for form in field.get("anyOf", ()):
        if form.get("type") == "string":
            form.clear()
            form |= schema
        elif form.get("type") == "array":
            form["items"] = dict(schema)


def _offer_choices(section: dict[str, Any], step: StepSummary) -> None:
    """Show a step by its name, and let its mappings have only the keys that its inputs allow."""
    keys = {
        setting: {"properties": {name: {} for name in names}, "additionalProperties": False}
        for setting, names in step.choices.items()
        if names
    }
    of_type = {"properties": {"use": {"const": step.use}}, "required": ["use"]}
    forms = [section["additionalProperties"]]
    forms += [{"if": of_type, "then": {"properties": keys}}] if keys else []
    title = f"{step.name} ({step.use})" if step.use else step.name
    section.setdefault("properties", {})[step.name] = {"title": title, "allOf": forms}


MODELINE = "# yaml-language-server: $schema="
"""The form in which the first lines of a recipe name its schema, for editors."""
_MODELINE = re.compile(rf"^{re.escape(MODELINE)}(?P<path>\S+)", re.M)


def format_schema(schema: object) -> str:
    """A schema as the text of its file."""
    return msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"


def schema_file(recipe: Recipe) -> Path:
    """The file for a recipe's schema: the one that its modeline names, or else one next to it.

    A schema outside the recipe's folder belongs to several recipes, so it isn't this one. Nor is
    the schema of another recipe in the folder: a copied recipe has the line of its original.
    """
    modeline_match = _MODELINE.search(recipe.text)
    path = recipe.folder / modeline_match["path"] if modeline_match else None
    if path is not None and path.resolve().is_relative_to(recipe.folder.resolve()):
        name = path.name.removesuffix(".schema.json")
        recipes = [path.with_name(f"{name}{suffix}") for suffix in (".yaml", ".yml")]
        if not any(sibling.exists() and not sibling.samefile(recipe.path) for sibling in recipes):
            return path
    stem = recipe.path.name.removesuffix(".yaml").removesuffix(".yml")
    return recipe.path.with_name(f"{stem}.schema.json")


def modeline(recipe: Recipe, path: Path) -> str:
    """The line that lets editors find a schema; empty where the recipe has it."""
    line = f"{MODELINE}{os.path.relpath(path, recipe.folder)}"
    return "" if line in recipe.text.splitlines() else line


def write_schema(recipe: Recipe, plugins: StepTypes) -> Path:
    """Write the schema of a recipe. `UsageError` where another file is in the way."""
    path, text = schema_file(recipe), format_schema(schema_of(recipe, plugins))
    if path.exists() and not _is_ours(path):
        raise UsageError(
            f"{shown(path)} is not a recipe's schema, and finery doesn't overwrite it",
            fix="move it away, or name another file in the recipe's first line: "
            f"{MODELINE}FILE.schema.json",
        )
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        # An editor may read the file at any time.
        partial_file = path.with_name(f".{path.name}.part")
        try:
            partial_file.write_text(text, encoding="utf-8")
            partial_file.replace(path)
        except OSError as error:
            raise UsageError(f"can't write {shown(path)}: {error.strerror}") from error
    return path


def refresh_schema(recipe: Recipe, plugins: StepTypes) -> None:
    """Update a recipe's schema if it exists and can be written."""
    path = schema_file(recipe)
    if _is_ours(path) and os.access(path, os.W_OK):
        write_schema(recipe, plugins)


def _is_ours(path: Path) -> bool:
    """Whether a file is the schema of a recipe."""
    if not path.is_file():  # reading a pipe may never end
        return False
    try:
        check_plain(path)
        schema: Any = msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(schema, dict) and schema.get("title") == SCHEMA_TITLE
