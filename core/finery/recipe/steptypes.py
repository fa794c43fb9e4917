"""What a recipe needs from plugins: step types by name, and the names of notes."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from blake3 import blake3

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

    @property
    def sampler_names(self) -> Collection[str]:
        """Names of what can draw the variants of a matrix."""

    def sampler(self, name: str) -> Callable[..., Any]:
        """A sampler, see `finery.recipe.matrix.sample.Sampler`."""

    @property
    def chooser(self) -> str:
        """The step type that chooses a variant of a matrix."""


def derived_seed(seed: int, use: str) -> int:
    """A step's seed from the recipe's seed and the step type, 0 ≤ seed < 2³¹.

    The step's name has no part in it: two trainings that are compared under different names
    differ only in what the recipe changes between them.
    """
    return int.from_bytes(blake3(f"{seed}/{use}".encode()).digest(4), "big") >> 1
