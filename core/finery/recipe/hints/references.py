"""Fixes for names of steps that don't exist."""

import re
from collections.abc import Collection, Mapping

from finery.artifact.kinds import Artifact
from finery.recipe.hints.names import written_as_step
from finery.recipe.steptypes import StepTypes
from finery.step.inspect import SECTIONS, SECTIONS_OF
from finery.util.text import did_you_mean

Outputs = Mapping[str, Collection[str]]
"""Step → names of its outputs; `""` is the only output of a step with one."""


def reference_fix(
    ref: str, field: str, kind: type[Artifact], outputs: Outputs, types: StepTypes, *,
    many: bool, optional: bool,
) -> str | None:  # fmt: skip
    """The fix for `ref`, which isn't the name of a step, as input `field` of a kind."""
    if meant := _step_meant(ref, outputs):
        return f"write {field}: {meant}"
    parts = [part for part in re.split(r"[,;\s]+", ref.strip("[] ")) if part]
    if len(parts) > 1 and all(part.lstrip("-") in outputs or _is(part, outputs) for part in parts):
        if ref.startswith("-"):
            return f"put a space after each dash: - {parts[0].lstrip('-')}"
        return f"write {field}: [{', '.join(parts)}]" if many else f"name one step: {parts[0]}"
    if optional and ref.strip().lower() in ("none", "nil", "false", "no"):
        return f"write {field}: null, or remove the line"
    sections = SECTIONS_OF.get(kind, ())
    step = written_as_step(ref, sections, types)
    if step is not None:
        name = _free_name(sections[0], outputs)
        return f"add a step, {sections[0]}: {{{name}: {step}}}, and write {field}: {name}"
    return did_you_mean(ref.partition(".")[0], outputs)


def _step_meant(ref: str, outputs: Outputs) -> str | None:
    """The step, or output, that `ref` names in the notation of something else."""
    bare = re.sub(r"[${}\s]|^steps\.|^\./", "", ref)
    candidates = [bare, re.sub(r"[:/]", ".", bare, count=1), *_without_section(bare)]
    for candidate in candidates:
        for text in (candidate, candidate.lower()):
            if text != ref and _is(text, outputs):
                return text
    return None


def _without_section(ref: str) -> list[str]:
    section, _, rest = re.sub(r"[:/]", ".", ref).partition(".")
    return [rest] if section in SECTIONS else []


def _is(ref: str, outputs: Outputs) -> bool:
    name, _, output = ref.partition(".")
    return name in outputs and output in outputs[name]


def _free_name(section: str, outputs: Outputs) -> str:
    """A name for a new step of a section."""
    usual = {"models": "base", "data": "rows"}.get(section, section)
    return next(n for n in (usual, *(f"{usual}{i}" for i in range(2, 999))) if n not in outputs)
