"""A recipe's own names in its schema: editors complete and check steps, outputs and metrics."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery.artifact.kinds import Artifact
from finery.errors import PluginError
from finery.recipe.document import Recipe
from finery.recipe.editor.schema import recipe_schema
from finery.recipe.steptypes import StepTypes
from finery.recipe.validate import convert_step
from finery.step.inspect import SECTIONS, declared_outputs, inputs_of
from finery.step.step import Step


class Named(NamedTuple):
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
            _refer(defs, key, plugins.step_type(use), steps)
    names = _listed({step.name: f"{step.use}, in {step.section}" for step in steps})
    for definition in defs.values():
        if "needs" in definition.get("properties", {}):
            _replace(definition["properties"]["needs"], names)
    _silence(schema["properties"]["silence"], steps, plugins)
    for step in steps:
        _choose(schema["properties"][step.section], step)
    return schema


def _steps(recipe: Recipe, plugins: StepTypes) -> Iterator[Named]:
    for section in SECTIONS:
        written = recipe.data.get(section)
        for name, step in written.items() if isinstance(written, dict) else ():
            use = str(step.get("use") or "") if isinstance(step, dict) else ""
            yield Named(section, name, use, *_known(recipe, plugins, section, name, use))


def _known(
    recipe: Recipe, plugins: StepTypes, section: str, name: str, use: str
) -> tuple[Mapping[str, type[Artifact] | None], Mapping[str, Sequence[str]]]:
    """A step's outputs and choices, from its settings if they are valid, or else from its type."""
    try:
        cls = plugins.step_type(use)
    except PluginError:
        return {"": None}, {}
    try:
        step = convert_step(recipe, section, name, cls, plugins)
        return step.outputs(), step.choices()
    except Exception:  # half-written settings may break a step type in any way
        return _declared(cls), {}


def _declared(cls: type[Step]) -> Mapping[str, type[Artifact] | None]:
    """The outputs of a step type; unknown if its settings decide about them."""
    try:
        return {**declared_outputs(cls)}
    except PluginError:
        return {"": None}


def _refer(defs: dict[str, Any], key: str, cls: type[Step], steps: Sequence[Named]) -> None:
    """Let the inputs of a step type take the outputs of the recipe that fit."""
    for field, accepts in inputs_of(cls).items():
        if field not in defs[key]["properties"]:
            continue
        name = f"names.{accepts.kind.kind}"
        if name not in defs:
            defs[name] = _listed(dict(_fitting(accepts.kind, steps)))
        _replace(defs[key]["properties"][field], {"$ref": f"#/$defs/{name}"})


def _fitting(kind: type[Artifact], steps: Sequence[Named]) -> Iterator[tuple[str, str]]:
    """(reference, description) of each output of a kind."""
    for step in steps:
        for output, made in step.outputs.items():
            if made is None or issubclass(made, kind):
                ref = f"{step.name}.{output}" if output else step.name
                yield ref, f"{made.kind} of {step.use}" if made else step.use


def _listed(names: Mapping[str, str]) -> dict[str, Any]:
    """A schema that takes one of some names. Where there are none, any text."""
    if not names:
        return {"type": "string"}
    return {"type": "string", "enum": [*names], "enumDescriptions": [*names.values()]}


def _replace(field: dict[str, Any], one: Mapping[str, Any]) -> None:
    """Let a field take `one` wherever it takes any text."""
    if field.get("type") == "string":
        field.pop("type")
        field |= one
    for form in field.get("anyOf", ()):
        if form.get("type") == "string":
            form.clear()
            form |= one
        elif form.get("type") == "array":
            form["items"] = dict(one)


def _silence(field: dict[str, Any], steps: Sequence[Named], plugins: StepTypes) -> None:
    notes = sorted(plugins.note_names)
    names = [*notes, *(f"{step.name}/{note}" for step in steps for note in notes)]
    field["items"] = {**field["items"], "enum": names}


def _choose(section: dict[str, Any], step: Named) -> None:
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
