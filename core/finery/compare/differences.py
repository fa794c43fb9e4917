"""What differs between two sides, step by step, as plain data."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from finery.artifact.manifest import Manifest
from finery.builder.keys import Change, FindNames, changes_between
from finery.compare.outputs import titled
from finery.compare.sides import Side, SideStep

Kind = Literal["same", "changed", "added", "removed"]
AROUND = ("code ", "package ", "python", "machine ", "engine ", "wrappers", "key format")
"""Prefixes of the names of parts that concern the installation instead of the recipe."""
CLEANED = "no longer in the store"


class OutputPair(NamedTuple):
    """An output on both sides; the manifests differ. missing: why it can't be looked into."""

    title: str
    before: Manifest
    after: Manifest
    missing: str = ""


@dataclass
class StepDifference:
    """What differs in a step.

    changes: of its key, without inputs. inputs: those that changed, as in keys: `models[0]`.
    outputs: those that differ. same_result: whether another key led to the same outputs. missing:
    side → why its outputs can't be examined. seconds, size (bytes): on both sides; None if unknown.
    """

    name: str
    kind: Kind
    use: str = ""
    changes: list[Change] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[OutputPair] = field(default_factory=list)
    same_result: bool = False
    missing: list[str] = field(default_factory=list)
    seconds: tuple[float | None, float | None] = (None, None)
    size: tuple[int | None, int | None] = (None, None)

    @property
    def of_recipe(self) -> list[Change]:
        """Changes of the recipe and its files."""
        return [c for c in self.changes if not c.part.startswith(AROUND)]

    @property
    def around(self) -> list[Change]:
        """Changes of code, packages and the machine."""
        return [c for c in self.changes if c.part.startswith(AROUND)]


def differences(before: Side, after: Side, names_of: FindNames) -> list[StepDifference]:
    """Every step of both sides, in the order of the later one."""
    names = [*after.steps, *(name for name in before.steps if name not in after.steps)]
    return [
        _of_step(name, before.steps.get(name), after.steps.get(name), names_of) for name in names
    ]


def _of_step(
    name: str, old: SideStep | None, new: SideStep | None, names_of: FindNames
) -> StepDifference:
    one = new or old
    assert one is not None
    results = [step.result if step else None for step in (old, new)]
    seconds: Any = tuple(result.seconds if result else None for result in results)
    size: Any = tuple(
        sum({m.digest: m.size() for m in result.outputs.values()}.values()) if result else None
        for result in results
    )
    if old is None or new is None:
        kind: Kind = "removed" if new is None else "added"
        return StepDifference(name, kind, one.use, seconds=seconds, size=size)
    if old.key and old.key == new.key:
        return StepDifference(name, "same", one.use)
    made = StepDifference(name, "changed", one.use)
    made.seconds, made.size = seconds, size
    if old.parts and new.parts:
        changes = changes_between(old.parts, new.parts, names_of)
        made.changes = [c for c in changes if not c.part.startswith(("input ", "provenance "))]
        made.inputs = [
            c.part.removeprefix("input ") for c in changes if c.part.startswith("input ")
        ]
    made.missing = [
        f"{side}: {text}" for side, text in (("A", _lack(old)), ("B", _lack(new))) if text
    ]
    if old.result and new.result:
        before, after = titled(name, old.result.outputs), titled(name, new.result.outputs)
        missing = "" if old.is_whole and new.is_whole else CLEANED
        made.outputs = [
            OutputPair(title, before[title], manifest, missing)
            for title, manifest in after.items()
            if title in before and before[title].digest != manifest.digest
        ]
        same_names = old.result.outputs.keys() == new.result.outputs.keys()
        made.same_result = not made.outputs and same_names
    return made


def _lack(step: SideStep) -> str:
    """Why a side's outputs can't be looked into; empty if they can."""
    if step.result is None:
        return step.reason
    return "" if step.is_whole else CLEANED
