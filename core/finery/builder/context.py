"""The circumstances of a run, for its record: recipe, git revision, overrides, machine.

Only reads from git.
"""

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from finery.errors import UsageError
from finery.execute.gpus import cpu_count, memory_bytes, processor
from finery.recipe.graph import Graph
from finery.util.installed import version_of
from finery.util.paths import plain_path


def context_of(graph: Graph, recipe_id: str) -> dict[str, Any]:
    """Facts as JSON values. recipe_id: the recipe's path from the project's folder."""
    recipe = graph.recipe
    revision = revision_of(plain_path(recipe.path).parent)
    return {
        "format": 1,
        "recipe": recipe.name,
        "path": recipe_id,
        "revision": None if revision is None else revision._asdict(),
        "overrides": list(recipe.overrides.values()),
        "only": [] if graph.whole is None else list(graph.nodes),
        "finery": version_of("finery"),
        "python": platform.python_version(),
        "machine": machine(),
    }


def machine(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A description of the machine, without its name."""
    from finery.execute.gpus import visible_gpus

    return {
        "system": platform.system(),
        "processor": processor(),
        "cores": cpu_count(),
        "memory": memory_bytes(),
        "gpus": [gpu.name for gpu in visible_gpus(environment)],
    }


SECONDS = 20
"""The longest that a question to git may take."""


class Revision(NamedTuple):
    """A commit, and whether tracked files under the project's folder differ from it."""

    commit: str
    is_dirty: bool

    def __str__(self) -> str:
        """As text: `9dea07c1` or `9dea07c1 + changes`."""
        return self.commit[:8] + (" + changes" if self.is_dirty else "")


def revision_of(folder: Path) -> Revision | None:
    """The checked-out revision; None outside a repository and before the first commit."""
    commit = ask(folder, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    if commit is None:
        return None
    status = ask(folder, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return Revision(commit, status != "")


def commit_of(folder: Path, name: str) -> str | None:
    """The commit that a name means, e.g. `HEAD~1`, a branch or the beginning of a hash."""
    if not name or name.startswith("-"):
        return None
    return ask(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")


def top_of(folder: Path) -> Path | None:
    """The folder of the working tree."""
    top = ask(folder, "rev-parse", "--show-toplevel")
    return Path(top) if top else None


def write_tree(folder: Path, commit: str, target: Path) -> None:
    """Write the files of a commit into a new folder. Working tree and index stay as they are.

    Raises `UsageError` where git can't.
    """
    index = {"GIT_INDEX_FILE": str(target.with_name(f"{target.name}.index"))}
    target.mkdir()
    for arguments in (["read-tree", commit], ["checkout-index", "--all", f"--prefix={target}/"]):
        if ask(folder, *arguments, environment=index) is None:
            raise UsageError(f"git can't write the files of {commit[:8]}", fix="run git fsck")


def ask(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str | None:
    """The stripped output of a `git` command in a folder; None if it fails or isn't installed."""
    own = {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C", **(environment or {})}
    try:
        answered = subprocess.run(
            ["git", *arguments], cwd=folder, env={**os.environ, **own}, capture_output=True,
            text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answered.stdout.strip() if answered.returncode == 0 else None
