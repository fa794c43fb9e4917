"""The contract for authors of step types, checked when a type is loaded."""

import sys
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
)

from finery.errors import PluginError
from finery.util.paths import shown

if TYPE_CHECKING:
    pass
from finery.step.inspect import RESERVED, declared_outputs, full_name, inputs_of
from finery.step.step import Step


def check_contract(cls: Any, name: str) -> None:
    """Raise `PluginError` when a step type breaks the contract for authors."""
    where = full_name(cls)
    if not (isinstance(cls, type) and issubclass(cls, Step)):
        raise PluginError(
            f"step type '{name}': {where} is not a step type", fix="subclass finery.Step"
        )
    if not (cls.__doc__ or "").strip():
        raise PluginError(
            f"step type '{name}': {where} has no docstring", fix="say in one line what it does"
        )
    if cls.run is Step.run:
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        place = f" ({shown(Path(file))})" if file else ""
        raise PluginError(
            f"step type '{name}': {where} has no method `run`{place}",
            fix="give it one: def run(self, job: Job) -> Dataset: …",
        )
    if cls.outputs is Step.outputs:
        declared_outputs(cls)
    inputs = inputs_of(cls)
    for field in cls.__struct_fields__:
        if field in RESERVED:
            raise PluginError(
                f"step type '{name}': field '{field}' is a word every step has", fix="rename it"
            )
        if field not in inputs and not cls.__finery_fields__[field].help:
            raise PluginError(
                f"step type '{name}': setting '{field}' has no help",
                fix=f'{field} = setting(…, help="…")',
            )
