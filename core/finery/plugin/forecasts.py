"""What is known of a recipe before it is built: rows, requests and models, built or forecast."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain, islice

from finery.artifact.kinds import Artifact, Dataset
from finery.errors import FineryError
from finery.plugin.history import Results
from finery.recipe.graph import Graph, Node, Source
from finery.rows.row import Row
from finery.step.forecast import Count, Forecast, Requests, value_of
from finery.step.inspect import slots_of
from finery.step.look import columns_of
from finery.step.step import Step, is_overridden

Output = tuple[str, str]
"""(step, output)."""


class Forecasts:
    """What is known about rows and requests of a recipe, whether they are built or not.

    For a built output, the artifact counts. Otherwise the step type predicts it, see
    `Step.forecast`. Without a forecast, it stays unknown.
    """

    def __init__(self, graph: Graph, results: Results | None = None) -> None:
        self.graph = graph
        self.results = results or Results()
        self._counts: dict[Output, Count | None] = {}
        self._forecasts: dict[str, Forecast] = {}

    def forecast(self, node: Node) -> Forecast:
        """The forecast of a step, with its outside files found.

        Empty if the step type has none, or if files are missing, which `finery check` and the
        step's key report.
        """
        if node.name not in self._forecasts:
            step = None
            if is_overridden(type(node.step), "forecast"):
                with suppress(FineryError):
                    step = self.graph.with_files(node)
            forecast = Forecast() if step is None else step.forecast(Inputs(self, node))
            self._forecasts[node.name] = forecast
        return self._forecasts[node.name]

    def count(self, source: Source) -> Count | None:
        """The number of rows of an input: as built, otherwise by the forecasts of earlier steps."""
        output = source.step, source.output
        if output not in self._counts:
            meta = self.results.meta(*output)
            if meta is not None:
                self._counts[output] = Count(int(meta["rows"])) if "rows" in meta else None
            else:
                forecast = self.forecast(self.graph.nodes[source.step])
                self._counts[output] = forecast.count(source.output)
        return self._counts[output]

    def sample(self, source: Source, limit: int) -> Iterable[Row] | None:
        """At most `limit` rows of an input, or similar rows; None if nothing is known about them.

        Rows that aren't built yet may look as in their source, e.g. records of a file.
        """
        rows = self._sample(source)
        return None if rows is None else islice(rows, limit)

    def _sample(self, source: Source) -> Iterable[Row] | None:
        built = self.results.artifact(source.step, source.output)
        if isinstance(built, Dataset):
            return built
        node = self.graph.nodes[source.step]
        forecast = self.forecast(node)
        rows = value_of(forecast.sample)
        if rows is not None:
            return rows
        samples = [self._sample(s) for s in node.sources if s.field in forecast.passes]
        if not samples or None in samples:
            return None
        return chain.from_iterable(sample for sample in samples if sample is not None)

    def columns(self, source: Source) -> frozenset[str] | None:
        """All columns that rows of an input can have, and the fields of their labels.

        As built, otherwise by the forecasts of earlier steps. None if they aren't known.
        """
        built = self.results.artifact(source.step, source.output)
        if isinstance(built, Dataset):
            return columns_of(built)
        node = self.graph.nodes[source.step]
        forecast = self.forecast(node)
        declared = value_of(forecast.columns)
        if declared is not None:
            return frozenset(declared)
        known = [self.columns(s) for s in node.sources if s.field in forecast.passes]
        if not known or None in known:
            return None
        return frozenset(chain.from_iterable(columns for columns in known if columns is not None))

    def requests(self, node: Node) -> Requests | None:
        """What a step asks a model, with its files and its built inputs opened.

        None if its type doesn't forecast it. Raises what would stop the step, e.g. a missing file.
        """
        if not is_overridden(type(node.step), "forecast"):
            return None
        inputs = Inputs(self, node)
        return value_of(inputs.opened.forecast(inputs).requests)


class Inputs:
    """What is known of a step before it runs: of its inputs, built or not, and of earlier builds.

    name: of the step in the recipe.
    """

    def __init__(self, forecasts: Forecasts, node: Node) -> None:
        self.forecasts = forecasts
        self.node = node
        self.name = node.name
        self.graph = forecasts.graph
        self.results = forecasts.results

    def sources(self, *fields: str) -> list[Source]:
        """The steps that these inputs name."""
        return [source for source in self.node.sources if source.field in fields]

    def count(self, *fields: str) -> Count | None:
        """The rows of these inputs together; None while one of them isn't counted."""
        counts = [self.forecasts.count(source) for source in self.sources(*fields)]
        known = [count for count in counts if count is not None]
        if not counts or len(known) < len(counts):
            return None
        rows, exact = sum(count.rows for count in known), all(count.exact for count in known)
        return Count(rows, exact)

    def sample(self, field: str, limit: int) -> Iterable[Row] | None:
        """At most `limit` rows of an input; None if some aren't known. See `Forecasts.sample`."""
        samples = [self.forecasts.sample(source, limit) for source in self.sources(field)]
        known = [sample for sample in samples if sample is not None]
        if len(known) < len(samples):
            return None
        return islice(chain.from_iterable(known), limit)

    def artifacts(self, *fields: str) -> list[Artifact | None]:
        """What these inputs name, as built; None for one that isn't."""
        sources: Sequence[Source] = self.sources(*fields)
        return [self.results.artifact(source.step, source.output) for source in sources]

    @cached_property
    def are_built(self) -> bool:
        """Whether all data sets that the step takes are built."""
        made = (self.results.artifact(s.step, s.output) for s in self.node.sources_of(Dataset))
        return all(artifact is not None for artifact in made)

    @cached_property
    def opened(self) -> Step:
        """The step with its files, and with those of its inputs that are built.

        Raises a `FineryError` for a missing file.
        """
        step = self.graph.with_files(self.node)
        slots = slots_of(step)
        for source in self.node.sources:
            slot = slots[source.field]
            artifact = self.results.artifact(source.step, source.output)
            if artifact is None:
                continue
            artifact.ref = source.ref if slot.uses_name else ""
            if slot.accepts.many:
                getattr(slot.owner, slot.field)[source.index] = artifact
            else:
                setattr(slot.owner, slot.field, artifact)
        return step
