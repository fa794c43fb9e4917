"""What a recipe needs to know of plugins: step types by name, and the names of notes."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from finery.step.step import Step


class StepTypes(Protocol):
    """The step types that are there; `finery.plugin.manager.Plugins` is one."""

    @property
    def step_types(self) -> Mapping[str, Any]:
        """By name; only the names matter here."""

    @property
    def note_names(self) -> Collection[str]:
        """Names of the notes that a recipe can silence."""

    def step_type(self, name: str) -> type[Step]:
        """The class of a step type. Raises `PluginError` where there is none or it is broken."""

    def suggest(self, name: str) -> str:
        """A fix for an unknown step type."""
