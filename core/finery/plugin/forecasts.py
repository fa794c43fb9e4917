"""Predicts the rows of a recipe before they are built, by the `Forecast`s of its steps.

For a built output, the artifact counts. Otherwise the step type predicts it, see `finery.Forecast`.
Without a forecast, it stays unknown.
"""

import re
from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

from finery.artifact.kinds import Dataset
from finery.errors import FineryError
from finery.plugin.history import Results
from finery.recipe.files import with_files
from finery.recipe.graph import Graph, Node, Source, sources_of
from finery.rows.row import Row
from finery.step.inspect import slots_of
from finery.step.interfaces import Asked, Count, Forecast, interface, interface_class

Output = tuple[str, str]
"""(step, output)."""
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([MB])(?![A-Za-z0-9])", re.IGNORECASE)


def size_in_name(name: str) -> float | None:
    """The parameters that a model's name states: 4e9 for `Qwen/Qwen3-4B`, 135e6 for `…-135M-…`."""
    size = _SIZE.search(name)
    return float(size[1]) * {"m": 1e6, "b": 1e9}[size[2].lower()] if size else None


def forecast_of(graph: Graph, node: Node) -> "Forecast[Any] | None":
    """The forecast of a step, with its outside files found.

    None if the step type declares none, or if files are missing, which `finery check` and the
    step's key report.
    """
    if not type(node.step).__spec__.forecast:
        return None
    try:
        step = with_files(graph.recipe, node.place, node.step)
    except FineryError:
        return None
    return interface(step, Forecast)


def asked_of(graph: Graph, results: Results, node: Node) -> Asked | None:
    """The requests that a step will send to a model. Opens its files and its built inputs.

    None if its type doesn't declare them. Raises any error that would stop the step, e.g. a missing
    file.
    """
    if not type(node.step).__spec__.forecast:
        return None
    step = with_files(graph.recipe, node.place, node.step)
    slots, built = slots_of(step), True
    for source in node.sources:
        slot, artifact = slots[source.field], results.artifact(source.step, source.output)
        if artifact is None:
            built = built and not issubclass(slot.accepts.kind, Dataset)
            continue
        artifact.ref = source.ref if slot.uses_name else ""
        if slot.accepts.many:
            getattr(slot.owner, slot.field)[source.index] = artifact
        else:
            setattr(slot.owner, slot.field, artifact)
    forecast = interface(step, Forecast)
    return None if forecast is None else forecast.asks(_taken(graph, results, node), built=built)


def forecasts_requests(node: Node) -> bool:
    """Whether a step's type can forecast the requests to one of its models, see `asked_of`."""
    cls = interface_class(type(node.step), Forecast)
    return cls is not None and cls.asks is not Forecast.asks


def count_rows(graph: Graph, results: Results, source: Source) -> Count | None:
    """The number of rows of an input: as built, otherwise by the forecasts of earlier steps."""
    return _count(graph, results, (source.step, source.output), {})


def sample_rows(graph: Graph, results: Results, source: Source, limit: int) -> Iterable[Row] | None:
    """At most `limit` rows of an input, or similar rows; None if nothing is known about them.

    Rows that aren't built yet look as in their source, e.g. records of a file.
    """
    rows = _sample(graph, results, (source.step, source.output), limit)
    return None if rows is None else islice(rows, limit)


def columns_of(graph: Graph, results: Results, source: Source) -> frozenset[str] | None:
    """All columns that rows of an input can have, and the fields of their labels.

    As built, otherwise by the forecasts of earlier steps. None if they aren't known.
    """
    return _columns(graph, results, (source.step, source.output))


def _count(
    graph: Graph, results: Results, output: Output, counts: dict[Output, Count | None]
) -> Count | None:
    """counts: known counts by output, since several inputs may lead to the same rows."""
    if output not in counts:
        meta = results.meta(*output)
        if meta is not None:
            counts[output] = Count(int(meta["rows"])) if "rows" in meta else None
        else:
            counts[output] = _forecast_count(graph, results, output, counts)
    return counts[output]


def _forecast_count(
    graph: Graph, results: Results, output: Output, counts: dict[Output, Count | None]
) -> Count | None:
    node = graph.nodes[output[0]]
    forecast = forecast_of(graph, node)
    if forecast is None:
        return None
    return forecast.rows(output[1], _taken(graph, results, node, counts))


def _taken(
    graph: Graph,
    results: Results,
    node: Node,
    counts: dict[Output, Count | None] | None = None,
) -> dict[str, list[Count | None]]:
    """Input → the row counts of its sources."""
    counts = {} if counts is None else counts
    taken: dict[str, list[Count | None]] = {}
    for source in sources_of(node, Dataset):
        count = _count(graph, results, (source.step, source.output), counts)
        taken.setdefault(source.field, []).append(count)
    return taken


def _sample(graph: Graph, results: Results, output: Output, limit: int) -> Iterable[Row] | None:
    built = results.artifact(*output)
    if isinstance(built, Dataset):
        return built
    node = graph.nodes[output[0]]
    forecast = forecast_of(graph, node)
    if forecast is None:
        return None
    rows = forecast.sample(limit)
    if rows is not None:
        return rows
    passed = [s for s in node.sources if s.field in forecast.passes()]
    samples = [_sample(graph, results, (s.step, s.output), limit) for s in passed]
    if not samples or None in samples:
        return None
    return chain.from_iterable(sample for sample in samples if sample is not None)


def _columns(graph: Graph, results: Results, output: Output) -> frozenset[str] | None:
    built = results.artifact(*output)
    if isinstance(built, Dataset):
        return frozenset(built.meta["columns"]) | _label_fields(built)
    node = graph.nodes[output[0]]
    forecast = forecast_of(graph, node)
    if forecast is None:
        return None
    columns = forecast.columns()
    if columns is not None:
        return frozenset(columns)
    passed = [s for s in node.sources if s.field in forecast.passes()]
    known = [_columns(graph, results, (s.step, s.output)) for s in passed]
    if not known or None in known:
        return None
    return frozenset(chain.from_iterable(columns for columns in known if columns is not None))


def _label_fields(rows: Dataset) -> frozenset[str]:
    """The fields of labels that are objects."""
    if "label" not in rows.meta["columns"]:
        return frozenset()
    labels = (row.get("label") for row in rows)
    return frozenset(name for label in labels if isinstance(label, dict) for name in label)
