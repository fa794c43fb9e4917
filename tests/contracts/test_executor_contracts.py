"""The local executor and the base of detached ones keep the contract of executors."""

from background import Background

from finery.advanced import Executor
from finery.execute.local import LocalExecutor
from finery.testing import ExecutorContract
from finery.testing.executors import DetachedContract


class TestLocal(ExecutorContract):
    """local."""

    def executor(self, jobs: int | None) -> Executor:
        return LocalExecutor(jobs)


class TestDetached(DetachedContract):
    """The base of executors whose jobs outlive a build."""

    own_lines = "(submitted as|continues with)? ?Background job"

    def executor(self, jobs: int | None) -> Executor:
        return Background(jobs)
