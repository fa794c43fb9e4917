"""A review opened from a recipe: its rows, what is known about them, its file of decisions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finery import Dataset, UsageError
from finery.advanced import Graph, Manifest, Project, did_you_mean
from finery_review.apply import Apply, default_file, reviews_file
from finery_review.log import DecisionLog
from finery_review.serving.rows import KINDS, About, RowFile
from finery_review.serving.session import Session

STATUSES = ("accepted", "rejected", "edited", "swapped")


@dataclass
class Opened:
    """A review that is ready to begin.

    ref: the rows' name in the recipe. applied_by: the step that applies the decisions, empty if
    there is none. fresh: whether the rows are up to date with the recipe.
    """

    ref: str
    title: str
    session: Session
    log: DecisionLog
    about: About
    applied_by: str
    fresh: bool

    def facts(self) -> dict[str, Any]:
        """The progress of the review. here: rows decided by this process; gone: decisions on rows
        that no longer exist; stale: undecided rows that may be changed versions of those."""
        counts = self.session.counts()
        statuses: dict[str, Any] = {status: counts.get(status, 0) for status in STATUSES}
        decided = sum(statuses.values())
        rows, stale = len(self.session.rows), counts.get("stale", 0)
        decided_here = sum(status in STATUSES for status in self.session.decided.values())
        gone = self.session.stale_elsewhere()
        return {
            "rows": rows, "decided": decided, "here": decided_here, **statuses,
            "undecided": rows - decided, "stale": stale, "gone": gone, "file": str(self.log.path),
        }  # fmt: skip

    def step_to_add(self) -> str:
        """The line of a recipe that applies the decisions."""
        file = f"{self.log.path.parent.name}/{self.log.path.name}"
        return f"reviewed: {{use: review.apply, rows: {self.ref}, reviews: {file}}}"

    def close(self) -> None:
        """Close the files."""
        self.session.rows.close()
        self.about.close()


def open_review(step: str, recipe: Path, overrides: Sequence[str], reviewer: str) -> Opened:
    """Open the review of a step's rows, or of those that a `review.apply` takes."""
    project = Project(recipe, overrides)
    graph = project.graph
    ref = _rows_of(graph, step)
    name, _, output = ref.partition(".")
    result, fresh = project.result(name)
    manifest = result.outputs.get(output)
    if manifest is None or manifest.kind != Dataset.kind:
        raise _no_rows(name, output, result.outputs)
    dataset = project.store.artifact(manifest)
    assert isinstance(dataset, Dataset)
    file, applied_by = _decisions_of(graph, ref, step)
    log, rows = DecisionLog(file), RowFile(dataset)
    about = About([dataset.path, *_folders_before(project, name)])
    session = Session(rows, log, about, reviewer)
    return Opened(ref, f"{graph.recipe.name}: {ref}", session, log, about, applied_by, fresh)


def _rows_of(graph: Graph, step: str) -> str:
    """The rows that the argument names: a step's, or those that a `review.apply` takes."""
    name = step.partition(".")[0]
    graph.require(name)
    applied = graph.nodes[name].step
    return applied.rows.ref if isinstance(applied, Apply) else step


def _no_rows(name: str, output: str, outputs: dict[str, Manifest]) -> UsageError:
    sets = [n for n, manifest in outputs.items() if n and manifest.kind == Dataset.kind]
    if sets:
        problem = (
            f"'{name}' has no rows called '{output}'" if output else f"'{name}' has several outputs"
        )
        fix = did_you_mean(output, sets) if output else None
        return UsageError(problem, fix=fix or f"name one: {name}.{sets[0]}")
    kinds = ", ".join(sorted({manifest.kind for manifest in outputs.values()}))
    return UsageError(
        f"'{name}' makes no rows (it makes: {kinds})",
        fix="name a step with a Dataset",
    )


def _decisions_of(graph: Graph, ref: str, step: str) -> tuple[Path, str]:
    """(the file of decisions, the step that applies them)."""
    files = {
        node.name: reviews_file(graph, node)
        for node in graph.nodes.values()
        if isinstance(node.step, Apply) and node.step.rows.ref == ref
    }
    if step in files:
        return files[step], step
    if len(set(files.values())) > 1:
        names = ", ".join(files)
        raise UsageError(
            f"{names} take these rows, each with its own file of decisions",
            fix=f"name one of these steps: finery review {next(iter(files))}",
        )
    if files:
        name, path = next(iter(files.items()))
        return path, name
    return default_file(graph, ref), ""


def _folders_before(project: Project, name: str) -> Iterator[Path]:
    """The folders of data sets that a step's rows came from, the nearest first."""
    visited, names = {name}, list(project.graph.nodes[name].upstream())
    while names:
        upstream = names.pop(0)
        if upstream in visited:
            continue
        visited.add(upstream)
        names += project.graph.nodes[upstream].upstream()
        try:
            result, _ = project.result(upstream)
        except UsageError:
            continue  # not built any more
        for manifest in result.outputs.values():
            if manifest.kind == Dataset.kind and KINDS.keys() & manifest.files.keys():
                yield project.store.artifact(manifest).path
