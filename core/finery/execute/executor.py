"""The contract of executors: where steps run.

A plugin provides an executor with the hook `finery_executors`: name → `"module:Class"`, for
`finery build --executor NAME`. `Class(jobs)` is called once a build; jobs: the steps at once that
the user allows (`--jobs`), None where it is the executor's to say. `finery.execute.local` is the
executor for this machine; the tests have one of a dozen lines that runs everything in place.

**Calls.** A build uses its executor from one thread: `has_room`, `start` and `poll` as it goes on,
and `close` once, whatever happens. `start` is called only where `has_room` just was true.

**Running a task.** Somewhere, in a process with this Python environment, `run_task(task, send)` has
to be called; it calls `send` with each report and returns the closing event. The paths in a task
must lead to the same files there as here. A step with `isolated` gets a process in which no other
step ran or will run, since libraries like CUDA can't be set up twice. The build holds the lock of
the step's key while the task runs, so one key never runs twice at once in a store.

**Events.** For each task, `poll` gives what the step reported, in the order in which it did, and
then exactly one closing event: `done`, `failed` or `died`. Nothing of that task comes after it.
Events of different tasks may come in any order. `start` doesn't raise for a task that can't be
run: its closing event says so.

**A killed step.** `died` stands for every end without a word from `run_task`: the process was
killed, crashed or lost, e.g. with its machine. Then its process group, or whatever holds what the
step started, has to be ended before `died` is given. The code is the exit code, or minus the number
of a signal: -9 is reported to the user as memory that ran out. The build doesn't try again.

**Folders.** Until the closing event, `out`, `scratch` and `log` belong to the executor and the
step. The build makes `out`; the log's folder exists; `run_task` appends what the step prints to
`log`, without secrets. After the closing event they are the build's: it removes `out`, and removes
`scratch` when the step's outputs are recorded. Outputs are in `objects/` of the store
before `done` is given.

**Secrets.** `task.env` holds their values, for this step alone. They go to the step's process by a
channel that leaves nothing behind: not in a command line, a file that stays, or a log. Of this
process's environment a step gets only `worker_environment()`, which has no secrets, and what the
hook `finery_worker_environment` adds.
"""

from collections.abc import Iterator
from typing import Protocol

from finery.execute.task import Task, TaskEvent


class Executor(Protocol):
    """Where steps run; the module's docstring has the whole contract."""

    def has_room(self, isolated: bool) -> bool:
        """Whether a further step can start now. isolated: one that needs a process of its own."""

    def start(self, task: Task) -> None:
        """Start a task. Returns at once, and raises nothing that is the task's fault."""

    def poll(self, timeout: float) -> Iterator[tuple[Task, TaskEvent]]:
        """What running tasks report and how they end.

        Waits `timeout` seconds at most for the first event, then gives those that are there. None
        is fine.
        """

    def close(self) -> None:
        """End whatever runs, and return when it has ended; no events come of it.

        Called after the last step, and where the build is interrupted.
        """
