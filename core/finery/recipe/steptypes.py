"""What a recipe needs from plugins: step types by name, and the names of notes."""

from collections.abc import Collection, Mapping
from typing import Any, Protocol

from finery.step.step import Step


class StepTypes(Protocol):
    """The available step types; `finery.plugin.manager.Plugins` implements this."""

    @property
    def step_types(self) -> Mapping[str, Any]:
        """The step types by name; only the names are used here."""

    @property
    def note_names(self) -> Collection[str]:
        """Names of the notes that a recipe can silence."""

    def step_type(self, name: str) -> type[Step]:
        """The class of a step type. Raises `PluginError` if it is missing or broken."""

    def suggest(self, name: str) -> str:
        """A fix for an unknown step type."""
