"""Builds without processes, quick enough for thousands of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from finery import FineryError
from finery.artifact.manifest import Result
from finery.build.project import open_graph, open_store
from finery.build.scheduler import Build
from finery.execute.task import Task
from finery.execute.worker import _outputs


class InProcess:
    """Runs each step where it stands, one after the other."""

    def __init__(self) -> None:
        self._events: list[tuple[Task, dict[str, Any]]] = []

    def has_room(self, isolated: bool) -> bool:
        """One step at a time."""
        return not self._events

    def start(self, task: Task) -> None:
        """Run the task now; what it tells comes out of `poll`."""
        try:
            outputs = _outputs(task, lambda event: self._events.append((task, event)))
            end = {"event": "done", "outputs": msgspec.to_builtins(outputs), "seconds": 0.0}
        except FineryError as error:
            end = {"event": "failed", "error": error.to_dict()}
        self._events.append((task, end))

    def poll(self, timeout: float) -> Iterator[tuple[Task, dict[str, Any]]]:
        """What the task told."""
        events, self._events = self._events, []
        yield from events

    def close(self) -> None:
        """Nothing to end."""


def build(recipe: Path, overrides: Sequence[str] = ()) -> Build:
    """Build a recipe here; all must go well."""
    store = open_store(recipe)
    made = Build(open_graph(recipe, overrides, store), store, InProcess())
    outcome = made.run()
    assert not outcome.errors, outcome.errors
    return made


def digests(made: Build) -> dict[str, list[str]]:
    """Step → digests of its outputs."""
    results: dict[str, Result] = made.outcome.results
    return {name: [m.digest for m in r.outputs.values()] for name, r in results.items()}
