"""Executors whose jobs are processes of this machine that outlive the build."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from finery.advanced import Task, worker_environment
from finery.execute.courier import CourierExecutor
from finery.execute.detached import DetachedExecutor


class Processes:
    """What a cluster does, with processes."""

    processes: ClassVar[dict[str, subprocess.Popen[bytes]]] = {}

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """Whether each runs."""
        return {pid: "" if self.processes[pid].poll() is None else "ended" for pid in ids}

    def end(self, ids: Sequence[str]) -> None:
        """Have them end what they started."""
        for pid in ids:
            self.processes[pid].terminate()

    def cancel_words(self, ids: Sequence[str]) -> str:
        """A command of the shell."""
        return f"kill {' '.join(ids)}"


class Background(Processes, DetachedExecutor):
    """Its jobs share this machine's folders. jobs: most at a time."""

    name, title = "background", "Background"

    def submit(self, tasks: Sequence[Task], calls: Sequence[tuple[str, str]]) -> list[str]:
        """Start a process for each."""
        code = "import signal, sys; from finery.execute.job import supervise\n"
        code += "signal.signal(signal.SIGTERM, lambda *_: sys.exit())\nsupervise(*sys.argv[1:])"
        started = [
            subprocess.Popen(
                [sys.executable, "-c", code, *call],
                env=worker_environment(task, alone=True) | task.env,
            )
            for task, call in zip(tasks, calls, strict=True)
        ]
        self.processes.update({str(process.pid): process for process in started})
        return [str(process.pid) for process in started]


class ElsewhereOptions(msgspec.Struct):
    """remote: a shared store. folder: of the machine where jobs run."""

    remote: str | None = None
    folder: str = ""


class Elsewhere(Processes, CourierExecutor):
    """Its jobs share no folder with the build, except by absolute paths in the code of steps."""

    name, title = "elsewhere", "Elsewhere"
    Options = ElsewhereOptions

    def __init__(self, jobs: int | None, options: ElsewhereOptions) -> None:
        super().__init__(jobs, options.remote, options.folder)

    def job_id(self, task: Task, token: str) -> str:
        """As in the folder of the job."""
        return f"{task.step}-{token}"

    def launch(self, task: Task, job_id: str, variables: Mapping[str, str]) -> None:
        """Start a process with no more than a machine has."""
        own = {"PATH": os.environ["PATH"], "HOME": self._cache, **variables}
        Path(self._cache).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "finery.execute.node"]
        self.processes[job_id] = subprocess.Popen(command, env=own, cwd=self._cache)

    def ask(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Whether each runs."""
        return Processes.states(self, ids)

    def states(self, ids: Sequence[str]) -> dict[str, str]:
        """Those of its base class."""
        return dict(CourierExecutor.states(self, ids))
