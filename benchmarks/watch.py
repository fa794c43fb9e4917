"""Watch a command of a benchmark: how much memory it takes, and whether it is late."""

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class Watch:
    """The largest VmHWM of a process and of those that it started; ends it when it is late."""

    def __init__(self, process: subprocess.Popen[str], limit: float) -> None:
        self.peak: float | None = None
        self.late = False
        self._process = process
        self._deadline = time.monotonic() + limit
        self._done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def stop(self) -> None:
        """End the watch."""
        self._done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.3):
            for pid in family(self._process.pid):
                self.peak = max((m for m in (self.peak, high_water(pid)) if m), default=None)
            if time.monotonic() > self._deadline:
                self.late = True
                kill(self._process.pid)
                return


@contextlib.contextmanager
def watched(process: subprocess.Popen[str], limit: float) -> Iterator[Watch]:
    """Watch a process while the block runs; kill what is left of it behind."""
    watch = Watch(process, limit)
    watch.thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        if process.poll() is None:
            kill(process.pid)
            process.wait()


def family(root: int) -> set[int]:
    """A process and all that it started, however deep; only on Linux more than itself."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def high_water(pid: int) -> float | None:
    """VmHWM of a process in MiB."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found.group(1)) / 1024 if found else None
    return None


def kill(root: int) -> None:
    """End a process and all that it started."""
    for pid in family(root):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
