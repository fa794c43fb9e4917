"""The kit for plugin authors: run one step by itself, without recipe, store or processes."""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finery.artifact.kinds import Dataset, Model
from finery.inference.engine import Engine
from finery.inference.records import MemoryRecords, Records
from finery.plugin.manager import load_plugins
from finery.rows import Row
from finery.step.job import Job
from finery.step.step import Step


class TestJob(Job):
    """A job that keeps what the step reports in `events`.

    folder: where it works. Without one it gets a new one, which lasts as long as this process, so
    that what a step made can be used when the job is gone.
    """

    __test__ = False  # not a test class, whatever pytest thinks of its name

    def __init__(
        self,
        folder: Path | None = None,
        *,
        seed: int | None = 0,
        secrets: dict[str, str] | None = None,
        records: Records | None = None,
        pinned: str | None = None,
    ) -> None:
        root = folder or Path(tempfile.mkdtemp(dir=_temporary()))
        for name in ("out", "scratch"):
            (root / name).mkdir(parents=True, exist_ok=True)
        self.events: list[dict[str, Any]] = []
        super().__init__(
            out=root / "out",
            scratch=root / "scratch",
            seed=seed,
            report=self.events.append,
            records=MemoryRecords() if records is None else records,
            find_engine=self._find,
            secrets=secrets or {},
            pinned=pinned,
            kept=root / "kept",
        )

    def _find(self, model: Model) -> tuple[type[Engine], str]:
        return load_plugins().engine(model.format), f"{model.path} {sorted(model.meta.items())}"


@functools.cache
def _temporary() -> Path:
    """The folder of this process's jobs that were given none; removed when the process ends."""
    folder, owner = Path(tempfile.mkdtemp(prefix="finery-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not where a child that was forked ends
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder


def dataset(folder: Path, rows: Iterable[Row]) -> Dataset:
    """A `Dataset` of these rows, to hand to a step."""
    return Dataset.write(folder, rows)


def run_step(step: Step, folder: Path | None = None, **job: Any) -> Any:
    """Run `step` (made like any class: `MinLength(rows=…, characters=5)`); return its output."""
    return step.run(TestJob(folder, **job))
