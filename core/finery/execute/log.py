"""A step's log: the output of the step and its child processes, without the step's secrets.

If a step has secrets, a filter process removes them before anything is written. The filter is not
in a process group that is killed with the step, and ends when no process can print any more. It is
this file, run as a script, which imports very little so that it starts quickly.
"""

import os
import re
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping

LONGEST_LINE = 2**20
"""Maximum bytes of an unfinished line to hold back, since they may contain part of a secret."""
DRAIN_SECONDS = 2.0
"""How long to wait for a step's last lines if a process that it left keeps its output open."""


def redirect_to(log: str, secrets: "Mapping[str, str]") -> "Callable[[], None]":
    """Send what this process and its children print, C libraries included, to a log.

    The result ends that for this process. It returns when everything printed is in the log.
    """
    patterns = _patterns(secrets) if secrets else []
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if not patterns:
        _print_to(file)
        return lambda: None
    import subprocess

    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(reading)],
        stdin=subprocess.PIPE,
        stdout=file,
        stderr=subprocess.DEVNULL,
        pass_fds=[reading],
        env={},
        start_new_session=True,
    )
    os.close(reading)
    os.close(file)
    assert process.stdin is not None
    process.stdin.write("\0".join(patterns).encode("utf-8", "surrogateescape"))
    process.stdin.close()
    _print_to(writing)
    return lambda: _end(process)


def _print_to(file: int) -> None:
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _end(process: "subprocess.Popen[bytes]") -> None:
    _print_to(os.open(os.devnull, os.O_WRONLY))
    import subprocess

    try:
        process.wait(DRAIN_SECONDS)
    except subprocess.TimeoutExpired:  # it continues for processes that still print
        return


def _patterns(secrets: "Mapping[str, str]") -> list[str]:
    """Regular expressions for the secrets, and for the lines of those that have several."""
    from finery.util.text import SHORTEST_SECRET, secret_pattern

    texts = {text.strip() for value in secrets.values() for text in (value, *value.splitlines())}
    longest_first = sorted((t for t in texts if len(t) >= SHORTEST_SECRET), key=len, reverse=True)
    return [secret_pattern(text) for text in longest_first]


def copy_redacted(secrets: "re.Pattern[bytes]", reading: int, writing: int, reach: int) -> None:
    """Copy until the end, with secrets as `***`. reach: length of the longest secret in bytes."""
    buffer = b""
    while block := os.read(reading, 65536):
        buffer += block
        end = max(buffer.rfind(b"\n"), buffer.rfind(b"\r")) + 1
        if not end and len(buffer) > LONGEST_LINE:
            end = len(buffer) - reach
            end = max([end, *(m.end() for m in secrets.finditer(buffer) if m.start() < end)])
        if end:
            _write(writing, secrets.sub(b"***", buffer[:end]))
            buffer = buffer[end:]
    _write(writing, secrets.sub(b"***", buffer))


def _write(file: int, text: bytes) -> None:
    while text:
        try:
            text = text[os.write(file, text) :]
        except OSError:  # e.g. the disk is full, which must not block the step
            return


def _main() -> None:
    patterns = sys.stdin.buffer.read().split(b"\0")
    secrets = re.compile(b"|".join(patterns))
    copy_redacted(secrets, int(sys.argv[1]), 1, reach=max(map(len, patterns)))


if __name__ == "__main__":
    _main()
