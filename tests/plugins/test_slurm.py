"""Steps as Slurm jobs, on a cluster of one node that the tests start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm

from finery.testing.executors import DetachedContract
from finery_slurm.executor import SlurmExecutor, SlurmOptions

pytestmark = pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing())


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[Path]:
    """The cluster, which Slurm's commands find."""
    with slurm.cluster() as configuration, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(configuration))
        yield configuration


class TestContract(DetachedContract):
    """The contract of executors."""

    own_lines = "(submitted as|continues with)? ?Slurm job"

    def executor(self, jobs: int | None) -> SlurmExecutor:
        return SlurmExecutor(jobs, SlurmOptions(gres=""))
