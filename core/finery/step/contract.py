"""The contract for authors of step types, checked when a type is loaded."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from finery.errors import PluginError
from finery.fields import Learns, Role
from finery.step.inspect import RESERVED, SECTIONS, declared_outputs, full_name, inputs_of
from finery.step.step import Step
from finery.util.paths import shown
from finery.util.text import did_you_mean


def check_contract(cls: Any, name: str) -> None:
    """Raise `PluginError` when a step type breaks the contract for authors."""
    where = full_name(cls)
    if not (isinstance(cls, type) and issubclass(cls, Step)):
        raise PluginError(
            f"step type '{name}': {where} is not a step type", fix="subclass finery.Step"
        )
    if not (cls.__doc__ or "").strip():
        raise PluginError(
            f"step type '{name}': {where} has no docstring", fix="describe in one line what it does"
        )
    if cls.run is Step.run:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        place = f" ({shown(Path(file))})" if file else ""
        raise PluginError(
            f"step type '{name}': {where} has no method `run`{place}",
            fix="add one: def run(self, job: Job) -> Dataset: …",
        )
    if cls.outputs is Step.outputs:
        declared_outputs(cls)
    inputs = inputs_of(cls)
    for field in cls.__struct_fields__:
        if field in RESERVED:
            raise PluginError(
                f"step type '{name}': field '{field}' has the name of a key that every step has",
                fix="rename it",
            )
        if field not in inputs and not cls.__finery_fields__[field].help:
            raise PluginError(
                f"step type '{name}': setting '{field}' has no help",
                fix=f'{field} = setting(…, help="…")',
            )
    for problem in _wrong_keywords(cls):
        raise PluginError(f"step type '{name}': {problem}", fix="see docs/howto/plugins.md")


def _wrong_keywords(cls: type[Step]) -> Iterator[str]:
    """The mistakes in class keywords and roles, each as part of a sentence."""
    spec = cls.__spec__
    for keyword in ("isolated", "seeded", "engines", "keeps_prompts"):
        if not isinstance(getattr(spec, keyword), bool):
            yield f"{keyword}={getattr(spec, keyword)!r} must be True or False"
    for keyword in ("packages", "sections"):
        if not isinstance(getattr(spec, keyword), tuple | list):
            yield f"{keyword}={getattr(spec, keyword)!r} must be a tuple of names"
    for section in spec.sections:
        if section not in SECTIONS:
            yield f"there is no section '{section}': {did_you_mean(section, SECTIONS)}"
    if spec.learns not in (kinds := get_args(Learns)):
        yield f"learns={spec.learns!r} must be one of {', '.join(filter(None, kinds))}"
    for field, info in cls.__finery_fields__.items():
        if info.role not in (roles := get_args(Role)):
            known = ", ".join(filter(None, roles))
            yield f"the role {info.role!r} of '{field}' must be one of {known}"
