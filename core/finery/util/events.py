"""The events of a build, for the terminal view, `--json` and the run's log.

An event is a mapping: `event` names one of the classes below, `time` says when, and the other
fields are those of the class. This is the only place that declares them; docs/reference/events.md
is generated from it. Within a version of `finery`, no field is removed or changes its meaning.
Fields and events may be added, so a reader must ignore those that it doesn't know.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, TypedDict

Event = dict[str, Any]
"""An event as one of the classes in `EVENTS` describes it."""
Listener = Callable[[Event], None]


class StepInRecipe(TypedDict):
    """A step of the recipe at the start of a build."""

    step: str
    use: str
    section: str


class Error(TypedDict):
    """An error that users can cause, by the parts in which it is printed."""

    error: Annotated[str, "the class of the error, e.g. `StepError`"]
    what: Annotated[str, "what is wrong"]
    where: Annotated[str | None, "`file:line:column` in the recipe, if known"]
    fix: Annotated[str | None, "how to fix it"]
    details: Annotated[list[str], "further lines, e.g. the end of a traceback"]


class _EventFields(TypedDict):
    event: Annotated[str, "the event's name"]
    time: Annotated[str, "when it happened: UTC, ISO 8601, e.g. `2026-01-02T03:04:05.678Z`"]


class _StepEvent(_EventFields):
    step: Annotated[str, "the step's name"]


class _StepTypeEvent(_StepEvent):
    use: Annotated[str, "its step type"]


class BuildStarted(_EventFields):
    """A build begins. Always the first event."""

    run: Annotated[str, "the run's id; its events and logs are in `.finery/runs/<run>/`"]
    recipe: Annotated[str, "the recipe's name"]
    steps: Annotated[list[StepInRecipe], "the steps that are built, in order"]


class StepCached(_StepTypeEvent):
    """A step's output is already in the store, so the step doesn't run."""

    key: Annotated[str, "the key of its result in the store"]
    reason: Annotated[str, "if its key has changed since: which changes are accepted; else empty"]


class StepStarted(_StepTypeEvent):
    """A step starts."""

    key: Annotated[str, "the key that its result will have in the store"]
    reason: Annotated[str, "why it runs, e.g. `setting epochs: 3 → 2`"]


class StepLog(_StepEvent):
    """A line that a step logs, advice at the start of a training, or what a step waits for."""

    message: Annotated[str, "the line"]


class StepProgress(_StepEvent):
    """The progress of a running step."""

    done: Annotated[float, "how much is done, in any unit"]
    total: Annotated[float, "how much there is to do, in the same unit"]
    text: Annotated[str, "what it is doing"]


class StepMetric(_StepEvent):
    """A value measured while a step runs, e.g. a training's loss."""

    name: Annotated[str, "what is measured"]
    value: Annotated[float, "its value"]
    at: Annotated[float, "when it was measured, e.g. the optimizer step"]


class StepNote(_StepEvent):
    """Advice found while running the step, e.g. that its result can't be reused."""

    name: Annotated[str, "the kind of note, by which a recipe silences it"]
    text: Annotated[str, "the note's text"]
    fix: Annotated[str, "how to fix it"]


class StepFinished(_StepTypeEvent):
    """A step ran, and its outputs are in the store."""

    key: Annotated[str, "the key of its result in the store"]
    seconds: Annotated[float, "how long it ran"]
    outputs: Annotated[
        dict[str, str], "each output's kind, by name; `''` for a step with one output"
    ]
    dollars: Annotated[float, "the cost of the model answers that it requested, if known"]


class StepFailed(_StepTypeEvent):
    """A step failed, or its output doesn't meet a requirement."""

    error: Annotated[Error, "why"]
    log: Annotated[str | None, "the file with its output, if it printed anything"]


class StepBlocked(_StepTypeEvent):
    """A step can't run because a step that it needs failed."""

    by: Annotated[str, "the step that failed"]


class Transferred(_EventFields):
    """Bytes were copied from or to a shared store."""

    fetched: Annotated[int, "bytes of files that arrived"]
    wanted: Annotated[int, "bytes of all files that are being fetched"]
    pushed: Annotated[int, "bytes that were sent"]
    waiting: Annotated[int, "results that are still to be sent"]


class VerdictReached(_EventFields):
    """What to ship of a build of a whole recipe about models. Only `--json` prints it."""

    text: Annotated[str, "the sentence that a report begins with"]
    tone: Annotated[str, "`good`, `open` for to ship with a reservation, `bad` for not yet"]
    ship: Annotated[str | None, "the model to ship; null for none yet"]


class BuildFinished(_EventFields):
    """A build ended, successfully or not. Always the last event."""

    ok: Annotated[bool, "whether every step is built and meets its requirements"]
    ran: Annotated[int, "steps that ran"]
    cached: Annotated[int, "steps that didn't need to run"]
    failed: Annotated[int, "steps that failed"]
    blocked: Annotated[int, "steps that couldn't run because of those"]
    seconds: Annotated[float, "how long the build took"]
    exit_code: Annotated[int, "the exit code of `finery build`"]


EVENTS: dict[str, type] = {
    "build_started": BuildStarted,
    "step_cached": StepCached,
    "step_started": StepStarted,
    "step_log": StepLog,
    "step_progress": StepProgress,
    "step_metric": StepMetric,
    "step_note": StepNote,
    "step_finished": StepFinished,
    "step_failed": StepFailed,
    "step_blocked": StepBlocked,
    "transfer": Transferred,
    "verdict": VerdictReached,
    "build_finished": BuildFinished,
}
"""All events by name, in the order in which they occur in a build."""


def make_event(event: str, **fields: Any) -> Event:
    """The event `event` with the current time."""
    return {"event": event, "time": now(), **fields}


def now() -> str:
    """The current time, as events have it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_run_id() -> str:
    """A new id for a run, which sorts by time: in UTC, e.g. `20260102-030405.678-1234`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S.%f}"[:-3] + f"-{os.getpid()}"
