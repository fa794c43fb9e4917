"""The contract of executors: where steps run."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from finery.execute.task import Task

if TYPE_CHECKING:  # imported where the first worker starts: a build with nothing to do has none
    pass


class Executor(Protocol):
    """Where steps run. A plugin provides another one with the hook `finery_executors`."""

    def has_room(self, isolated: bool) -> bool:
        """Whether a further step can start now."""

    def start(self, task: Task) -> None:
        """Start a task; returns at once."""

    def poll(self, timeout: float) -> Iterator[tuple[Task, dict[str, Any]]]:
        """Events of running tasks: `log`, `progress`, `metric`; then `done`, `failed` or `died`."""

    def close(self) -> None:
        """End all workers, running or not."""
