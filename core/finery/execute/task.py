"""What passes between a build and an executor: a step to run, and what is heard of it."""

from typing import Any, Literal, TypedDict

import msgspec

from finery.artifact.manifest import Manifest

AHEAD = "ahead"
"""The argument of a worker that is started before it is known what it will run: it is sent the
environment variables of its first task before that."""


class Task(msgspec.Struct):
    """One step to run, as plain data.

    step, use: its name in the recipe, and its step type. settings: its own, and `nested`: those of
        steps inside it, by field, each with its step type.
    inputs: input → (what the recipe calls it, the artifact) of each. files: setting → (name, path)
        of each outside file.
    seed: None where the step type takes none. pinned: what its floating name stands for.
    env: environment variables for this step alone, secrets among them.
    engines: model format → the engine's name in keys of records; empty where it may ask no model.
    plugins: plugin files beside the recipe.
    store: the store's folder. out: an empty folder for the step to fill. scratch: a folder that the
        step makes if it needs one, kept until the step succeeds. log: the file for what it prints.
    isolated: whether it needs a process of its own.
    project, recipe: the project folder, and in it the recipe's. code: files under the project
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
    project: str = ""
    recipe: str = ""
    code: list[str] = []


class Logged(TypedDict):
    """A line for people."""

    event: Literal["log"]
    message: str


class Progressed(TypedDict):
    """How far the step is, in any unit, and what it is doing."""

    event: Literal["progress"]
    done: float
    total: float
    text: str


class Measured(TypedDict):
    """A measured value; `at`: when in the step's course."""

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
    """What the answers cost that the step asked models for; the last report of a step that did."""

    event: Literal["used"]
    dollars: float


class Done(TypedDict):
    """The step ended well: its outputs are in `objects/`, `outputs` has their manifests by name."""

    event: Literal["done"]
    outputs: dict[str, Any]
    seconds: float


class Failed(TypedDict):
    """The step raised an error: what `FineryError.to_dict` makes of it."""

    event: Literal["failed"]
    error: dict[str, Any]


class Died(TypedDict):
    """The step's process ended without a word. code: its exit code; negative: a signal's number."""

    event: Literal["died"]
    code: int


Report = Logged | Progressed | Measured | Noted | Used
"""What a running step reports, any number of times."""
Closing = Done | Failed | Died
"""How a task ends, exactly once."""
TaskEvent = Report | Closing
