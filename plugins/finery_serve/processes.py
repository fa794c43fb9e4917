"""Runs a server as a process of this machine: starts it, waits until it answers, and ends it.

A server ends with the `with` that started it, with all that it started itself, and also when this
process is killed.
"""

import errno
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from finery import StepError, UsageError

T = TypeVar("T")

SOCKET_BACKLOG = 128
"""Connections that wait to be accepted."""
GRACE_SECONDS = 20.0
"""For a server to end its own processes."""
SHOWN_LINES = 8
"""Lines of a server's log that an error shows."""
SHOWN_CHARACTERS = 250
"""Characters of each end of a long one."""
_WATCH_SCRIPT = 'trap "" HUP INT TERM; read -r line || kill -TERM "$1"'


class Address(NamedTuple):
    """Where a server of this machine listens. port: 0 takes any free one."""

    host: str = "127.0.0.1"
    port: int = 0

    @property
    def url(self) -> str:
        """How this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def free(self) -> "Address":
        """The same with a port that can be used. `UsageError` if it can't be used."""
        with self.listening() as bound:
            return Address(self.host, int(bound.getsockname()[1]))

    def listening(self) -> socket.socket:
        """A socket that listens there. `UsageError` if it can't be used."""
        try:
            family, _, _, _, address = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM
            )[0]
            bound = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise self._not_here(error) from error
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(SOCKET_BACKLOG)
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRNOTAVAIL:
                raise self._not_here(error) from error
            raise UsageError(
                f"port {self.port} of {self.host} can't be used: {error.strerror}",
                where="--port",
                fix="end the program that uses it, or choose another port: --port 0 takes any free "
                "one",
            ) from error
        return bound

    def _not_here(self, error: OSError) -> UsageError:
        return UsageError(
            f"{self.host!r} is not an address of this machine: {error.strerror}",
            where="--host",
            fix="name one, e.g. 0.0.0.0 for all addresses of this machine",
        )


def listens(address: str) -> bool:
    """Whether a server still listens at a URL."""
    where = urlsplit(address)
    try:
        socket.create_connection((where.hostname or "", where.port or 0), timeout=10).close()
    except TimeoutError:  # busy
        return True
    except OSError:
        return False
    return True


class ServerProgram(NamedTuple):
    """A program to run as a server.

    name: for errors, e.g. `vLLM 0.32`. seconds: until it must answer. errors: matches lines of its
    log that say what went wrong. fix: (exit status, text of the log) → how to fix its end.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    seconds: float
    errors: re.Pattern[str]
    fix: Callable[[int, str], str]
    folder: Path | None = None

    @contextmanager
    def running(
        self, log: Path, answer: Callable[[], T | None]
    ) -> "Iterator[tuple[subprocess.Popen[bytes], T]]":
        """Start it, and yield it with what `answer` returned, until the `with` ends.

        log: the file for its output. answer: asks the server; None until it answers. `StepError`
        with the last lines of the log if it can't run, ends before it answers or takes too long.
        """
        with log.open("ab") as output:
            try:
                # In a session of its own, so that Ctrl-C only reaches this process.
                process = subprocess.Popen(
                    self.command, cwd=self.folder, env=self.environment,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise StepError(
                    f"{self.name} can't run: {error.strerror}", where=self.command[0],
                    fix="install it for this machine",
                ) from error  # fmt: skip
        try:
            with end_with_this_process(process):
                deadline = time.monotonic() + self.seconds
                while (answered := answer()) is None and process.poll() is None:
                    if time.monotonic() > deadline:
                        raise StepError(
                            f"{self.name} didn't answer within {self.seconds:.0f} s of its start",
                            details=self.last_lines(log),
                            fix="look for the reason in its output, or serve a smaller model",
                        )
                    time.sleep(0.02)
                # If it has ended, another program may answer there.
                if answered is None or process.poll() is not None:
                    raise self.ended(process.wait(), log, "while it was starting")
                yield process, answered
        finally:
            stop(process)

    def ended(self, status: int, log: Path, when: str = "by itself") -> StepError:
        """The error for a server that ended. status: its return code."""
        return StepError(
            f"{self.name} ended {when}: {how_ended(status)}",
            details=self.last_lines(log),
            fix=self.fix(status, log.read_text("utf-8", "replace")),
        )

    def last_lines(self, log: Path) -> list[str]:
        """The end of its log; only the errors if there are any. Long lines lose their middle."""
        lines = [line.rstrip() for line in log.read_text("utf-8", "replace").splitlines()]
        lines = [line for line in lines if line]
        lines = ([line for line in lines if self.errors.search(line)] or lines)[-SHOWN_LINES:]
        return [
            f"{x[:SHOWN_CHARACTERS]} … {x[-SHOWN_CHARACTERS:]}"
            if len(x) > 2 * SHOWN_CHARACTERS
            else x
            for x in lines
        ]


def run_program(
    command: Sequence[str | Path], seconds: float | None = None, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Run a program without input until it ends. variables: further ones of its environment."""
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
        stdin=subprocess.DEVNULL, env={**os.environ, **variables},
    )  # fmt: skip


def how_ended(status: int) -> str:
    """Why a program ended, in words. status: its return code, negative for signals."""
    if is_for_another_cpu(status):
        return "it was built for another CPU: it uses instructions that this one lacks (SIGILL)"
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "it was killed (SIGKILL), often because memory ran out"
    if status < 0:
        return f"it was ended by signal {-status} ({signal.Signals(-status).name})"
    return f"it ended with exit code {status}"


def is_for_another_cpu(status: int) -> bool:
    """Whether a program ended at an instruction that this CPU lacks."""
    return status in (-signal.SIGILL, 128 + signal.SIGILL)


@contextmanager
def log_file(log: Path | None) -> Iterator[Path]:
    """The file for a server's output: `log`, or a temporary one."""
    with tempfile.TemporaryDirectory(prefix="finery-server-") as folder:
        log = log or Path(folder, "server.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        yield log


@contextmanager
def end_with_this_process(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End the process when this one ends, in whatever way.

    A shell waits for a pipe to close, which the system does when this process is gone. The shell
    has a separate session, because a build kills a worker together with its process group.
    """
    with subprocess.Popen(
        ["/bin/sh", "-c", _WATCH_SCRIPT, "finery-watch", str(process.pid)],
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
def raise_at_signals(error: BaseException) -> Iterator[None]:
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

    previous_handlers = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that it started."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(folder.name))
        if fields:
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    below: dict[int, str] = {}
    waiting = [process.pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            below[child] = _start_time(child)
            waiting.append(child)
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pid, began in below.items():
        if _start_time(pid) == began:  # otherwise another process now has this number
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def _start_time(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if len(fields) > 19 else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; empty if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()
