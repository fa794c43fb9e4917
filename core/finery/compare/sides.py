"""The two sides of a comparison: a run, a git revision of the recipe, or the recipe as it is now.

Nothing is built and no file of the project changes. A revision is written to a temporary folder,
and another process computes its keys there, since two versions of a recipe's plugin files can't be
imported side by side.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.manifest import Parts, Result
from finery.builder.plan import Planner, make_plan
from finery.builder.runs.git import revision_of, top_of, write_tree
from finery.builder.runs.reading import LAST, PREVIOUS, Run, find_run, runs_of
from finery.errors import UsageError, error_from_dict
from finery.recipe.graph import Graph
from finery.store.database import Store
from finery.util.paths import recipe_id

NOW = "now"
SHORTEST = 4
"""Minimum characters of a run's id that name it. A shorter word may be a branch."""
UNBUILT = {
    "failed": "not built (it failed)",
    "blocked": "not built (a step before it failed)",
    "running": "not built (it is running)",
    "waiting": "not built (the run didn't reach it)",
}
"""Why a step has no result in a run, by its state there."""
WHERE_IT_IS_RUN = "finery.compare.revision"


@dataclass
class SideStep:
    """A step on one side.

    parts: of its key, with placeholders for inputs that aren't built; empty if unknown. result:
    what the store knows about it, even if its files are gone. is_whole: whether its files exist.
    reason: why there is no result.
    """

    name: str
    use: str = ""
    key: str = ""
    parts: Parts = field(default_factory=list)
    result: Result | None = None
    is_whole: bool = False
    reason: str = ""


@dataclass
class Side:
    """One side. label: the user's name for it. about: a short description.

    is_variant: whether it is a variant of a matrix, with the names of steps of the file.
    """

    label: str
    about: str
    steps: dict[str, SideStep] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_variant: bool = False


def named_run(graph: Graph, store: Store, word: str) -> Run | None:
    """The run that a word names, None if it may be a git revision."""
    is_alias = word in (LAST, PREVIOUS)
    is_id = len(word) >= SHORTEST and any(runs_named(graph, store, word))
    if not (is_alias or is_id):
        return None
    return find_run(store.root, _id(graph, store), graph.recipe.name, word)


def now(graph: Graph, store: Store) -> Side:
    """The recipe as it is written now, with what is built of it."""
    revision = revision_of(graph.recipe.path.absolute().parent)
    side = Side(NOW, f"the recipe now, {revision}" if revision else "the recipe now")
    for plan in make_plan(Planner(graph, store), without_files=True):
        step = SideStep(plan.node.name, plan.node.use, plan.key, plan.parts, plan.result)
        step.is_whole = plan.result is not None
        step.reason = f"not built ({plan.reason})"
        side.steps[step.name] = step
    return side


def of_run(run: Run, store: Store) -> Side:
    """The results that a run built or found in the store."""
    when = run.started[:16].replace("T", " ")
    about = ", ".join(filter(None, [f"run of {when} UTC", str(run.revision or ""), run.ending]))
    side = Side(run.id, about)
    for record in run.steps.values():
        reason = UNBUILT.get(record.state, "its result wasn't recorded")
        step = SideStep(record.name, record.use, record.key, reason=reason)
        _find(step, store)
        side.steps[step.name] = step
    if not any(step.key for step in side.steps.values()):
        side.notes.append(f"{run.id} was recorded by an earlier finery, without its results")
    return side


def of_revision(graph: Graph, store: Store, word: str, commit: str) -> Side:
    """The recipe at a git revision, with what is in the store of it."""
    side = Side(word, f"the recipe at {commit[:8]}")
    with tempfile.TemporaryDirectory(prefix="finery-diff-") as folder:
        planned = _planned_at(graph.recipe.path.absolute(), store, commit, Path(folder))
    for step in planned["steps"]:
        made = msgspec.convert(step, SideStep)
        made.reason = f"not built ({made.reason})" if made.reason else "not built"
        _find(made, store)
        side.steps[made.name] = made
    for name in planned["linked"]:
        side.notes.append(f"{name} isn't in git: {word} is taken to have the file that is here now")
    return side


def _planned_at(recipe: Path, store: Store, commit: str, folder: Path) -> dict[str, Any]:
    """The output of the process that computes the keys of a revision."""
    top = top_of(recipe.parent)
    assert top is not None  # `commit_of` found one
    tree = folder / "tree"
    write_tree(top, commit, tree)
    inside = os.path.relpath(recipe.resolve(), top.resolve())
    if not (tree / inside).is_file():
        raise UsageError(f"{commit[:8]} has no file {inside}", fix="name a later revision")
    asked = json.dumps([str(tree), str(top), inside, os.path.abspath(store.root)])
    # Only `python -m finery` imports from the current folder.
    safe = [] if sys.path[:1] == [os.getcwd()] else ["-P"]
    done = subprocess.run(
        [sys.executable, *safe, "-m", WHERE_IT_IS_RUN, asked], cwd=_here_in(tree, top),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = done.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
        raise UsageError(f"the keys of {commit[:8]} can't be computed: {last[0]}") from None
    if "error" in answer:
        error = error_from_dict(answer["error"])
        where = (error.where or "").replace(f"{tree}/", "")
        raise UsageError(f"at {commit[:8]}: {error.what}", where=where or None, fix=error.fix)
    return answer


def _here_in(tree: Path, top: Path) -> Path:
    """The current folder as the revision has it, since steps may import modules from there.

    Returns the current folder itself if it isn't in the working tree. tree: the revision's files.
    """
    here, top = Path.cwd(), top.resolve()
    if not here.is_relative_to(top):
        return here
    folder = tree / here.relative_to(top)
    while not folder.is_dir():  # the revision doesn't have it
        folder = folder.parent
    return folder


def _find(step: SideStep, store: Store) -> None:
    """Add what the store has of a step's key."""
    if not step.key:
        return
    step.result = store.finished(step.key)
    if step.result is not None:
        step.parts = step.result.parts
        step.is_whole = store.lookup(step.key) is not None


def runs_named(graph: Graph, store: Store, beginning: str = "") -> Iterator[Run]:
    """The runs of a recipe whose ids begin so, the last one first."""
    return runs_of(store.root, _id(graph, store), graph.recipe.name, beginning)


def _id(graph: Graph, store: Store) -> str:
    return recipe_id(graph.recipe.path, store.root)
