"""An executor whose jobs are processes of this machine that outlive the build."""

import subprocess
import sys
from collections.abc import Sequence
from typing import ClassVar

from finery import Task, worker_environment
from finery.execute.detached import DetachedExecutor


class Background(DetachedExecutor):
    """What a cluster does, with processes. jobs: most at a time."""

    name, title = "background", "Background"
    processes: ClassVar[dict[str, subprocess.Popen[bytes]]] = {}

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
