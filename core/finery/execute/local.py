"""The local executor: worker processes on this machine."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from finery.errors import UsageError
from finery.execute.environment import inherited_variables, worker_environment
from finery.execute.executor import PREPARE_AHEAD, Died, Failed, Logged, Need, Task, TaskEvent
from finery.execute.gpu import VISIBLE, Gpu
from finery.execute.gpus import cpu_count, memory_bytes, visible_gpus
from finery.step.resources import Reservation

if TYPE_CHECKING:  # imported with the first worker, since a build with nothing to do has none
    import subprocess
    from multiprocessing.connection import Connection

    from finery.execute.sharing import GpuLease, GpuUse


_WATCH_SCRIPT = 'trap "" HUP INT TERM; read -r line || kill -9 "-$1"'
"""Waits for a line. At the end of input without one, kills the process group `$1`."""
END_SECONDS = 5.0
"""Seconds that a worker gets to exit by itself."""
GPU_RETRY_SECONDS = 0.5
"""Seconds after which to look again for GPUs that another build may have left."""


@dataclass(eq=False)
class _Worker:
    """A worker process, our end of its socket, and its current task.

    step: its latest step. gpus: id → how it uses it. retired_at: when it had nothing to do any
        more.

    watch: a shell that kills the worker's process group when this process dies. Otherwise child
        processes of the step would survive.
    """

    process: "subprocess.Popen[bytes]"
    connection: "Connection"
    watch: "subprocess.Popen[bytes]"
    task: Task | None = None
    is_used: bool = False  # otherwise it was started ahead, without a task yet
    step: str = ""
    gpus: "dict[str, GpuUse]" = field(default_factory=dict)
    environment: str = ""  # the digest of that in which it runs, see `finery.execute.venv`
    kind: "tuple[object, ...]" = ()  # of its tasks, see `_task_kind`
    retired_at: float = 0.0


@dataclass(eq=False)
class _Waiting:
    """A step that waits for its GPUs, and the reason that its log has."""

    task: Task
    reason: str = ""


class LocalExecutor:
    """A pool of warm workers for light steps, and a new process for each isolated step.

    jobs: most concurrent steps. None allows one light step per core and one isolated step, which
    uses all cores or the accelerator. Isolated steps that state their cores run at the same time.
    The cores and memory that running steps ask for never exceed the machine's. A step that asks for
    more runs alone, as does one that measures time (`alone`). Steps that state their `gpu_memory`
    share GPUs.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []
        self._waiting: list[_Waiting] = []
        self._unsent: list[tuple[Task, TaskEvent]] = []
        self._prepare()

    def _prepare(self) -> None:
        """Start a worker ahead, which takes a while to import: at first, while the build plans."""
        if cpu_count() > 1:
            self._workers.append(_spawn(os.devnull, inherited_variables(), PREPARE_AHEAD))

    def has_room(self, need: Need) -> bool:
        """Whether another step can start now, and no step of this build uses the GPUs it needs."""
        if not self._has_process(need):
            return False
        if not need.gpus or not self._gpus:
            return True
        from finery.execute.sharing import has_gpu_space

        uses_by_gpu, memory = self._used_gpus(), need.resources.gpu_memory
        free = [
            gpu for gpu in self._gpus if has_gpu_space(gpu, uses_by_gpu.get(gpu.id, ()), memory)
        ]
        return len(free) >= min(need.gpus, len(self._gpus))

    def _has_process(self, need: Need) -> bool:
        busy = [w.task for w in self._workers if w.task] + [w.task for w in self._waiting]
        if busy and (
            need.alone or any(task.alone for task in busy) or not fits_machine(need, busy)
        ):
            return False
        if self._jobs is not None:
            return len(busy) < self._jobs
        similar = [t for t in busy if t.isolated == need.isolated]
        if need.isolated and all(self._declares_share(step) for step in (need, *similar)):
            return True
        return len(similar) < (1 if need.isolated else cpu_count())

    def _declares_share(self, need: Need) -> bool:
        return need.resources.cpus > 0 or (need.resources.gpu_memory > 0 and bool(self._gpus))

    def start(self, task: Task) -> None:
        """Start a task in a warm worker, or in a new one, which waits for its GPUs."""
        if available := _exceeded_resources(task):
            message = f"asks for {task.resources}, and this machine has {available}: it runs alone"
            self._unsent.append((task, Logged(event="log", message=message)))
        if task.gpus and (self._gpus or task.gpu_names):
            self._waiting.append(_Waiting(task))
            self._start_waiting()
            return
        idle = [w for w in self._workers if w.task is None]
        warm = [w for w in idle if w.is_used and w.kind == _task_kind(task)]
        unused = [w for w in idle if not w.is_used and not task.environment]
        if warm and not task.isolated:
            self._send(warm[0], task)
        elif unused and not task.isolated:
            self._send(unused[0], worker_environment(task, alone=False), task)
        else:
            if len(idle) >= cpu_count():
                self._retire(idle[0])
            self._send(self._new_worker(task), task)
            if idle and not unused:  # steps of several plugins: another one may be next
                self._prepare()

    def _new_worker(self, task: Task, taken: "GpuLease | None" = None) -> _Worker:
        """A new process for a task. taken: its GPUs."""
        if task.isolated:
            self._end_unused()
        cpus = task.resources.cpus
        is_one_of_several = self._jobs not in (None, 1) or self._declares_share(task)
        alone = task.alone or (task.isolated and not is_one_of_several)
        environment = worker_environment(task, alone=alone)
        if cpus:
            environment.setdefault("OMP_NUM_THREADS", str(min(cpus, cpu_count())))
        gpus = taken.gpus if taken else []
        if gpus and len(gpus) < len(self._gpus):
            environment[VISIBLE] = ",".join(gpu.id for gpu in gpus)
        inherits = [*taken.locks.values()] if taken else []
        if task.environment is None:
            worker = _spawn(task.log, environment, inherits=inherits)
        else:  # which may have to be made first, with all variables of this process
            worker = _spawn(task.log, os.environ, module="venv", inherits=inherits)
            worker.environment = task.environment.digest
            environment_task = (task.environment, task.store, environment)
            worker.connection.send_bytes(msgspec.msgpack.encode(environment_task))
        worker.gpus = taken.uses(task) if taken else {}
        self._workers.append(worker)
        return worker

    @staticmethod
    def _send(worker: _Worker, *messages: Task | dict[str, str]) -> None:
        """Give a worker its next task. messages: before it, the environment of an unused worker."""
        task = messages[-1]
        assert isinstance(task, Task)
        worker.task, worker.step, worker.is_used = task, task.step, True
        worker.kind = _task_kind(task)
        with contextlib.suppress(OSError):  # it has just died: poll() reports that
            for message in messages:
                worker.connection.send_bytes(msgspec.msgpack.encode(message))

    @cached_property
    def _gpus(self) -> list[Gpu]:
        """The GPUs that steps may use."""
        return visible_gpus()

    def _used_gpus(self) -> "dict[str, list[GpuUse]]":
        """Id → uses, of the GPUs that workers use.

        A worker uses its GPU until it has ended, since its memory there isn't free before.
        """
        self._reap()
        uses: dict[str, list[GpuUse]] = {}
        for worker in (*self._workers, *self._leaving):
            for gpu, use in worker.gpus.items():
                uses.setdefault(gpu, []).append(use)
        return uses

    def _reap(self) -> None:
        """End the remains of workers that have exited or should have, and forget them.

        Each worker has its own shell and pipe, and processes that its step started may use memory.
        """
        for worker in list(self._leaving):
            is_late = time.monotonic() - worker.retired_at > END_SECONDS
            if is_late or worker.process.poll() is not None:
                _end(worker, 0)
                self._leaving.remove(worker)

    def _start_waiting(self) -> None:
        """Start the tasks that can have their GPUs now, the first of them first."""
        from finery.execute.sharing import GpuWait, lease_gpus

        waited_for: dict[str, str] = {}
        for waiting in list(self._waiting):
            task = waiting.task
            try:
                taken = lease_gpus(task, self._used_gpus(), waited_for)
            except UsageError as error:
                self._waiting.remove(waiting)
                self._unsent.append((task, Failed(event="failed", error=error.to_dict())))
                continue
            if isinstance(taken, GpuWait):
                waited_for |= dict.fromkeys(taken.wanted, task.step)
                self._log_once(waiting, taken.reason)
                continue
            self._waiting.remove(waiting)
            names = ", ".join(gpu.label for gpu in taken.gpus)
            if waiting.reason or 0 < len(taken.gpus) < len(self._gpus):
                self._log_once(waiting, f"running on {names}")
            if taken.warning:
                self._log_once(waiting, f"warning: {names}: {taken.warning}")
            try:
                self._send(self._new_worker(task, taken), task)
            finally:
                taken.close()

    def _log_once(self, waiting: _Waiting, message: str) -> None:
        """Add a line to the log of a step, unless it is the latest one."""
        if message != waiting.reason:
            waiting.reason = message
            self._unsent.append((waiting.task, Logged(event="log", message=message)))

    def poll(self, timeout: float) -> Iterator[tuple[Task, TaskEvent]]:
        """Events of running tasks, waiting up to `timeout` seconds for the first."""
        from multiprocessing.connection import wait

        self._reap()
        if self._waiting:
            self._start_waiting()
            timeout = min(timeout, GPU_RETRY_SECONDS)
        unsent, self._unsent = self._unsent, []
        if unsent:
            yield from unsent
            timeout = 0
        by_connection = {w.connection: w for w in self._workers}
        for ready in wait(list(by_connection), timeout):
            worker = by_connection[ready]  # type: ignore[index]
            yield from self._events(worker)

    def _events(self, worker: _Worker) -> Iterator[tuple[Task, TaskEvent]]:
        task = worker.task
        try:
            event = msgspec.msgpack.decode(worker.connection.recv_bytes())
        except (EOFError, OSError):
            self._retire(worker)
            if task:
                code = _end(worker)
                self._leaving.remove(worker)
                yield task, Died(event="died", code=code)
            return
        if task is None:
            return
        if event["event"] in ("done", "failed"):
            worker.task = None
            self._workers.remove(worker)
            self._workers.append(worker)  # the first is the one that was idle for longest
            # Where an environment can't be made, no worker is left.
            is_over = task.isolated or event.pop("ends", False)
            if is_over or (worker.environment and event["event"] == "failed"):
                self._retire(worker)
        yield task, event

    def _retire(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._leaving.append(worker)
        worker.retired_at = time.monotonic()
        worker.connection.close()

    def _end_unused(self) -> None:
        """End an unused worker, which would take memory from an isolated step."""
        for worker in [w for w in self._workers if not w.is_used]:
            self._retire(worker)
            _signal(worker, signal.SIGKILL)

    def close(self) -> None:
        """End all workers: idle ones by closing their socket, busy ones by a signal."""
        self._waiting.clear()
        self._end_unused()
        for worker in self._workers:
            worker.connection.close()
            if worker.task:
                _signal(worker, signal.SIGTERM)
        running = [worker for worker in self._workers if worker.task]
        idle = [*(worker for worker in self._workers if not worker.task), *self._leaving]
        for worker in running:
            _end(worker)
        # The build continues while these end.
        threading.Thread(target=lambda: [*map(_end, idle)]).start()
        self._workers.clear()
        self._leaving.clear()


def _task_kind(task: Task) -> tuple[object, ...]:
    """What the tasks of a worker have in common.

    Its process has imported their plugins, with the variables that these may have read.
    """
    environment = task.environment.digest if task.environment else ""
    if not (task.plugins or task.entry_points):
        return (environment,)
    return environment, task.plugins, task.entry_points, task.left_out, task.env


def fits_machine(need: Need, busy: Sequence[Need]) -> bool:
    """Whether a step and the running ones together ask for no more than this machine has."""
    if any(map(_exceeded_resources, (need, *busy))):
        return False
    requests = [step.resources for step in (need, *busy)]
    memory = memory_bytes()
    return sum(r.cpus for r in requests) <= cpu_count() and (
        memory is None or sum(r.memory for r in requests) <= memory
    )


def _exceeded_resources(need: Need) -> str:
    """What this machine has of what the step asks too much of; empty if there is enough."""
    cpus, memory = cpu_count(), memory_bytes() or need.resources.memory
    has = Reservation(
        cpus=cpus if need.resources.cpus > cpus else 0,
        memory=memory if need.resources.memory > memory else 0,
    )
    return str(has)


def _end(worker: _Worker, patience: float = END_SECONDS) -> int:
    """Wait for a worker to end, and kill its child processes; its exit code."""
    import subprocess

    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(patience)
    _signal(worker, signal.SIGKILL)
    code = worker.process.wait()
    with contextlib.suppress(BrokenPipeError):
        worker.watch.communicate(b"\n")
    for use in worker.gpus.values():
        if use.lock is not None:
            os.close(use.lock)
    worker.gpus.clear()
    return code


def _signal(worker: _Worker, number: int) -> None:
    """Send a signal to a worker and its child processes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, number)


def _spawn(
    log: str, environment: Mapping[str, str], *arguments: str, module: str = "worker",
    inherits: Sequence[int] = (),
) -> _Worker:  # fmt: skip
    """Start a worker process.

    log: the file for its output before its first task. inherits: files to keep open in it.
    """
    import socket
    import subprocess
    from multiprocessing.connection import Connection

    ours, theirs = socket.socketpair()
    command = [sys.executable, "-P", "-m", f"finery.execute.{module}", str(theirs.fileno())]
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [*command, str(os.getpid()), *arguments],
            pass_fds=[theirs.fileno(), *inherits],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            process_group=0,  # to end child processes of the step with it
        )
    theirs.close()
    watch = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH_SCRIPT, "finery-watch", str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        process_group=0,
    )
    return _Worker(process, Connection(ours.detach()), watch)
