"""The local executor keeps the contract of executors."""

from finery import Executor
from finery.execute.local import LocalExecutor
from finery.testing import ExecutorContract


class TestLocal(ExecutorContract):
    """local."""

    def executor(self, jobs: int | None) -> Executor:
        return LocalExecutor(jobs)
