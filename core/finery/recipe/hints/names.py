"""Fixes for settings, sections and step types that don't exist."""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from finery.errors import PluginError
from finery.recipe.hints.aliases import Aliases, aliases_of
from finery.recipe.steptypes import StepTypes
from finery.step.inspect import SECTIONS, sections_of
from finery.step.step import Step
from finery.util.text import did_you_mean, nearest, nearest_meant

LISTED = 12
"""Names that a fix lists at most."""
_OF_ALL_STEPS = {
    "depends_on": "needs", "after": "needs", "requires": "needs", "dependencies": "needs",
    "random_state": "seed", "random_seed": "seed", "rng_seed": "seed",
    "environment": "env", "environment_variables": "env", "secrets": "env",
    "gpu": "gpus", "device": "gpus", "devices": "gpus", "gpu_ids": "gpus",
    "cuda_visible_devices": "gpus", "CUDA_VISIBLE_DEVICES": "gpus",
}  # fmt: skip
"""Other names of the keys that every step takes."""
USES = ("type", "uses", "kind", "step", "step_type", "method", "plugin", "trainer", "action")
"""Other names of `use`."""
_CONTAINERS = ("args", "arguments", "config", "hyperparameters", "options", "params", "parameters",
               "settings", "training_args", "with")  # fmt: skip
"""Groups of settings in other tools. A recipe has these settings at the level of `use`."""
_SECTIONS = {
    "dataset": "data", "datasets": "data", "rows": "data", "inputs": "data",
    "base_models": "models",
    "finetune": "train", "fine_tune": "train", "trainer": "train", "trainers": "train",
    "eval": "evaluate", "evals": "evaluate", "evaluation": "evaluate", "metrics": "evaluate",
    "test": "evaluate", "tests": "evaluate", "synth": "generate", "output": "export",
    "outputs": "export", "deploy": "export", "notes": "silence",
}  # fmt: skip
"""Other names of sections."""


def setting_meant(key: str, label: str, aliases: Aliases) -> str | None:
    """The setting that another tool calls `key`, as a dotted path; None if none is known.

    label: the group that `key` is written in; empty: the step itself.
    """
    inside = f"{label}.{key}" if label else key
    for name in (inside, key, key.lower().replace("-", "_")):
        if meant := aliases.setting_meant(name):
            return meant
    return None if label else _OF_ALL_STEPS.get(key)


def setting_fix(
    key: str, value: Any, label: str, schema: dict[str, Any], known: Iterable[str], use: str,
    aliases: Aliases,
) -> str:  # fmt: skip
    """The fix for the unknown setting `key` of a step of type `use`.

    label: the group that contains it; empty for the step itself. schema: of the complete step.
    known: the settings of the step or the group.
    """
    known = list(known)
    if instead := aliases.instead_of(f"{label}.{key}" if label else key):
        return instead
    meant = setting_meant(key, label, aliases) or _elsewhere(key, label, schema)
    if meant and meant.partition(".")[0] in schema.get("properties", {}):  # not all have `gpus`
        return _moved(meant, value, label, use)
    if not label and key in _CONTAINERS:
        return "write the settings directly into the step, next to `use`"
    near = nearest_meant(key, known)
    if near or len(known) <= LISTED:
        return near or did_you_mean(key, known) or f"remove {key}"
    return f"run `finery plugins {use}` for a list of its settings"


def _moved(meant: str, value: Any, label: str, use: str) -> str:
    """How to write a setting in its right place."""
    group, _, name = meant.rpartition(".")
    if group == label:
        return f"write {name}"
    if not group:
        return f"write {name} next to {label}, not inside it: it is a setting of {use}"
    shown = f"{value:g}" if isinstance(value, float) else value
    text = str(shown) if isinstance(value, (str, int, float)) and len(str(shown)) <= 20 else "…"
    return f"write {group}: {{{name}: {text}}}"


def _elsewhere(key: str, label: str, schema: dict[str, Any]) -> str | None:
    """A setting of exactly this name outside `label`: of the step, or of one of its groups."""
    if label and key in schema.get("properties", {}):
        return key
    for group, settings in groups_of(schema).items():
        if group != label and key in settings:
            return f"{group}.{key}"
    return None


def groups_of(schema: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Setting that is a group → the properties of that group."""
    defs = schema.get("$defs", {})
    groups = {}
    for name, field in schema.get("properties", {}).items():
        for form in (field, *field.get("anyOf", [])):
            target = defs.get(form.get("$ref", "").removeprefix("#/$defs/"))
            if target and "properties" in target:
                groups[name] = target["properties"]
    return groups


# Sections


def key_fix(
    key: str, value: Any, data: Mapping[str, Any], known: list[str], types: StepTypes
) -> str:
    """The fix for an unknown key at the top level of a recipe."""
    if key == "version" and "finery" not in data:
        return "write `finery: 1`"
    if key in _SECTIONS:
        return f"did you mean '{_SECTIONS[key]}'?"
    if isinstance(value, str) and (step := written_as_step(value, ["models"], types)):
        return f"write models: {{base: {step}}}"
    if not isinstance(value, dict | list) and (fix := _inside_step(key, data, types)):
        return fix
    near = nearest(key, known)
    if near:
        return f"did you mean '{near}'?"
    return f"the sections for steps are {', '.join(SECTIONS)}"


def _inside_step(key: str, data: Mapping[str, Any], types: StepTypes) -> str | None:
    """How to write `key` into a step that has this setting, under any of its names."""
    for section in ("train", "evaluate", "generate", "data", "models", "export"):
        steps = data.get(section)
        for name, step in steps.items() if isinstance(steps, dict) else ():
            use = step.get("use") if isinstance(step, dict) else None
            with contextlib.suppress(PluginError):
                if not isinstance(use, str) or use not in types.step_types:
                    continue
                cls = types.step_type(use)
                aliases = aliases_of(cls)
                if instead := aliases.instead_of(key):
                    return instead
                setting = key if key in cls.__struct_fields__ else aliases.setting_meant(key)
                if setting:
                    setting = setting.partition(".")[0]
                    return f"write {setting} into a step, such as {section}.{name}"
    return None


# Step types


def types_for(section: str, types: StepTypes) -> dict[str, type[Step]]:
    """The step types that a section accepts. Broken ones are reported where they are used."""
    fitting = {}
    for name in sorted(types.step_types):
        with contextlib.suppress(PluginError):
            if section in sections_of(types.step_type(name)):
                fitting[name] = types.step_type(name)
    return fitting


def type_fix(use: str, section: str, types: StepTypes) -> str:
    """The fix for an unknown step type."""
    fitting = types_for(section, types)
    lower = use.lower().replace("-", ".").replace("_", ".")
    for name, cls in fitting.items():
        if lower in (name.lower(), name.lower().replace("_", "."), name.partition(".")[2]):
            return f"did you mean '{name}'?"
        plugin, _, rest = lower.partition(".")
        called = _aliases_or_none(cls).called
        if lower in called or (name.startswith(f"{plugin}.") and rest in called):
            return f"did you mean '{name}'?"
    near = nearest(use, fitting) or nearest(lower, fitting) or nearest(use, types.step_types)
    if near:
        return f"did you mean '{near}'?"
    prefix = lower.partition(".")[0]
    listed = [n for n in fitting if n.startswith(f"{prefix}.")] or list(fitting)
    more = "" if len(listed) < len(fitting) else "; or " + types.suggest(use)
    return f"section {section} takes: {', '.join(listed)}{more}"


def _aliases_or_none(cls: type[Step]) -> Aliases:
    """The aliases of a step type; empty if they can't be read, since no recipe may need them."""
    with contextlib.suppress(PluginError):
        return aliases_of(cls)
    return Aliases()


def written_as_step(text: str, sections: Iterable[str], types: StepTypes) -> str | None:
    """The step that a bare text means, e.g. `{use: hub.model, repo: Qwen/Qwen3-4B}`."""
    for section in sections:
        for use, cls in types_for(section, types).items():
            if settings := _aliases_or_none(cls).settings_of(text):
                inside = ", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items())
                return f"{{use: {use}, {inside}}}"
    return None


def _quoted(text: str) -> str:
    return text if set(text).isdisjoint(" ,:{}[]#*?\"'") else f'"{text}"'
