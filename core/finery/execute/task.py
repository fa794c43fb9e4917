"""What a build and an executor exchange: a step to run, and its events."""

from typing import Any, Literal, TypedDict

import msgspec

from finery.artifact.manifest import Manifest

AHEAD = "ahead"
"""Argument of a worker that starts before its first task is known. It receives the environment
variables of that task before the task."""


class Task(msgspec.Struct):
    """One step to run, as plain data.

    step, use: its name in the recipe and its step type. settings: its settings. nested: path →
        (step type, settings) of each step inside it, e.g. `watch`, outer ones first.
    inputs: input → (name in the recipe, artifact) of each. files: setting → (name, path)
        of each outside file.
    seed: None if the step type takes none. pinned: what its floating name is pinned to.
    env: environment variables for this step only, including secrets.
    engines: model format → the engine's name in keys of records; empty if it may not use models.
    plugins: plugin files next to the recipe.
    store: the store's folder. out: an empty folder for the step's output. scratch: a folder
        that the step may create; kept until the step succeeds. log: the file for its output.
    isolated: whether it needs its own process. gpus: how many GPUs it uses, if the machine has
        them. gpu_names: numbers and UUIDs of those that it may use; empty: any.
    provenance: how its inputs were made, if it wants to know.
    project, recipe: the project folder and the recipe's folder in it. code: files in the project
        folder that are in the step's key.
    """

    step: str
    use: str
    settings: dict[str, Any]
    nested: dict[str, tuple[str, dict[str, Any]]]
    inputs: dict[str, list[tuple[str, Manifest]]]
    files: dict[str, list[tuple[str, str]]]
    seed: int | None
    pinned: str | None
    env: dict[str, str]
    engines: dict[str, str]
    plugins: list[str]
    store: str
    out: str
    scratch: str
    log: str
    isolated: bool
    gpus: int = 0
    gpu_names: list[int | str] = []
    project: str = ""
    recipe: str = ""
    code: list[str] = []
    provenance: dict[str, Any] = {}


class Logged(TypedDict):
    """A line for the user."""

    event: Literal["log"]
    message: str


class Progressed(TypedDict):
    """The step's progress, in any unit, and its current activity."""

    event: Literal["progress"]
    done: float
    total: float
    text: str


class Measured(TypedDict):
    """A measured value; `at`: when, e.g. the optimizer step."""

    event: Literal["metric"]
    name: str
    value: float
    at: float


class Noted(TypedDict):
    """Advice, with the name of its kind."""

    event: Literal["note"]
    name: str
    text: str
    fix: str


class Used(TypedDict):
    """The cost of the step's answers, as its last report.

    dollars: of the answers that it asked models for. worth: of those from the cache, too.
    """

    event: Literal["used"]
    dollars: float
    worth: float


class Done(TypedDict):
    """The step succeeded: its outputs are in `objects/`, `outputs` has their manifests by name."""

    event: Literal["done"]
    outputs: dict[str, Any]
    seconds: float


class Failed(TypedDict):
    """The step raised an error, encoded by `FineryError.to_dict`."""

    event: Literal["failed"]
    error: dict[str, Any]


class Died(TypedDict):
    """The step's process died. code: its exit code, or a negative signal number."""

    event: Literal["died"]
    code: int


Report = Logged | Progressed | Measured | Noted | Used
"""Reports of a running step, any number of them."""
Closing = Done | Failed | Died
"""The end of a task, exactly one event."""
TaskEvent = Report | Closing
