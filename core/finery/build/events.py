"""The log of a run in the store: its events and the output of its steps."""

from pathlib import Path
from typing import BinaryIO

import msgspec

from finery.util.events import Event


class RunLog:
    """Writes a run's events to `runs/<id>/events.jsonl`, once a step runs."""

    def __init__(self, runs: Path, run: str) -> None:
        self.folder = runs / run
        self._held: list[Event] = []
        self._file: BinaryIO | None = None

    def log_of(self, step: str) -> Path:
        """The log file of a step."""
        self._open()
        return self.folder / f"{step}.log"

    def __call__(self, event: Event) -> None:
        """Record an event."""
        if event["event"] == "step_started":
            self._open()
        if self._file is None:
            self._held.append(event)
        else:
            self._file.write(msgspec.json.encode(event) + b"\n")
            if event["event"] not in ("step_progress", "step_metric", "step_cached"):
                self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / "events.jsonl").open("ab")
            self._file.writelines(msgspec.json.encode(e) + b"\n" for e in self._held)
            self._held.clear()
