"""The log of requests and answers, a JSON object a line, which `data.requests` reads back.

`serve.bundle` ships this file, so it imports nothing of finery. Requests never wait for the log and
never fail because of it: a thread masks and writes the lines. What can't be logged is dropped and
counted, on stderr and in the log itself.
"""

import fcntl
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

FIELDS = (
    "model", "messages", "tools", "tool_choice", "response_format", "temperature", "top_p", "seed",
    "max_tokens", "max_completion_tokens", "stop", "stream",
)  # fmt: skip
"""Fields of a request that are logged. Others, such as `user`, may say who asked."""
MOST_WAITING = 64 * 2**20
"""Bytes of requests and answers that wait to be written."""
OVERHEAD = 1_000
"""Bytes that a waiting request counts in addition to its texts."""
MOST_BYTES = 100 * 2**20
"""Size of a file, from which on the next one is begun."""
MOST_FILES = 10
"""Full files that are kept."""
SECONDS_TO_END = 10.0
"""Seconds for writing what still waits when the server ends."""
SAID_EVERY = 60.0
"""Seconds between two messages about what was dropped."""

Answer = Callable[[], Mapping[str, Any]]
"""Returns `choices`, and `error` if the answer broke off; called by the thread that writes."""


class RequestLog:
    """A log of requests. Its methods may be called from several threads.

    mask: hides personal data in a text. dropped: requests that weren't logged. Raises `OSError` if
    the file can't be written when the server starts.
    """

    def __init__(self, path: Path, mask: Callable[[str], str]) -> None:
        self._path, self._mask, self._waiting = path, mask, 0
        self.dropped = self._told = self._written_drops = 0
        self._failed, self._said_at = "", 0.0
        self._lock = threading.Lock()
        self._queue: SimpleQueue[tuple[int, dict[str, Any], Answer | None] | None] = SimpleQueue()
        self._append(b"")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(
        self, body: bytes, status: int, began: float, answer: Answer | None, error: str = "",
        size: int = 0,
    ) -> None:  # fmt: skip
        """Log a request without waiting. body: as it came. began: by `time.time()`. size: bytes
        of the answer."""
        cost = OVERHEAD + len(body) + size
        with self._lock:
            if self._waiting + cost > MOST_WAITING:
                self.dropped += 1
                return
            self._waiting += cost
        at = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {"finery": 1, "at": at, "status": status, "body": body}
        entry["seconds"] = round(max(0.0, time.time() - began), 4)
        entry |= {"error": error} if error else {}
        self._queue.put((cost, entry, answer))

    def close(self) -> None:
        """Write what waits, for at most `SECONDS_TO_END`, and say what was dropped."""
        self._queue.put(None)
        self._thread.join(SECONDS_TO_END)
        if self._thread.is_alive():  # the end of the queue counts for the one that is written
            with self._lock:
                self.dropped += self._queue.qsize()
        self._say(is_last=True)

    def _run(self) -> None:
        while (waiting := self._queue.get()) is not None:
            cost, entry, answer = waiting
            try:
                self._write(self._line(entry, answer))
            except Exception as error:  # a request that can't be logged must not end the log
                problem = str(getattr(error, "strerror", None) or repr(error))
                if problem != self._failed:
                    print(f"the request log can't be written: {problem}", file=sys.stderr)
                with self._lock:
                    self.dropped += 1
                self._failed = problem
            with self._lock:
                self._waiting -= cost
            self._say()
        if self.dropped > self._written_drops:
            with suppress(OSError):
                self._write(b"")

    def _line(self, entry: dict[str, Any], answer: Answer | None) -> bytes:
        try:
            body = json.loads(entry.pop("body"))
        except (ValueError, RecursionError):
            body = None  # `error` says so
        if isinstance(body, dict):
            entry["request"] = {name: body[name] for name in FIELDS if name in body}
        if answer is not None:
            response = answer()
            entry["response"] = {"choices": response["choices"]}
            entry |= {"error": response["error"]} if "error" in response else {}
        masked = self._masked(entry)
        text = json.dumps(masked, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "replace") + b"\n"  # half of a surrogate pair becomes `?`

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._mask(value)
        if isinstance(value, dict):
            return {name: self._masked(inner) for name, inner in value.items()}
        return [*map(self._masked, value)] if isinstance(value, list) else value

    def _write(self, line: bytes) -> None:
        dropped = self.dropped
        if dropped > self._written_drops:
            lost = {"finery": 1, "dropped": dropped - self._written_drops}
            line = json.dumps(lost).encode() + b"\n" + line
        self._append(line)
        self._written_drops = dropped
        if self._failed:
            print("the request log is written again", file=sys.stderr)
            self._failed = ""

    def _append(self, line: bytes) -> None:
        """Append lines whole or not at all; other servers may write to the same file."""
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = os.fstat(file).st_size
            if line and size and os.pread(file, 1, size - 1) != b"\n":
                line = b"\n" + line  # a power cut left half a line
            if line and os.write(file, line) < len(line):
                os.ftruncate(file, size)
                raise OSError(28, "no space left on device")
            if size + len(line) >= MOST_BYTES:
                with suppress(FileNotFoundError):  # another server has just renamed the file
                    if os.path.samestat(os.stat(self._path), os.fstat(file)):
                        self._rotate()
        finally:
            os.close(file)

    def _rotate(self) -> None:
        """Begin the next file, and remove the oldest full one if there are too many."""
        stem, suffix = self._path.stem, self._path.suffix
        pattern = re.compile(rf"{re.escape(stem)}\.(\d{{6}}){re.escape(suffix)}")
        matches = map(pattern.fullmatch, os.listdir(self._path.parent))
        full = sorted(int(match[1]) for match in matches if match)

        def named(number: int) -> Path:
            return self._path.with_name(f"{stem}.{number:06}{suffix}")

        self._path.rename(named(full[-1] + 1 if full else 1))
        for number in full[: len(full) + 1 - MOST_FILES]:
            named(number).unlink(missing_ok=True)
            print(f"{named(number)} is removed: {MOST_FILES} are kept", file=sys.stderr)

    def _say(self, *, is_last: bool = False) -> None:
        """Say how many requests were dropped, now and then."""
        if self.dropped > self._told and (is_last or time.time() - self._said_at > SAID_EVERY):
            self._told, self._said_at = self.dropped, time.time()
            print(f"requests that aren't in the log: {self._told}", file=sys.stderr)
