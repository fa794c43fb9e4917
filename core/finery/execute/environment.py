"""The environment variables of a process in which steps run."""

import os
import re
from pathlib import Path

from finery.execute.task import Task
from finery.plugin.manager import load_plugins

_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
"""Environment variables that no worker inherits: a step gets them only by `env:`."""


def worker_environment(task: Task, *, alone: bool) -> dict[str, str]:
    """The environment for a new process whose first step is `task`.

    This process's own, less what looks like a secret; and what plugins add to it, where the user
    didn't set the same variables. alone: whether no other step will run beside it.
    """
    plugins = load_plugins(tuple(Path(path) for path in task.plugins))
    return plugins.worker_environment(task.use, alone=alone) | inherited()


def inherited() -> dict[str, str]:
    """This process's environment, less what looks like a secret."""
    return {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
