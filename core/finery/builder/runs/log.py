"""The log of a run in the store: where it began, its events, and the output of its steps."""

import fcntl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from finery.util.events import Event

BULK = ("step_progress", "step_metric", "step_cached")
"""Events that needn't reach the disk at once."""
FLUSH_SECONDS = 1.0
"""Those that come after this time do, for `finery report --watch`."""
EVENTS, CONTEXT = "events.jsonl", "run.json"
"""The files of a run."""


class RunLog:
    """Writes a run's events to `runs/<id>/events.jsonl`, once a step runs.

    The file is locked for writing during the run, so that a reader can distinguish a run that
    continues from one that was killed. context: facts for `run.json`, gathered when the log is
    opened. A build with nothing to do writes no log and needs none of them.
    """

    def __init__(self, runs: Path, run: str, context: Callable[[], dict[str, Any]] = dict) -> None:
        self.folder = runs / run
        self._context = context
        self._held: list[Event] = []
        self._file: BinaryIO | None = None
        self._flushed = 0.0

    def log_of(self, step: str) -> Path:
        """The log file of a step."""
        self.open()
        return self.folder / f"{step}.log"

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if event["event"] == "step_started":
            self.open()
        if self._file is None:
            self._held.append(event)
        else:
            self._file.write(msgspec.json.encode(event) + b"\n")
            now = time.monotonic()
            if event["event"] not in BULK or now - self._flushed > FLUSH_SECONDS:
                self._file.flush()
                self._flushed = now

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            self._file.close()

    def open(self) -> None:
        """Start to write, with what was held so far."""
        if self._file is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = (self.folder / EVENTS).open("ab")
        with suppress(OSError):  # without locks, a running build is taken for a killed one
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (self.folder / CONTEXT).write_bytes(msgspec.json.encode(self._context()))
        self._file.writelines(msgspec.json.encode(e) + b"\n" for e in self._held)
        self._held.clear()
