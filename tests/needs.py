"""What a machine may lack, in CI as well.

With `CI=true`, all other skipped tests fail: `.ci/run` and `make` install what they need.
"""

import os
from importlib.util import find_spec
from typing import TypeVar

import pytest

IN_CI = os.environ.get("CI") == "true"
IS_LIGHT = os.environ.get("LIGHT") == "true"
"""Whether the environment is that of `make test-python`, without torch and other packages."""
Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
_accepted: set[str] = set()


def may_lack(reason: str) -> str:
    """The reason itself, for which CI may skip a test, too.

    For GPUs, file systems, users, other operating systems, data that isn't in the repository, and
    programs with an environment of their own.
    """
    _accepted.add(reason)
    return reason


def need(package: str) -> None:
    """Skip a test or a module without a package, as `make test-python` may in CI as well.

    It isn't imported here: all modules are loaded before the first test runs.
    """
    reason = f"needs the package {package}"
    if find_spec(package) is None:
        pytest.skip(may_lack(reason) if IS_LIGHT else reason, allow_module_level=True)


def checked(report: Report) -> Report:
    """Turn a skipped test into a failed one, in CI and unless its reason is accepted."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        assert isinstance(report.longrepr, tuple)
        path, line, text = report.longrepr
        reason = text.removeprefix("Skipped: ")
        if reason not in _accepted:
            report.outcome = "failed"
            report.longrepr = f"{path}:{line}: must not be skipped in CI: {reason}"
    return report
