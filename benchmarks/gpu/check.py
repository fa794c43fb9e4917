"""What a check is, what it gets, and how it ends."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

Facts = dict[str, Any]
"""What a check measured, as JSON values."""


class Failed(Exception):
    """finery or a library did something else than it should. The message says what."""


class Missing(Exception):
    """This machine lacks what the check needs. The message says what, as a sentence."""


class Check(NamedTuple):
    """One check.

    run: `module:function` in `gpu.checks`; it takes a `Place` and returns `Facts`. seconds: its
    limit on a GPU. needs: modules that must be installed. gpus: how many it needs; 0 for a check
    that also runs on a CPU.
    """

    name: str
    run: str
    seconds: int
    needs: tuple[str, ...] = ()
    gpus: int = 0


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a check runs.

    folder: for this check alone. shared: for what several checks use, such as the models. tiny:
    whether the models are tiny and no figure is judged.
    """

    folder: Path
    shared: Path
    device: str
    tiny: bool

    @property
    def judges(self) -> bool:
        """Whether measured figures are compared with what they should be."""
        return self.device == "cuda" and not self.tiny
