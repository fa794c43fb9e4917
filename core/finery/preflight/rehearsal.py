"""A rehearsal: all steps of a recipe with few rows and small models, in a store thrown away.

Input: a graph. Output: which steps would fail, after how long, and what wasn't rehearsed. The build
is the ordinary one. Nothing is written into the project's store, its `build/` or `recipe.lock`.
"""

import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from blake3 import blake3

from finery.artifact.kinds import Bundle, Dataset, Model
from finery.artifact.manifest import Result, encode
from finery.builder.checks import estimates_of, results_of
from finery.builder.plan import Planner, make_plan
from finery.builder.scheduler import Build
from finery.errors import FineryError, NotRehearsed, StepError
from finery.execute.executor import NOT_REHEARSED, WRITTEN
from finery.execute.gpus import cpu_count
from finery.execute.local import LocalExecutor
from finery.execute.rehearse import ASKED, TEXTS
from finery.execute.venv import ENVIRONMENTS_FOLDER
from finery.plugin.history import Past, Results
from finery.recipe.document import Recipe
from finery.recipe.graph import Graph
from finery.recipe.lock import UnwrittenLock
from finery.step.forecast import Estimate
from finery.step.resources import Rehearsing
from finery.store.database import Store
from finery.util.events import Event, Listener
from finery.util.paths import (
    PINNED_FOLDER,
    STORE_VARIABLE,
    cache_folder,
    plain_path,
    store_folder,
)
from finery.util.text import size

MOST_JOBS = 4
"""Steps at once: each may hold torch in memory."""
WORTH_SECONDS = 600
"""The time of a build from which on a rehearsal is suggested."""


@dataclass
class Rehearsed:
    """The outcome of a rehearsal.

    seconds: of the rehearsal. steps: seconds of those that ended well. omitted: step → what of it
    wasn't rehearsed, or why it wasn't. requests: the model, tokens and dollars (None: unknown) of
    each request to a paid model. errors: of steps that would fail in a build. lost: failed step →
    seconds of a build before it, by the estimates; None: unknown.
    """

    seconds: float = 0.0
    steps: dict[str, float] = field(default_factory=dict)
    omitted: dict[str, list[str]] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, FineryError] = field(default_factory=dict)
    lost: dict[str, float | None] = field(default_factory=dict)


class _Rows(Results):
    """The rows that a rehearsal has read, for estimates of the real build."""

    def history(self, use: str) -> list[Past]:
        """None: steps of a rehearsal are much quicker."""
        return []


def rehearse(graph: Graph, mode: Rehearsing, view: Listener | None = None) -> Rehearsed:
    """Run all steps of a graph to the end, in a temporary folder that is removed in any case.

    view: a listener, which gets no errors: they are in the outcome.
    """
    rehearsed, omitted, written = Rehearsed(), defaultdict[str, list[str]](list), dict[str, int]()

    def show(event: Event) -> None:
        if event["event"] in ("step_finished", "step_cached"):  # of two equal steps, one runs
            rehearsed.steps[event["step"]] = event.get("seconds", 0.0)
        elif event["event"] == "step_note" and event["name"] == WRITTEN:
            written[event["step"]] = int(event["text"])
            return
        elif event["event"] == "step_note" and event["name"] == NOT_REHEARSED:
            omitted[event["step"]].append(event["text"].removeprefix("not rehearsed: "))
        if view is not None and event["event"] not in ("step_failed", "step_blocked"):
            view(event)

    with tempfile.TemporaryDirectory(prefix="finery-rehearsal-", ignore_cleanup_errors=True) as at:
        store = Store(Path(at))
        for folder in (ENVIRONMENTS_FOLDER, PINNED_FOLDER):  # which are only read
            for path in (store_folder(graph.recipe.path) / folder).glob("*"):
                (store.root / folder).mkdir(exist_ok=True)
                (store.root / folder / path.name).symlink_to(path)
        build = Build(
            graph, store, LocalExecutor(min(MOST_JOBS, max(2, cpu_count()))), [show],
            keep_going=True, lock=UnwrittenLock(graph.recipe.path), rehearsal=mode,
        )  # fmt: skip
        build.planner.unbuilt = "rehearsed"
        outcome = build.run()
        for step, error in outcome.errors.items():
            if isinstance(error, NotRehearsed):
                omitted[step].append(error.what)
            else:
                rehearsed.errors[step] = error
        if shortage := _shortage(graph, outcome.results, written):
            rehearsed.errors.setdefault(*shortage)
        for step in graph.unreleased:
            omitted[step].append("what is released isn't in the store of a rehearsal")
        for step, failed in outcome.blocked.items():
            omitted[step].append(f"it waits for {', '.join(failed)}")
        asked = (file.read_text() for file in sorted((store.root / ASKED).glob("*")))
        rehearsed.requests = [json.loads(text) for text in asked if text]
        rehearsed.lost = _lost_seconds(graph, store, outcome.results, rehearsed.errors)
        rehearsed.seconds, rehearsed.omitted = outcome.seconds, omitted
        store.close()
    return rehearsed


def _shortage(
    graph: Graph, results: Mapping[str, Result], written: Mapping[str, int]
) -> tuple[str, FineryError] | None:
    """The step at which a build's models fill the disk, with an error; None if there is space.

    A base of the rehearsal says how many `times_smaller` than the real one it is. The same applies
    to models and bundles that are made of it, except adapters, which are small in any case.
    written: step → the most bytes that it had in its folders at a time.
    """
    folder = store_folder(graph.recipe.path)
    real = Store(folder, read_only=True)
    with closing(real):
        planner = Planner(graph, real, UnwrittenLock(graph.recipe.path))
        plans = [*make_plan(planner, without_files=True)]
    cached = {plan.node.name for plan in plans if plan.state == "cached"}
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.is_dir())).free
    scales, kept = dict[str, float](), dict[str, float]()  # by step, and by digest of a file
    for name, node in graph.nodes.items():
        outputs = [*results[name].outputs.values()] if name in results else []
        kinds, before = {m.kind for m in outputs}, sum(kept.values())
        own = [m.runtime["times_smaller"] for m in outputs if "times_smaller" in m.runtime]
        scale = max([0, *own, *(scales[step] for step in node.upstream())])
        scales[name] = scale if kinds & {Model.kind, Bundle.kind} else 0
        is_free, is_adapter = own or name in cached, any(m.refs for m in outputs)
        for path, (digest, count) in chain.from_iterable(m.files.items() for m in outputs):
            grows = scales[name] and not is_adapter and Path(path).suffix not in TEXTS
            kept.setdefault(digest, 0 if is_free else count * (scale if grows else 1))
        needed = sum(kept.values())
        if Model.kind in kinds and not (is_free or is_adapter):
            needed = max(needed, before + written.get(name, 0) * scale)
        if needed > free:
            what = f"a build needs {size(needed)} of disk space here, and {size(free)} are free"
            fix = f"free some disk space, or set {STORE_VARIABLE} to a folder on a larger disk"
            return name, StepError(what, where=str(folder), fix=fix)
    return None


def _lost_seconds(
    graph: Graph, store: Store, results: Mapping[str, Result], failed: Iterable[str]
) -> dict[str, float | None]:
    rows = {
        name: result for name, result in results.items()
        if not graph.nodes[name].is_heavy
        and all(m.kind == Dataset.kind for m in result.outputs.values())
    }  # fmt: skip
    before = {name: [*graph.select([name]).nodes][:-1] for name in failed}
    steps = [name for name in graph.nodes if any(name in names for names in before.values())]
    estimates = estimates_of(graph, _Rows(store, rows), steps)
    return {name: _seconds_of(estimates, names) for name, names in before.items()}


def _seconds_of(estimates: Mapping[str, Estimate], steps: Sequence[str]) -> float | None:
    """The seconds of steps by their estimates, as far as they are known."""
    known = [estimates[name].facts.get("seconds") for name in steps if name in estimates]
    return sum(value for value in known if value) or None


# -- whether one was made -------------------------------------------------------------------------


def _record(recipe: Recipe) -> Path | None:
    """The file in the user's cache which says that a recipe was rehearsed as it is."""
    folder = cache_folder()
    digest = blake3(encode([str(plain_path(recipe.path)), recipe.data])).hexdigest()
    return folder / "rehearsed" / digest if folder else None


def record_rehearsal(recipe: Recipe) -> None:
    """Remember that a recipe was rehearsed without an error."""
    if file := _record(recipe):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def seconds_without_rehearsal(planner: Planner) -> float:
    """The time of a build of over ten minutes that wasn't rehearsed, by estimates; otherwise 0."""
    graph, file = planner.graph, _record(planner.graph.recipe)
    if file is None or file.exists() or not any(node.trains for node in graph.nodes.values()):
        return 0

    def estimated(is_again: bool) -> float:
        plans = list(make_plan(planner, without_files=True))
        waiting = [p.node.name for p in plans if p.state != "cached" and not p.same_as]
        estimates = estimates_of(graph, results_of(planner, plans), waiting)
        return _seconds_of(estimates, waiting) or 0

    seconds = planner.store.shared.retry_without_lost(estimated)
    return seconds if seconds > WORTH_SECONDS else 0
