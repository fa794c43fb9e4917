"""The local executor: worker processes on this machine."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from finery.execute.environment import inherited, worker_environment
from finery.execute.gpus import VISIBLE, visible_gpus
from finery.execute.task import AHEAD, Died, Task, TaskEvent
from finery.util.machine import cpu_count

if TYPE_CHECKING:  # imported with the first worker, since a build with nothing to do has none
    import subprocess
    from multiprocessing.connection import Connection


_WATCH = 'trap "" HUP INT TERM; read -r line || kill -9 "-$1"'
"""Waits for a line. At the end of input without one, kills the process group `$1`."""
GIB = 2**30
PATIENCE = 5.0
"""Seconds for a worker to end by itself."""


class _Worker:
    """A worker process, our end of its socket, and its current task.

    gpus: ids of those that no other worker uses. retired_at: when it had nothing to do any more.

    watch: a shell that kills the worker's process group when this process dies. Otherwise child
        processes of the step would survive.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        connection: "Connection",
        watch: "subprocess.Popen[bytes]",
    ) -> None:
        self.process = process
        self.connection = connection
        self.watch = watch
        self.task: Task | None = None
        self.is_used = False  # started ahead, without a task yet
        self.gpus: list[str] = []
        self.retired_at = 0.0


class LocalExecutor:
    """A pool of warm workers for light steps, and a new process for each isolated step.

    jobs: most concurrent steps. None allows one light step per core and one isolated step, which
    uses all cores or the accelerator.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._leaving: list[_Worker] = []
        if cpu_count() > 1:  # a worker takes a while to import, so one starts while the build plans
            self._workers.append(_spawn(os.devnull, inherited(), AHEAD))

    def has_room(self, isolated: bool, gpus: int = 0) -> bool:
        """Whether another step can start now, and enough GPUs are free."""
        if not self._has_process(isolated):
            return False
        return not gpus or len(self._free_gpus()) >= min(gpus, len(self._gpus))

    def _has_process(self, isolated: bool) -> bool:
        busy = [w.task for w in self._workers if w.task]
        if self._jobs is not None:
            return len(busy) < self._jobs
        same = sum(1 for t in busy if t.isolated == isolated)
        return same < (1 if isolated else cpu_count())

    def start(self, task: Task) -> None:
        """Start a task in a warm worker, or in a new one."""
        worker = next((w for w in self._workers if w.task is None), None)
        messages = [msgspec.msgpack.encode(task)]
        if task.isolated:
            self._end_unused()
        if task.isolated or worker is None:
            worker = self._new_worker(task)
        elif not worker.is_used:
            messages.insert(0, msgspec.msgpack.encode(worker_environment(task, alone=False)))
        worker.task, worker.is_used = task, True
        try:
            for message in messages:
                worker.connection.send_bytes(message)
        except OSError:
            return  # it has just died: poll() reports that

    def _new_worker(self, task: Task) -> _Worker:
        alone = task.isolated and self._jobs in (None, 1)
        gpus = self._choose_gpus(task.gpus)
        environment = worker_environment(task, alone=alone)
        if gpus and len(gpus) < len(self._gpus):  # else it sees the same ones as this process
            environment[VISIBLE] = ",".join(gpus)
        worker = _spawn(task.log, environment)
        worker.gpus = gpus
        self._workers.append(worker)
        return worker

    @cached_property
    def _gpus(self) -> list[str]:
        """The ids of the GPUs that steps may use."""
        return [gpu.id for gpu in visible_gpus()]

    def _free_gpus(self) -> list[str]:
        """The ids of the GPUs that no worker uses.

        A worker uses its GPU until it has ended, since its memory there isn't free before.
        """
        if not self._gpus:
            return []
        self._bury()
        used = {gpu for worker in (*self._workers, *self._leaving) for gpu in worker.gpus}
        return [gpu for gpu in self._gpus if gpu not in used]

    def _bury(self) -> None:
        """Forget workers with GPUs that have ended by now, or should have."""
        for worker in [w for w in self._leaving if w.gpus]:
            is_late = time.monotonic() - worker.retired_at > PATIENCE
            if is_late or worker.process.poll() is not None:
                _end(worker, 0)
                self._leaving.remove(worker)

    def _choose_gpus(self, count: int) -> list[str]:
        """The ids of free GPUs for a step, those with the most free memory first."""
        if not count or not self._gpus:
            return []
        free = {gpu.id: gpu.free // GIB for gpu in visible_gpus()}
        return sorted(self._free_gpus(), key=lambda gpu: -free.get(gpu, 0))[:count]

    def poll(self, timeout: float) -> Iterator[tuple[Task, TaskEvent]]:
        """Events of running tasks, waiting up to `timeout` seconds for the first."""
        from multiprocessing.connection import wait

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
                yield task, Died(event="died", code=_end(worker))
            return
        if task is None:
            return
        if event["event"] in ("done", "failed"):
            worker.task = None
            if task.isolated:
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


def _end(worker: _Worker, patience: float = PATIENCE) -> int:
    """Wait for a worker to end, and kill its child processes; its exit code."""
    import subprocess

    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.process.wait(patience)
    _signal(worker, signal.SIGKILL)
    code = worker.process.wait()
    if worker.watch.returncode is None:  # a worker that died is ended then, and again at the close
        with contextlib.suppress(BrokenPipeError):
            worker.watch.communicate(b"\n")
    return code


def _signal(worker: _Worker, number: int) -> None:
    """Send a signal to a worker and its child processes."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, number)


def _spawn(log: str, environment: Mapping[str, str], *arguments: str) -> _Worker:
    """Start a worker process. log: the file for its output before its first task."""
    import socket
    import subprocess
    from multiprocessing.connection import Connection

    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "finery.execute.worker", str(theirs.fileno())]
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [*command, str(os.getpid()), *arguments],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            process_group=0,  # to end child processes of the step with it
        )
    theirs.close()
    watch = subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "finery-watch", str(process.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        process_group=0,
    )
    return _Worker(process, Connection(ours.detach()), watch)
