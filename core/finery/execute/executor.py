"""The contract of executors: where steps run.

A plugin provides an executor with the hook `finery_executors`: name → `"module:Class"`, for
`finery build --executor NAME`. `Class(jobs)` is called once per build. jobs: most concurrent
steps (`--jobs`), or None if the executor decides. `finery.execute.local` is the executor for this
machine. The tests contain a minimal one that runs everything in the main process.

**Calls.** A build uses its executor from one thread: `has_room`, `start` and `poll` repeatedly,
and `close` once, even after an error. `start` is called only directly after `has_room` returned
true.

**Running a task.** The executor calls `run_task(task, send)` in a process with this Python
environment, which calls `send` with each report and returns the closing event. The paths in a task
must lead to the same files there as here. A step with `isolated` needs a process in which no other
step runs before or after it, since libraries like CUDA can't be initialised twice. The build holds
the lock of the step's key while the task runs, so a key never runs twice at the same time.

**GPUs.** `task.gpus` is the number of GPUs that a step uses, on a machine that has as many. Other
steps must not get the same ones, so `has_room` says whether that many are free. If the machine has
fewer, the step gets all, and steps run as usual where there are none. `task.gpu_names` has the
numbers and UUIDs of those that the step may use (`named_gpus` finds them), and is empty if it may
use any; an executor that can't choose a GPU ends such a task with `failed`. A process sees only its
own GPUs if `CUDA_VISIBLE_DEVICES` (AMD: `HIP_VISIBLE_DEVICES`) lists them. A started task may wait
for its GPUs; the executor then reports what it waits for as a `log` event.

**Events.** For each task, `poll` returns the step's reports in their order, and then exactly one
closing event: `done`, `failed` or `died`. No event of that task follows. Events of different tasks
may arrive in any order. `start` doesn't raise for a task that can't run: the closing event contains
the error.

**A killed step.** `died` means that `run_task` didn't return: the process was killed, crashed or
was lost with its machine. The executor must end everything that the step started, e.g. its process
group, before it returns `died`. The code is the exit code, or a negative signal number; the build
reports -9 as running out of memory. The build doesn't retry.

**Folders.** Until the closing event, `out`, `scratch` and `log` belong to the executor and the
step. The build creates `out` and the log's folder. `run_task` appends the step's output to `log`,
without secrets. After the closing event, they belong to the build: it removes `out`, and removes
`scratch` once the step's outputs are recorded. Outputs must be in `objects/` of the store before
`done` is returned.

**Secrets.** `task.env` contains their values, for this step only. Pass them to the step's process
without traces in a command line, a permanent file or a log. From this process's environment, a step
gets only `worker_environment()`, which has no secrets, and the additions of the hook
`finery_worker_environment`.
"""

from collections.abc import Iterator
from typing import Protocol

from finery.execute.task import Task, TaskEvent


class Executor(Protocol):
    """Runs steps. The module's docstring contains the complete contract."""

    def has_room(self, isolated: bool, gpus: int = 0) -> bool:
        """Whether another step can start now.

        isolated: whether it needs its own process. gpus: how many GPUs it uses.
        """

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
