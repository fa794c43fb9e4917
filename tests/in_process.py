"""Builds without processes, quick enough for thousands of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from finery import FineryError
from finery.artifact.manifest import Result
from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.execute.executor import Done, Failed, Need, Task, TaskEvent
from finery.execute.observed import collect_reads
from finery.execute.worker import outputs_of


class InProcess:
    """Runs each step where it stands, one after the other."""

    def __init__(self) -> None:
        self._events: list[tuple[Task, TaskEvent]] = []

    def has_room(self, need: Need) -> bool:
        """One step at a time."""
        return not self._events

    def start(self, task: Task) -> None:
        """Run the task now; what it tells comes out of `poll`."""
        closing: Done | Failed
        try:
            outputs = outputs_of(task, lambda event: self._events.append((task, event)))
            reads, _, _ = collect_reads(task)
            closing = Done(event="done", outputs=outputs, seconds=0.0, reads=reads)
        except FineryError as error:
            closing = Failed(event="failed", error=error.to_dict())
        self._events.append((task, closing))

    def poll(self, timeout: float) -> Iterator[tuple[Task, TaskEvent]]:
        """What the task told."""
        events, self._events = self._events, []
        yield from events

    def close(self) -> None:
        """Nothing to end."""


class Here(InProcess):
    """The same as a plugin provides it."""

    def __init__(self, jobs: int | None) -> None:
        super().__init__()


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
