"""Examines the steps of a recipe: can they use their outside files and their inputs?

Input: a graph and what is built of it. Output: errors at their places in the recipe. An examination
is repeated only when it may say something else, because more is known of an input that it read.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from finery.artifact.kinds import Dataset
from finery.builder.dispatch import job_without_run
from finery.builder.plan import wrong_distributions
from finery.errors import FineryError, PluginError, each_once
from finery.plugin.forecasts import Forecasts
from finery.plugin.history import Results
from finery.recipe.files import find_files
from finery.recipe.graph import Graph, Node, Source, has_setting, place_of
from finery.recipe.lock import Lock
from finery.rows.row import Row
from finery.step.inspect import check_columns, files_of, give_files, nested_steps, slots_of
from finery.step.job import Job
from finery.step.look import UNKNOWN, Known, Look, Unknown
from finery.step.step import Step
from finery.store.layout import BlobsLost

Knowledge = frozenset[str] | None
"""The digests of what is built of an input, and of all that it is made of; None: no look at all."""


class Examiner:
    """Examines the steps of a recipe, and remembers what each examination read."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._read: dict[tuple[str, str], tuple[Step, dict[str, Knowledge]]] = {}

    def errors(self, progress: Callable[[str], None] = lambda text: None) -> list[FineryError]:
        """The errors that need no build: missing and unusable outside files, unusable inputs.

        Also wrong names in `packages=` of step types. Inputs are examined, as forecast from outside
        files, only if there is no other error. progress: shows which step is examined, since
        functions of the user may run for long; "" at the end.
        """
        errors: list[FineryError] = []
        lock, nodes = Lock(self._graph.recipe.path), self._graph.nodes.values()
        for node in nodes:
            errors += [*_missing_files(self._graph, node)] or self.examine(node, None)
            errors += wrong_distributions(self._graph.recipe, node, lock)
        try:
            for node in [] if errors else nodes:
                progress(f"checking {node.name} …")
                errors += self.examine(node, Results())
        finally:
            progress("")
        return errors

    def examine(self, node: Node, results: Results | None) -> list[FineryError]:
        """The errors of a step and of those in it, if more is known of an input that they read.

        An error is at the setting that it names. results: what is built; None: look at outside
        files only.
        """
        errors: list[FineryError] = []
        outer = self._graph.with_files(node) if node.chosen_by else node.step  # a variant's, if so
        inputs: dict[str, list[Source]] = {}
        for source in node.sources:
            inputs.setdefault(source.field, []).append(source)
        for path, step, sources in _with_sources(outer, inputs):
            columns = {f.column_of for f in type(step).__finery_fields__.values()} - {""}
            if type(step).examine is Step.examine and not columns:
                continue
            knowledge = {name: self._knowledge(of, results) for name, of in sources.items()}
            examined, read = self._read.get((node.name, path), (None, {}))
            if examined is step and all(knowledge.get(name) == read[name] for name in read):
                continue
            with tempfile.TemporaryDirectory(prefix="finery-check-") as folder:
                job = job_without_run(node, Path(folder))
                look = _PlannedLook(step, job, self._graph, results, sources)
                try:
                    answers = {name: look.columns(name) for name in sorted(columns)}
                    check_columns(step, {name: of.value for name, of in answers.items() if of})
                    step.examine(look)
                except BlobsLost:
                    raise
                except FineryError as error:
                    errors.append(_placed(self._graph, node, error, path))
                except Exception as error:  # a plugin's code can raise anything
                    failure = PluginError.in_method(error, step, "examine")
                    errors.append(_placed(self._graph, node, failure, path))
            self._read[node.name, path] = step, {n: knowledge.get(n) for n in look.inputs_read}
        return each_once(errors)

    def _knowledge(self, sources: Sequence[Source], results: Results | None) -> Knowledge:
        if results is None:
            return None
        built: set[str] = set()
        pending, seen = [*sources], {(s.step, s.output) for s in sources}
        while pending:
            source = pending.pop()
            artifact = results.artifact(source.step, source.output)
            if artifact is not None:
                built.add(artifact.digest)
                continue
            before = self._graph.nodes[source.step].sources
            pending += [s for s in before if (s.step, s.output) not in seen]
            seen |= {(s.step, s.output) for s in before}
        return frozenset(built)


class _PlannedLook(Look):
    """What is known of a step's inputs in a plan: as built, or else as promised and forecast.

    inputs_read: the inputs that were asked about. results: None knows nothing of any.
    """

    def __init__(
        self, step: Step, job: Job, graph: Graph, results: Results | None,
        sources: Mapping[str, Sequence[Source]],
    ) -> None:  # fmt: skip
        super().__init__(job)
        self.inputs_read: set[str] = set()
        self._step = step
        self._results = results or Results()
        self._forecasts = Forecasts(graph, self._results)
        self._sources = {} if results is None else sources

    def meta(self, name: str) -> "Known[Any] | Unknown":
        """As built, else as promised, which placeholders have."""
        built, value = self._built(name), getattr(self._step, name)
        promised = value if isinstance(value, list) else [value]
        metas = [b if b is not None else p.meta for b, p in zip(built, promised, strict=False)]
        if not any(metas):
            return UNKNOWN
        return Known(metas if isinstance(value, list) else metas[0], None not in built)

    def rows(self, name: str, limit: int) -> "Known[list[Row]] | Unknown":
        """As built, else as forecast."""
        built = self._built(name)
        samples = [self._forecasts.sample(s, limit) for s in self._sources.get(name, ())]
        known = [sample for sample in samples if sample is not None]
        rows = list(islice(chain.from_iterable(known), limit))
        is_whole = all(meta is not None for meta in built) and len(rows) < limit
        return Known(rows, is_whole) if known else UNKNOWN

    def columns(self, name: str) -> "Known[frozenset[str]] | Unknown":
        """As built, else as forecast."""
        built = self._built(name)
        columns = [self._forecasts.columns(source) for source in self._sources.get(name, ())]
        known = [names for names in columns if names is not None]
        if not known or len(known) < len(columns):
            return UNKNOWN
        return Known(frozenset().union(*known), None not in built)

    def _built(self, name: str) -> list[dict[str, Any] | None]:
        """The facts about each source of an input; None if it isn't built."""
        self.inputs_read.add(name)
        return [self._results.meta(s.step, s.output) for s in self._sources.get(name, ())]


def check_presence(graph: Graph) -> list[FineryError]:
    """An error for each missing outside file, and each wrong name in `packages=` of a step type."""
    lock, nodes = Lock(graph.recipe.path), graph.nodes.values()
    errors: list[FineryError] = [e for node in nodes for e in _missing_files(graph, node)]
    return errors + [e for node in nodes for e in wrong_distributions(graph.recipe, node, lock)]


def _with_sources(
    step: Step, sources: Mapping[str, Sequence[Source]], path: str = ""
) -> Iterator[tuple[str, Step, Mapping[str, Sequence[Source]]]]:
    """(path, step, input → its sources) of a step and of the steps inside it.

    A step inside another also has the rows that this one gives it. A model may be another then.
    """
    yield path, step, sources
    slots = slots_of(step)
    for inside, within, info in nested_steps(step):
        given = {
            field: sources.get(name, ())
            for field, name in info.given.items()
            if name in slots and issubclass(slots[name].accepts.kind, Dataset)
        }
        prefix = f"{inside}."
        own = {n.removeprefix(prefix): of for n, of in sources.items() if n.startswith(prefix)}
        yield from _with_sources(within, given | own, f"{path}.{inside}" if path else inside)


def _placed(graph: Graph, node: Node, error: FineryError, path: str) -> FineryError:
    """The error at the setting that it names, with that line of the recipe; else as it is."""
    keys = [*(path.split(".") if path else []), *(error.where or "").split(".")]
    if error.where is None or not has_setting(node.step, keys):
        error.where = place_of(graph.recipe, node, error.where, path)
        return error
    placed = graph.recipe.error(error.what, (*node.place, *keys), fix=error.fix)
    placed.details += error.details
    return placed


def _missing_files(graph: Graph, node: Node) -> Iterator[FineryError]:
    """An error for each setting without files. The other settings get their files."""
    for name, files in files_of(node.step).items():
        try:
            paths = find_files(graph.recipe, (*node.place, *name.split(".")), files)
        except FineryError as error:
            yield error
        else:
            give_files(node.step, {name: paths})
