"""Ends a server and the processes that it started, also when this process ends by a signal."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

GRACE_SECONDS = 20.0
"""For a server to end its own processes."""
_WATCH = 'trap "" HUP INT TERM; read -r line || kill -TERM "$1"'


@contextmanager
def ended_with_us(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Have the process ended when this one ends, however it does.

    A shell waits for a pipe to close, which the system does when this process is gone. The shell
    has a session of its own: a build kills a worker together with its process group.
    """
    with subprocess.Popen(
        ["/bin/sh", "-c", _WATCH, "finery-watch", str(process.pid)],
        stdin=subprocess.PIPE, start_new_session=True,
    ) as watch:  # fmt: skip
        try:
            yield
        finally:
            with suppress(OSError):
                assert watch.stdin is not None
                watch.stdin.write(b"over\n")
                watch.stdin.flush()


@contextmanager
def raised_at_signals(error: BaseException) -> Iterator[None]:
    """Raise an exception at SIGTERM, and at SIGHUP, which a terminal sends when it is closed.

    By default, Python ends at once, and the folders of servers stay. Only the first signal counts:
    a closed terminal sends two, and the second would interrupt the removal. Under nohup, SIGHUP
    remains ignored.
    """
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)

    def end(_number: int, _frame: Any) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise error

    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started."""
    below = _below(process.pid)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid, began in below.items():
        if _began(pid) == began:  # else the number is another process by now
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _below(pid: int) -> dict[int, str]:
    """Process → when it began, of all below `pid`; empty where there is no /proc."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields:
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found[child] = _began(child)
            waiting.append(child)
    return found


def _began(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
