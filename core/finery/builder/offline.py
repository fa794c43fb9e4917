"""Steps prepared in the main process, to answer questions without running them."""

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from finery.execute.environment import secrets_for_all
from finery.inference.records import SqliteRecords
from finery.recipe.graph import Node
from finery.step.inspect import give_files
from finery.step.job import Job, Report
from finery.step.step import Step
from finery.store.database import Store
from finery.util.paths import PINNED


def with_files(step: Step, files: Mapping[str, Sequence[tuple[str, Path]]]) -> Step:
    """A copy of the step with its outside files in the settings of type `Files`."""
    opened = copy.deepcopy(step)
    give_files(opened, files)
    return opened


def job_without_run(
    node: Node, store: Store, folder: Path, *, pinned: str | None, report: Report
) -> Job:
    """A job without engines. folder: an empty folder that the caller removes."""
    (folder / "out").mkdir()
    return Job(
        out=folder / "out",
        scratch=folder / "scratch",
        seed=node.seed if node.step.uses_seed() else None,
        report=report,
        records=SqliteRecords(store.database),
        secrets=secrets_for_all(os.environ)
        | {name: os.environ[name] for name in node.env if name in os.environ},
        pinned=pinned,
        kept=store.root / PINNED,
    )


def job_without_store(node: Node, folder: Path) -> Job:
    """A job without engines and cached answers. folder: as for `job_without_run`."""
    (folder / "out").mkdir()
    return Job(
        out=folder / "out",
        scratch=folder / "scratch",
        seed=node.seed if node.step.uses_seed() else None,
    )
