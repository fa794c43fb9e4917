"""The contract of executors: where steps run.

A plugin provides an executor with the hook `finery_executors`: name → `"module:Class"`, for
`finery build --executor NAME` and `executors` in finery.toml. `Class(jobs)` is called once per
build. jobs: most concurrent steps (`--jobs`), or None if the executor decides. If the class has a
msgspec Struct `Options`, `Class(jobs, options)` is called with the executor's table in finery.toml,
which finery has checked. A field with the name of a setting, such as `remote`, has its value by
default. `finery.execute.local` is the executor for this machine. The tests contain a minimal one
that runs everything in the main process. For an engine whose jobs continue without the build, such
as Slurm, `finery.execute.detached` has a base class, and `finery.execute.courier` has one for
engines whose machines share no folder with that of the build, such as Ray.

**Calls.** A build uses its executor from one thread: `has_room`, `start` and `poll` repeatedly,
and `close` once, even after an error. `start` is called only directly after `has_room` returned
true, for a `Need` that says what the step needs. A task is such a `Need`, too.

**Running a task.** The executor calls `run_task(task, send)` in a process with this Python
environment, which calls `send` with each report and returns the closing event. The paths in a task
must lead to the same files there as here. In another environment, `finery.execute.job` compares it
with `task.expects` first. A step with `isolated` needs a process in which no other step runs before
or after it, since libraries like CUDA can't be initialised twice. The build holds
the lock of the step's key while the task runs, so a key never runs twice at the same time.

**Environments.** A task with `environment` runs in a process of another Python:
`finery.execute.venv.ensure` makes the environment where it is called, and returns its Python.

**GPUs.** `task.gpus` is the number of GPUs that a step uses, on a machine that has as many. Other
steps must not get the same ones, so `has_room` says whether that many are free. If the machine has
fewer, the step gets all, and steps run as usual where there are none. Steps that state
`resources.gpu_memory` may share a GPU whose memory is enough for all of them. `task.gpu_names` has
the numbers and UUIDs of those that the step may use (`named_gpus` finds them), and is empty if it
may use any; an executor that can't choose a GPU ends such a task with `failed`. A process sees only
its own GPUs if `CUDA_VISIBLE_DEVICES` lists them. A started task may
wait for its GPUs; the executor then reports what it waits for as a `log` event.

**Nodes.** An executor that gives a step `task.nodes` machines at once runs the task on the first,
with `task.gpus` divided among them, and sets `FINERY_ON_NODES` for it, see `Job.on_nodes`. Without
the variable, the step does all its work on one machine.

**Resources.** `task.resources` is what the recipe says that the step needs. An executor for
several steps on a machine keeps their sum within what the machine has. A step with `alone`, which
measures time, must share its machine with no other step.

**Events.** For each task, `poll` returns the step's reports in their order, and then exactly one
closing event: `done`, `failed` or `died`. No event of that task follows. Events of different tasks
may arrive in any order. `start` doesn't raise for a task that can't run: the closing event contains
the error.

**A killed step.** `died` means that `run_task` didn't return: the process was killed, crashed or
was lost with its machine. The executor must end everything that the step started, e.g. its process
group, before it returns `died`. The code is the exit code, or a negative signal number; the build
reports -9 as running out of memory, unless `reason` says what happened. The build starts the task
again as often as `retries` in finery.toml says.

**Folders.** Until the closing event, `out`, `scratch` and `log` belong to the executor and the
step, and longer if `failed` says that a job `continues`. The build creates `out` and the log's
folder. `run_task` appends the step's output to `log`,
without secrets. After the closing event, they belong to the build: it removes `out`, and removes
`scratch` once the step's outputs are recorded. Outputs must be in `objects/` of the store before
`done` is returned.

**Secrets.** `task.env` contains their values, for this step only. Pass them to the step's process
without traces in a command line, a permanent file or a log. From this process's environment, a step
gets only `worker_environment()`, which has no secrets, and the additions of the hook
`finery_worker_environment`.
"""

from collections.abc import Iterator
from typing import Any, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import msgspec

from finery.artifact.manifest import Manifest
from finery.inference.engine import Identity
from finery.plugin.discovery import Compiled
from finery.recipe.environments import Environment
from finery.step.resources import Rehearsing, Reservation

PREPARE_AHEAD = "ahead"
"""Argument of a worker that starts before its first task is known. It receives the environment
variables of that task before the task."""


NOT_REHEARSED, WRITTEN = "not-rehearsed", "written"
"""The names of notes on what a rehearsal leaves out, and on the bytes that a step wrote."""


class Need(msgspec.Struct, kw_only=True):
    """What decides where and when a step may start.

    key: of its output. step, use, section: its name in the recipe, its step type and its section;
        origin: the name that all its variants share. isolated: whether it needs its own process.
    alone: whether no other step may run on its machine meanwhile.
    gpus: how many GPUs it uses, if the machine has them, on all nodes together. nodes: how many
    machines it can use at once. resources: what the recipe asks for.
    """

    step: str
    use: str
    isolated: bool
    alone: bool = False
    key: str = ""
    section: str = ""
    origin: str = ""
    gpus: int = 0
    nodes: int = 1
    resources: Reservation = Reservation()


class Expects(msgspec.Struct, kw_only=True, frozen=True):
    """What a step's key says about the environment that runs it.

    python: e.g. `3.11`. packages: distribution → version, without a build label like `+cu130`.
    code: file of `Task.code`, as a path below an entry of `sys.path` or an absolute one → digest of
    its content. Empty until a job in another environment is made.
    """

    python: str = ""
    packages: dict[str, str] = {}
    code: dict[str, str] = {}


class Task(Need, kw_only=True):
    """One step to run, as plain data.

    settings: its settings. nested: path →
        (step type, settings) of each step inside it, e.g. `watch`, outer ones first.
    inputs: input → (name in the recipe, artifact) of each. files: setting → (name, path)
        of each outside file.
    seed: None if the step type takes none. pinned: what its floating name is pinned to.
    env: environment variables for this step only, including secrets.
    engines: model format → the engine in keys of records; empty if it may not use models.
    plugins, entry_points: the plugin files, and the names of installed plugins besides finery's
        own, that the process must load: those that are in the step's key.
    store: the store's folder. out: an empty folder for the step's output. scratch: a folder
        that the step may create; kept until the step succeeds. log: the file for its output.
    gpu_names: numbers and UUIDs of the GPUs that it may use; empty: any.
    provenance: how its inputs were made, if it wants to know. environment: the one that it runs
        in; None: that of finery.
    answers: the shared store for answers of models, see `finery.inference.shared`. It contains
        secrets, like `env`.
    expects: what the environment that runs it must have. records: the database of answers; empty:
        that of the store. rehearsal: how to rehearse the step, instead of running it.
    project, recipe: the project folder and the recipe's folder in it. code: files that are in
        the step's key. left_out: plugin file → step types in it that aren't: the process must not
        define them.
    """

    settings: dict[str, Any]
    nested: dict[str, tuple[str, dict[str, Any]]]
    inputs: dict[str, list[tuple[str, Manifest]]]
    files: dict[str, list[tuple[str, str]]]
    seed: int | None
    pinned: str | None
    env: dict[str, str]
    engines: dict[str, Identity]
    plugins: list[str]
    store: str
    out: str
    scratch: str
    log: str
    entry_points: list[str] = []
    gpu_names: list[int | str] = []
    project: str = ""
    recipe: str = ""
    code: list[str] = []
    left_out: dict[str, list[str]] = {}
    provenance: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    environment: Environment | None = None
    expects: Expects = Expects()
    records: str = ""
    rehearsal: Rehearsing | None = None


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
    """The step succeeded: its outputs are in `objects/`, `outputs` has their manifests by name.

    reads: (name, value) of what it read besides its inputs, see `finery.execute.observed`.
    changing: why the next build can't reuse the result. ends: whether its process must not run
    another step. code: file of a project that the process imported → what that was.
    """

    event: Literal["done"]
    outputs: dict[str, Any]
    seconds: float
    reads: NotRequired[list[tuple[str, str]]]
    changing: NotRequired[str]
    ends: NotRequired[bool]
    code: NotRequired[dict[str, Compiled]]


class Failed(TypedDict):
    """The step raised an error, encoded by `FineryError.to_dict`.

    continues: whether its job may still run, so that the build leaves its folders to the next one.
    ends: as in `Done`.
    """

    event: Literal["failed"]
    error: dict[str, Any]
    continues: NotRequired[bool]
    ends: NotRequired[bool]


class Died(TypedDict):
    """The step's process died.

    code: its exit code, or a negative signal number. reason: what ended it, if that is known, e.g.
    `it reached its time limit`. fix: what a user can do about it.
    """

    event: Literal["died"]
    code: int
    reason: NotRequired[str]
    fix: NotRequired[str]


Report = Logged | Progressed | Measured | Noted | Used
"""Reports of a running step, any number of them."""
Closing = Done | Failed | Died
"""The end of a task, exactly one event."""
TaskEvent = Report | Closing
"""What an executor yields of a task: reports while it runs, then how it ended."""


class Executor(Protocol):
    """Runs steps. The module's docstring contains the complete contract."""

    def has_room(self, need: Need) -> bool:
        """Whether another step can start now."""

    def start(self, task: Task) -> None:
        """Start a task without waiting. Doesn't raise errors of the task."""

    def poll(self, timeout: float) -> Iterator[tuple[Task, TaskEvent]]:
        """Reports and closing events of running tasks.

        Waits up to `timeout` seconds for the first event, then returns the available ones, if any.
        """

    def close(self) -> None:
        """End everything that runs, and wait for it. Returns no events.

        Called after the last step, or when the build is interrupted.
        """


@runtime_checkable
class Detached(Executor, Protocol):
    """An executor whose jobs continue after `close`. The next build finds them by their key."""

    def left(self) -> list[str]:
        """The jobs that are running, e.g. `sft: Slurm job 17`."""

    def how_to_cancel(self) -> str:
        """What a user does to cancel them, e.g. `scancel 17`."""

    def cancel(self) -> None:
        """End these jobs, also after `close`."""
