"""Everything that a running step may use."""

import os
import shlex
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from finery.artifact.kinds import Model
from finery.errors import StepError
from finery.inference.budget import Budget, Usage
from finery.inference.cache import CachedEngine
from finery.inference.engine import Engine, Identity
from finery.inference.records import MemoryRecords, Records
from finery.inference.shared import SharedRecords
from finery.step.resources import ON_NODES_VARIABLE
from finery.util.files import copy_file
from finery.util.paths import path_in
from finery.util.text import redacted

Report = Callable[[dict[str, Any]], None]
"""Receives a job's events: `{"event": "progress", …}` and so on, see `finery.util.events`."""


class Job:
    """What a step gets while it runs.

    out: an empty folder to fill.
    scratch: a folder kept between attempts at the same key (checkpoints); removed on success.
    records: the per-record cache, shared by all steps of the project.
    pinned: what the step's floating name is pinned to in recipe.lock, e.g. a commit.
    kept: the folder that steps of the project filled when they pinned names, see `Step.pin_name`.
    provenance: how the inputs were made, see `Step.provenance`; empty for most steps.
    usage: the requests and tokens of all engines of this step so far.
    """

    def __init__(
        self,
        *,
        out: Path,
        scratch: Path,
        seed: int | None = None,
        report: Report = lambda event: None,
        records: Records | None = None,
        find_engine: Callable[[Model], tuple[type[Engine], Identity]] | None = None,
        secrets: Mapping[str, str] | None = None,
        pinned: str | None = None,
        kept: Path | None = None,
        provenance: Mapping[str, Any] | None = None,
        lock_scratch: Callable[[], None] | None = None,
    ) -> None:
        """Without records, answers are cached in memory; without find_engine, no model answers.

        lock_scratch: is called before the scratch folder is used.
        """
        self.pinned = pinned
        self.kept = kept or scratch
        self.provenance = dict(provenance or {})
        self.usage = Usage()
        self.out = out
        self._scratch = scratch
        self._lock_scratch = lock_scratch
        self.records = MemoryRecords() if records is None else records
        self._seed = seed
        self._report = report
        self._find_engine = find_engine
        self._secrets = secrets or {}

    @property
    def scratch(self) -> Path:
        """The scratch folder, created on first use."""
        if self._lock_scratch is not None:
            self._lock_scratch()
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch

    @property
    def seed(self) -> int:
        """The step's seed, 0 ≤ seed < 2³¹."""
        if self._seed is None:
            raise StepError("a step type declared with seeded=False reads its seed")
        return self._seed

    @property
    def on_nodes(self) -> list[str]:
        """The beginning of a command that runs once on each node; empty if the step has only one.

        What follows gets the number of its node in the environment variable `FINERY_NODE`. The step
        itself runs on node 0. If the others may not know the host name of node 0, `FINERY_HOST` has
        its address. The nodes share `scratch`.
        """
        return shlex.split(os.environ.get(ON_NODES_VARIABLE, ""))

    def copy(self, source: Path, name: str) -> None:
        """Copy a file into `out`, sharing its blocks if the file system can.

        Subfolders in its name are created. Raises `DataError` for one that leads out of `out`.
        """
        target = path_in(self.out, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, target)

    def log(self, message: str) -> None:
        """Add a line to the step's log."""
        self._report({"event": "log", "message": self.redact(message)})

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Report progress: `done` of `total`, in any unit, and the current activity."""
        self._report({"event": "progress", "done": done, "total": total, "text": text})

    def metric(self, name: str, value: float, at: float) -> None:
        """Report a value over time, e.g. `loss` at optimizer step `at`."""
        if not isinstance(value, Real) or not isinstance(at, Real):
            raise StepError(
                f"job.metric({name!r}, {value!r:.60}, {at!r:.60}) reports what isn't a number",
                fix="report a number, at a number: job.metric(name, value, at)",
            )
        self._report({"event": "metric", "name": name, "value": float(value), "at": at})

    def secret(self, name: str) -> str:
        """An environment variable that the recipe passes to this step with `env: [NAME]`.

        A step that answers prompts also gets those that its models need (`runtime["env"]`). The
        value never reaches a key, a log or the store.
        """
        if name not in self._secrets:
            raise StepError(
                f"the step needs the environment variable {name}",
                fix=f"set it, and pass it to the step in the recipe: env: [{name}]",
            )
        return self._secrets[name]

    def engine(self, model: Model, *, budget: Budget | None = None) -> CachedEngine:
        """The engine that answers prompts with `model`, with the record cache in front of it.

        budget: limits this engine's requests by the usage of all engines of the step.
        """
        cls, identity = self._engine_of(model)
        records = self.records
        if cls.local and isinstance(records, SharedRecords):
            records = records.local
        return CachedEngine(cls(model, self), records, identity, budget)

    def raw_engine(self, model: Model) -> Engine:
        """The engine without the cache, for engines that are built on another engine."""
        return self._engine_of(model)[0](model, self)

    def _engine_of(self, model: Model) -> tuple[type[Engine], Identity]:
        if self._find_engine is None:
            what = "a step requested an engine without running"
            raise StepError(what, fix="don't use answers there")
        return self._find_engine(model)

    def redact(self, text: str) -> str:
        """The text with the secrets that this step was given as `***`.

        For what comes from outside and is kept: a server may repeat the key that it was sent.
        """
        return redacted(text, self._secrets)
