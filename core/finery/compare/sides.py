"""The two sides of a comparison: a run, a variant, a git revision, or the recipe as it is now.

Nothing is built and no file of the project changes. A revision is written to a temporary folder,
and another process computes its keys there, since two versions of a recipe's plugin files can't be
imported side by side. A variant of a matrix is a side with its steps under the names of the file.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.manifest import Parts, Result
from finery.builder.plan import Planner, make_plan
from finery.builder.runs import (
    LAST_RUN,
    PREVIOUS_RUN,
    Run,
    commit_of,
    find_run,
    revision_of,
    runs_of,
    top_of,
    write_tree,
)
from finery.compare.variants import choice_of
from finery.errors import FineryError, UsageError
from finery.recipe.graph import Graph, Node
from finery.recipe.matrix.axes import SEED_LABEL, Variant
from finery.recipe.matrix.choose import WINNER
from finery.store.database import Store
from finery.util.paths import plain_path

NOW = "now"
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


def now(graph: Graph, store: Store) -> Side:
    """The recipe as it is written now, with what is built of it."""
    revision = revision_of(plain_path(graph.recipe.path).parent)
    side = Side(NOW, f"the recipe now, {revision}" if revision else "the recipe now")
    for plan in make_plan(Planner(graph, store), without_files=True):
        step = SideStep(plan.node.name, plan.node.use, plan.result_key, plan.all_parts, plan.result)
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
        planned = _planned_at(plain_path(graph.recipe.path), store, commit, Path(folder))
    for step in planned["steps"]:
        side_step = msgspec.convert(step, SideStep)
        side_step.reason = f"not built ({side_step.reason})" if side_step.reason else "not built"
        _find(side_step, store)
        side.steps[side_step.name] = side_step
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
        error = FineryError.from_dict(answer["error"])
        where = (error.where or "").replace(f"{tree}/", "")
        raise UsageError(f"at {commit[:8]}: {error.what}", where=where or None, fix=error.fix)
    return answer


def _here_in(tree: Path, top: Path) -> Path:
    """The current folder as the revision has it, since steps may import modules from there.

    Returns the current folder itself if it isn't in the working tree. tree: the revision's files.
    """
    working_folder, top = Path.cwd(), top.resolve()
    if not working_folder.is_relative_to(top):
        return working_folder
    folder = tree / working_folder.relative_to(top)
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


FIRST = 3
"""Variants that an error names."""
SHORTEST = 4
"""Characters of a run's id that name it. A shorter word may be a branch."""


def sides_of(graph: Graph, store: Store, first: str, second: str | None) -> tuple[Side, Side]:
    """Both sides. Without a second word, a variant is compared with the winner, others with `now`.

    Raises `UsageError` for a word that names nothing, and for sides that don't compare.
    """
    second_side = second or default_side(graph, first) or NOW
    sides = side_of(graph, store, first), side_of(graph, store, second_side)
    check_pair(graph, *sides)
    return sides


def side_of(graph: Graph, store: Store, word: str) -> Side:
    """The side that a word names. Raises `UsageError` if it names nothing."""
    if word == NOW:
        return now(graph, store)
    is_id = len(word) >= SHORTEST and any(runs_of(store.root, graph.recipe, word))
    if is_id or word in (LAST_RUN, PREVIOUS_RUN):
        return of_run(find_run(store.root, graph.recipe, word), store)
    if (variant := of_variant(graph, store, word)) is not None:
        return variant
    commit = commit_of(plain_path(graph.recipe.path).parent, word)
    if commit is not None:
        return of_revision(graph, store, word, commit)
    words = [NOW, LAST_RUN, PREVIOUS_RUN, *(run.id for run in runs_of(store.root, graph.recipe))]
    problem = f"'{word}' is neither a run of this recipe nor a git revision"
    fix = f"write one of: {', '.join(words[:8])}; or a commit, branch or tag"
    if graph.matrix is not None:
        problem = f"'{word}' is neither a run of this recipe, nor a variant, nor a git revision"
        fix = f"write a variant, such as {some_of(graph)}; or {fix.removeprefix('write ')}"
    elif "=" in word:
        fix = f"the recipe has no `matrix:`; add one, or --matrix; or {fix}"
    raise UsageError(problem, fix=fix)


# -- variants --------------------------------------------------------------------------------------


def of_variant(graph: Graph, store: Store, word: str) -> Side | None:
    """The side of a variant; None if the word names none.

    A word is the name of a variant (`r=8`), a step of one (`sft@r=8`, `train.sft@r=8`), or
    `winner`. Raises `UsageError` where it names several variants, or where nothing is chosen yet.
    """
    if graph.matrix is None:
        return None
    state = now(graph, store)
    if word == WINNER and graph.select_by is not None:
        choice = choice_of(graph, {name: step.result for name, step in state.steps.items()})
        if choice is None:
            fix = f"finery build, or name one: {some_of(graph)}"
            raise UsageError("no variant is chosen yet", fix=fix)
        variants = graph.matrix.variants
        chosen = [each for each in variants if each.name == choice["chosen"]]
        return _side(graph, state, word, chosen)
    step, at, name = word.rpartition("@")
    node = _step(graph, step, name) if step else None
    if node is not None and not _fitting(graph, name, whole=True):
        # Its variants are fewer than those of the recipe.
        about = f"{node.name} and the steps before it"
        return _renamed(graph, state, word, about, [node.name])
    found = _fitting(graph, name)
    if not found or (at and step and node is None):
        return None
    return _side(graph, state, word, found)


def default_side(graph: Graph, word: str) -> str | None:
    """What a variant is compared with if nothing else is named; None if the word isn't one."""
    if graph.matrix is None or word == WINNER or not _fitting(graph, word.rpartition("@")[2]):
        return None
    if graph.select_by is None:
        raise UsageError(
            f"'{word}' is a variant, and the recipe chooses none to compare it with",
            fix=f"name a second one: {some_of(graph)}",
        )
    return WINNER


def check_pair(graph: Graph, first: Side, second: Side) -> None:
    """Raise `UsageError` where a variant would be compared with all variants."""
    for one, other in ((first, second), (second, first)):
        if one.is_variant and not other.is_variant and any("@" in name for name in other.steps):
            raise UsageError(
                f"'{other.label}' has variants itself, so '{one.label}' can't be compared with it",
                fix=f"name a variant, such as {some_of(graph)}, or a state without a matrix",
            )


def some_of(graph: Graph) -> str:
    """The first variants by name."""
    assert graph.matrix is not None
    return ", ".join(variant.name for variant in graph.matrix.variants[:FIRST])


def _step(graph: Graph, step: str, name: str) -> Node | None:
    """The variant of a step. step: its name in the file, or `section.name`."""
    nodes = (
        node
        for node in graph.nodes.values()
        if step in (node.origin, f"{node.section}.{node.origin}")
    )
    parts = _parts(name)
    return next((n for n in nodes if n.variant and _parts(n.variant) == parts), None)


def _fitting(graph: Graph, name: str, *, whole: bool = False) -> list[Variant]:
    """The variants that have all the values of a name. whole: those that have no others."""
    assert graph.matrix is not None
    wanted, variants = _parts(name), graph.matrix.variants
    exact = [each for each in variants if _parts(each.name) == wanted]
    exact = exact or [each for each in variants if _parts(each.combination) == wanted]
    if exact or whole:
        return exact
    return [each for each in variants if wanted < _parts(each.name)]


def _parts(name: str) -> set[str]:
    return set(name.replace(".", "_").split(","))


def _side(graph: Graph, state: Side, word: str, found: Sequence[Variant]) -> Side:
    """The side of the first variant; the others may differ from it only in the seed."""
    assert graph.matrix is not None
    first = found[0]
    if any(each.combination != first.combination for each in found):
        raise UsageError(
            f"'{word}' names {len(found)} variants",
            fix=f"write all values of one, such as {first.name}",
        )
    about = f"the variant {first.name}{', chosen by winner' if word == WINNER else ''}"
    side = _renamed(graph, state, word, about, list(graph.matrix.steps[first.name].values()))
    if len(found) > 1:
        seed = first.values[SEED_LABEL].label
        side.notes.append(f"{word} has {len(found)} repeats: this is the one under seed {seed}")
    return side


def _renamed(graph: Graph, state: Side, word: str, about: str, names: Sequence[str]) -> Side:
    side = Side(word, about, is_variant=True)
    for name, node in graph.select([each for each in names if each in graph.nodes]).nodes.items():
        origin = node.origin or name
        side.steps[origin] = replace(state.steps[name], name=origin)
    select = graph.select_by
    if select is not None and not select.own_rows and select.evaluator in side.steps:
        side.notes.append(f"{select.evaluator} is on {select.rows}, which the winner is chosen by")
    return side
