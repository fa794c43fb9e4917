"""OpenMP's threads spin as long as suits what else runs on the machine, in every worker."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import until
from tasks import Tasks, ends, number_of

from finery.execute.local import LocalExecutor
from finery_slurm.executor import SlurmExecutor
from finery_trl.train import environment


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Tasks]:
    """Makes tasks."""
    tasks = Tasks(tmp_path)
    yield tasks
    tasks.store.close()


SPINS = "rows.append({'prompt': os.environ['GOMP_SPINCOUNT']})"


@pytest.mark.parametrize(
    ("jobs", "isolated", "busy", "spins"),
    [
        (None, True, 0.2, environment.LONG),
        (1, True, 0.2, environment.LONG),
        (None, True, 0.6, environment.SHORT),
        (2, True, 0.2, environment.SHORT),
        (None, False, 0.2, environment.SHORT),
    ],
)
def test_threads_spin_long_only_where_nothing_else_computes(
    task: Tasks, monkeypatch: pytest.MonkeyPatch, jobs: int, isolated: bool, busy: float, spins: int
) -> None:
    monkeypatch.setattr(environment, "busy_cores", lambda: busy)
    executor = LocalExecutor(jobs)
    executor.start(task(SPINS, isolated=isolated))
    (event,) = ends(executor, 1).values()
    executor.close()
    assert number_of(event, task) == spins


def test_jobs_elsewhere_do_not_depend_on_the_load_here(
    task: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, equal steps would become several arrays of Slurm, and each submission measures."""
    loads = iter([0.2, 0.6])
    monkeypatch.setattr(environment, "busy_cores", lambda: next(loads))
    executor, one = SlurmExecutor(None), task(SPINS)
    assert executor.alike(one) == executor.alike(one)
    assert ("GOMP_SPINCOUNT", str(environment.LONG)) in executor.alike(one)[1]
    assert next(loads) == 0.2, "it looked"


def test_a_busy_core_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            until(lambda: environment.busy_cores() >= environment.BUSY)
        finally:
            busy.kill()
