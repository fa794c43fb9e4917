"""Fixes for mistakes in recipes: what to write instead of what is there.

Used only once a mistake is certain: nothing here decides whether a recipe is right.

Terms of other tools, and what a recipe calls them, are in `aliases.yaml`. A plugin package can have
such a file next to its `__init__.py`, with an entry for each step type's class or base class. It is
read only after a mistake, and isn't part of any key:

    Sft:
      settings: {learning_rate: [lr], lora.r: [lora_r]}
      absent: {"remove it: outputs are in build/": [output_dir]}
      called: [finetune]
      values: {dtype: {"write dtype: bf16": [bfloat16]}}
      text: {path: '\\S+\\.csv'}
"""

import contextlib
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from finery.artifact.kinds import Artifact
from finery.errors import PluginError
from finery.recipe.schema import StepTypes
from finery.step.inspect import SECTIONS, SECTIONS_OF, sections_of
from finery.step.step import Step
from finery.util.text import did_you_mean, nearest, suggest_nearest

ALIASES_FILE = "aliases.yaml"


class Aliases(msgspec.Struct, forbid_unknown_fields=True):
    """Fixes for likely mistakes of the users of a step type.

    settings: setting → its names elsewhere; one inside a group is written with a dot, `lora.r`.
    absent: what to do instead → settings of other tools that this step type lacks.
    called: other names of the step type.
    values: setting, or `setting.*` → what to do instead → patterns of its wrong values. `\\1` in
    the text is the first group of the pattern.
    text: setting → pattern of a text that gives this setting when it replaces the whole step.
    """

    settings: dict[str, list[str]] = {}
    absent: dict[str, list[str]] = {}
    called: list[str] = []
    values: dict[str, dict[str, list[str]]] = {}
    text: dict[str, str] = {}

    def setting_meant(self, name: str) -> str | None:
        """The setting that is called `name` elsewhere."""
        return next((s for s, names in self.settings.items() if name in names), None)

    def instead_of(self, name: str) -> str | None:
        """The fix for a setting that only other tools have."""
        return next((fix for fix, names in self.absent.items() if name in names), None)

    def value_fix(self, label: str, value: Any) -> str | None:
        """The fix for a wrong value of a setting, e.g. `lora.r` or `quantization[0]`."""
        name = re.sub(r"\[\d+\]", "", label)
        for key in (name, f"{name.partition('.')[0]}.*"):
            for fix, patterns in self.values.get(key, {}).items():
                for pattern in patterns:
                    if match := re.fullmatch(pattern, str(value), re.IGNORECASE):
                        return match.expand(fix)
        return None

    def settings_of(self, text: str) -> dict[str, str] | None:
        """The settings that a bare text in place of a step means."""
        for setting, pattern in self.text.items():
            if match := re.fullmatch(pattern, text):
                return {setting: match[1] if match.re.groups else text}
        return None


def aliases_of(cls: type[Step] | None) -> Aliases:
    """The aliases of a step type and its bases. Raises `PluginError` for a file that is wrong."""
    merged = Aliases()
    for base in cls.__mro__ if cls is not None else ():  # the class first: its entries count first
        entry = _read_aliases(base.__module__.partition(".")[0]).get(base.__name__)
        if entry is None:
            continue
        own_names = {
            n for names in (*merged.settings.values(), *merged.absent.values()) for n in names
        }
        for merged_entries, entries in (
            (merged.settings, entry.settings),
            (merged.absent, entry.absent),
        ):
            for setting, names in entries.items():
                merged_entries[setting] = [
                    *merged_entries.get(setting, ()),
                    *(n for n in names if n not in own_names),
                ]
        merged.called = merged.called or entry.called
        merged.values = entry.values | merged.values
        merged.text = merged.text or entry.text
    return merged


@lru_cache
def _read_aliases(package: str) -> dict[str, Aliases]:
    """Class → its aliases, from the file of a package."""
    for folder in getattr(sys.modules.get(package), "__path__", ()):
        file = Path(folder, ALIASES_FILE)
        if file.is_file():
            try:
                content = yaml.safe_load(file.read_text(encoding="utf-8"))
                return msgspec.convert(content, dict[str, Aliases])
            except (ValueError, yaml.YAMLError) as error:
                raise PluginError(
                    f"can't read the aliases of {package}: {error}",
                    where=str(file),
                    fix="see finery.recipe.hints for its form",
                ) from error
    return {}


MAX_LISTED_SETTINGS = 12
"""Names that a fix lists at most."""
_COMMON_ALIASES = {
    "depends_on": "needs", "after": "needs", "requires": "needs", "dependencies": "needs",
    "random_state": "seed", "random_seed": "seed", "rng_seed": "seed",
    "environment": "env", "environment_variables": "env", "secrets": "env",
    "gpu": "gpus", "device": "gpus", "devices": "gpus", "gpu_ids": "gpus",
    "cuda_visible_devices": "gpus", "CUDA_VISIBLE_DEVICES": "gpus",
}  # fmt: skip
"""Other names of the keys that every step takes."""
USE_SYNONYMS = (
    "type",
    "uses",
    "kind",
    "step",
    "step_type",
    "method",
    "plugin",
    "trainer",
    "action",
)
"""Other names of `use`."""
_CONTAINERS = ("args", "arguments", "config", "hyperparameters", "options", "params", "parameters",
               "settings", "training_args", "with")  # fmt: skip
"""Groups of settings in other tools. A recipe has these settings at the level of `use`."""
_SECTION_ALIASES = {
    "dataset": "data", "datasets": "data", "rows": "data", "inputs": "data",
    "base_models": "models",
    "finetune": "train", "fine_tune": "train", "trainer": "train", "trainers": "train",
    "eval": "evaluate", "evals": "evaluate", "evaluation": "evaluate", "metrics": "evaluate",
    "test": "evaluate", "tests": "evaluate", "synth": "generate", "output": "export",
    "outputs": "export", "deploy": "export", "notes": "silence",
}  # fmt: skip
"""Other names of sections."""


def aliased_setting(key: str, label: str, aliases: Aliases) -> str | None:
    """The setting that another tool calls `key`, as a dotted path; None if none is known.

    label: the group that `key` is written in; empty: the step itself.
    """
    dotted_key = f"{label}.{key}" if label else key
    for name in (dotted_key, key, key.lower().replace("-", "_")):
        if setting := aliases.setting_meant(name):
            return setting
    return None if label else _COMMON_ALIASES.get(key)


def setting_fix(
    key: str, value: Any, label: str, schema: dict[str, Any], settings: Iterable[str], use: str,
    aliases: Aliases,
) -> str:  # fmt: skip
    """The fix for the unknown setting `key` of a step of type `use`.

    label: the group that contains it; empty for the step itself. schema: of the complete step.
    settings: those of the step or the group.
    """
    settings = list(settings)
    if instead := aliases.instead_of(f"{label}.{key}" if label else key):
        return instead
    setting = aliased_setting(key, label, aliases) or _same_name_elsewhere(key, label, schema)
    if setting and setting.partition(".")[0] in schema.get("properties", {}):  # not all have `gpus`
        return _placement_fix(setting, value, label, use)
    if not label and key in _CONTAINERS:
        return "write the settings directly into the step, next to `use`"
    near = suggest_nearest(key, settings)
    if near or len(settings) <= MAX_LISTED_SETTINGS:
        return near or did_you_mean(key, settings) or f"remove {key}"
    return f"run `finery plugins {use}` for a list of its settings"


def _placement_fix(setting: str, value: Any, label: str, use: str) -> str:
    """How to write a setting in its right place."""
    group, _, name = setting.rpartition(".")
    if group == label:
        return f"write {name}"
    if not group:
        return f"write {name} next to {label}, not inside it: it is a setting of {use}"
    value_text = f"{value:g}" if isinstance(value, float) else value
    text = (
        str(value_text)
        if isinstance(value, (str, int, float)) and len(str(value_text)) <= 20
        else "…"
    )
    return f"write {group}: {{{name}: {text}}}"


def _same_name_elsewhere(key: str, label: str, schema: dict[str, Any]) -> str | None:
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
    key: str, value: Any, data: Mapping[str, Any], keys: list[str], types: StepTypes
) -> str:
    """The fix for an unknown key at the top level of a recipe."""
    if key == "version" and "finery" not in data:
        return "write `finery: 1`"
    if key in _SECTION_ALIASES:
        return f"did you mean '{_SECTION_ALIASES[key]}'?"
    if isinstance(value, str) and (step := text_as_step(value, ["models"], types)):
        return f"write models: {{base: {step}}}"
    if not isinstance(value, dict | list) and (fix := _setting_fix_in_step(key, data, types)):
        return fix
    near = nearest(key, keys)
    if near:
        return f"did you mean '{near}'?"
    return f"the sections for steps are {', '.join(SECTIONS)}"


def _setting_fix_in_step(key: str, data: Mapping[str, Any], types: StepTypes) -> str | None:
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
        plugin, _, type_name = lower.partition(".")
        synonyms = _aliases_or_none(cls).called
        if lower in synonyms or (name.startswith(f"{plugin}.") and type_name in synonyms):
            return f"did you mean '{name}'?"
    near = nearest(use, fitting) or nearest(lower, fitting) or nearest(use, types.step_types)
    if near:
        return f"did you mean '{near}'?"
    prefix = lower.partition(".")[0]
    types_listed = [n for n in fitting if n.startswith(f"{prefix}.")] or list(fitting)
    suggestion = "" if len(types_listed) < len(fitting) else "; or " + types.suggest(use)
    return f"section {section} takes: {', '.join(types_listed)}{suggestion}"


def _aliases_or_none(cls: type[Step]) -> Aliases:
    """The aliases of a step type; empty if they can't be read, since no recipe may need them."""
    with contextlib.suppress(PluginError):
        return aliases_of(cls)
    return Aliases()


def text_as_step(text: str, sections: Iterable[str], types: StepTypes) -> str | None:
    """The step that a bare text means, e.g. `{use: hub.model, repo: Qwen/Qwen3-4B}`."""
    for section in sections:
        for use, cls in types_for(section, types).items():
            if settings := _aliases_or_none(cls).settings_of(text):
                inside = [
                    f"{key}: {value}" if set(value).isdisjoint(" ,:{}[]#*?\"'")
                    else f'{key}: "{value}"'
                    for key, value in settings.items()
                ]  # fmt: skip
                return f"{{use: {use}, {', '.join(inside)}}}"
    return None


OutputNames = Mapping[str, Collection[str]]
"""Step → names of its outputs; `""` is the only output of a step with one."""


def reference_fix(
    ref: str, field: str, kind: type[Artifact], outputs: OutputNames, types: StepTypes, *,
    many: bool, optional: bool,
) -> str | None:  # fmt: skip
    """The fix for `ref`, which isn't the name of a step, as input `field` of a kind."""
    if step_name := _referenced_step(ref, outputs):
        return f"write {field}: {step_name}"
    parts = [name_part for name_part in re.split(r"[,;\s]+", ref.strip("[] ")) if name_part]
    if len(parts) > 1 and all(
        name_part.lstrip("-") in outputs or _is_reference(name_part, outputs) for name_part in parts
    ):
        if ref.startswith("-"):
            return f"put a space after each dash: - {parts[0].lstrip('-')}"
        return f"write {field}: [{', '.join(parts)}]" if many else f"name one step: {parts[0]}"
    if optional and ref.strip().lower() in ("none", "nil", "false", "no"):
        return f"write {field}: null, or remove the line"
    sections = SECTIONS_OF.get(kind, ())
    step = text_as_step(ref, sections, types)
    if step is not None:
        usual = {"models": "base", "data": "rows"}.get(sections[0], sections[0])
        names = (usual, *(f"{usual}{i}" for i in range(2, 999)))
        name = next(n for n in names if n not in outputs)
        return f"add a step, {sections[0]}: {{{name}: {step}}}, and write {field}: {name}"
    return did_you_mean(ref.partition(".")[0], outputs)


def _referenced_step(ref: str, outputs: OutputNames) -> str | None:
    """The step, or output, that `ref` names in the notation of something else."""
    bare = re.sub(r"[${}\s]|^steps\.|^\./", "", ref)
    section, _, after_section = re.sub(r"[:/]", ".", bare).partition(".")
    candidates = [bare, re.sub(r"[:/]", ".", bare, count=1)]
    candidates += [after_section] if section in SECTIONS else []
    for candidate in candidates:
        for text in (candidate, candidate.lower()):
            if text != ref and _is_reference(text, outputs):
                return text
    return None


def _is_reference(ref: str, outputs: OutputNames) -> bool:
    name, _, output = ref.partition(".")
    return name in outputs and output in outputs[name]
