"""Predicts the rows of a recipe before they are built, by the `Forecast`s of its steps."""

from collections.abc import Iterable
from itertools import chain, islice

from finery.artifact.kinds import Dataset
from finery.plugin.history import Results
from finery.recipe.graph import Graph, Node, Source
from finery.rows.row import Row
from finery.step.inspect import slots_of
from finery.step.interfaces import Asked, Count, Forecast, interface
from finery.step.look import columns_of

Output = tuple[str, str]
"""(step, output)."""


class Forecasts:
    """What is known about rows and requests of a recipe, whether they are built or not.

    For a built output, the artifact counts. Otherwise the step type predicts it, see
    `finery.Forecast`. Without a forecast, it stays unknown.
    """

    def __init__(self, graph: Graph, results: Results) -> None:
        self._graph = graph
        self._results = results
        self._counts: dict[Output, Count | None] = {}

    def count(self, source: Source) -> Count | None:
        """The number of rows of an input: as built, otherwise by the forecasts of earlier steps."""
        output = source.step, source.output
        if output not in self._counts:
            meta = self._results.meta(*output)
            if meta is not None:
                self._counts[output] = Count(int(meta["rows"])) if "rows" in meta else None
            else:
                node = self._graph.nodes[source.step]
                forecast = self._graph.forecast(node)
                self._counts[output] = (
                    None if forecast is None else forecast.rows(source.output, self._taken(node))
                )
        return self._counts[output]

    def sample(self, source: Source, limit: int) -> Iterable[Row] | None:
        """At most `limit` rows of an input, or similar rows; None if nothing is known about them.

        Rows that aren't built yet may look as in their source, e.g. records of a file.
        """
        rows = self._sample(source, limit)
        return None if rows is None else islice(rows, limit)

    def columns(self, source: Source) -> frozenset[str] | None:
        """All columns that rows of an input can have, and the fields of their labels.

        As built, otherwise by the forecasts of earlier steps. None if they aren't known.
        """
        built = self._results.artifact(source.step, source.output)
        if isinstance(built, Dataset):
            return columns_of(built)
        node = self._graph.nodes[source.step]
        forecast = self._graph.forecast(node)
        if forecast is None:
            return None
        declared = forecast.columns()
        if declared is not None:
            return frozenset(declared)
        known = [self.columns(s) for s in node.sources if s.field in forecast.passes()]
        if not known or None in known:
            return None
        return frozenset(chain.from_iterable(columns for columns in known if columns is not None))

    def asked(self, node: Node) -> Asked | None:
        """What a step asks a model, with its files and its built inputs opened.

        None if its type doesn't forecast it. Raises what would stop the step, e.g. a missing file.
        """
        declared = interface(node.step, Forecast)
        if declared is None or type(declared).asks is Forecast.asks:
            return None
        step = self._graph.with_files(node)
        slots, built = slots_of(step), True
        for source in node.sources:
            slot = slots[source.field]
            artifact = self._results.artifact(source.step, source.output)
            if artifact is None:
                built = built and not issubclass(slot.accepts.kind, Dataset)
                continue
            artifact.ref = source.ref if slot.uses_name else ""
            if slot.accepts.many:
                getattr(slot.owner, slot.field)[source.index] = artifact
            else:
                setattr(slot.owner, slot.field, artifact)
        return type(declared)(step).asks(self._taken(node), built=built)

    def _taken(self, node: Node) -> dict[str, list[Count | None]]:
        """Input → the row counts of its sources."""
        taken: dict[str, list[Count | None]] = {}
        for source in node.sources_of(Dataset):
            taken.setdefault(source.field, []).append(self.count(source))
        return taken

    def _sample(self, source: Source, limit: int) -> Iterable[Row] | None:
        built = self._results.artifact(source.step, source.output)
        if isinstance(built, Dataset):
            return built
        node = self._graph.nodes[source.step]
        forecast = self._graph.forecast(node)
        if forecast is None:
            return None
        rows = forecast.sample(limit)
        if rows is not None:
            return rows
        samples = [self._sample(s, limit) for s in node.sources if s.field in forecast.passes()]
        if not samples or None in samples:
            return None
        return chain.from_iterable(sample for sample in samples if sample is not None)
