"""Notes on recipes, and estimates."""

from collections.abc import Iterator, Sequence
from statistics import median

from finery import Estimate, Forecasts, Graph, Node, Note, Results
from finery.util.text import rough_duration
from finery_ngram.steps import Train

USE = "ngram.train"
HIGH_ORDER, MANY_ROWS = 5, 10_000
SECONDS_A_ROW = 1e-4
"""Until the project has trained once."""


def notes(graph: Graph, results: Results) -> Iterator[Note]:
    """A note on each training whose order is too high for its rows."""
    for node in graph.nodes.values():
        step, rows = node.step, _rows(graph, results, node)
        if isinstance(step, Train) and step.order >= HIGH_ORDER and 0 < rows < MANY_ROWS:
            text = f"order {step.order} for {rows:,} rows"
            yield Note(
                name="ngram-order", text=text, fix="order: 3", step=node.name,
                place=(*node.place, "order"),
            )  # fmt: skip


def estimates(graph: Graph, results: Results, steps: Sequence[str]) -> Iterator[Estimate]:
    """How long each training will take, by those before it."""
    for node in (graph.nodes[name] for name in steps):
        step, rows = node.step, _rows(graph, results, node)
        if isinstance(step, Train) and rows:
            passes = f"{step.epochs} pass" if step.epochs == 1 else f"{step.epochs} passes"
            seconds = rows * step.epochs * _seconds_a_row(results)
            time = rough_duration(seconds) if seconds >= 1 else "less than a second"
            line = f"{rows:,} rows, {passes}: {time}"
            yield Estimate(step=node.name, lines=[line], facts={"rows": rows, "seconds": seconds})


def _rows(graph: Graph, results: Results, node: Node) -> int:
    """Rows to learn from; 0 while that isn't known."""
    names = node.inputs_as("train") if isinstance(node.step, Train) else []
    counts = [Forecasts(graph, results).count(s) for s in node.sources if s.field in names]
    return sum(count.rows for count in counts if count is not None)


def _seconds_a_row(results: Results) -> float:
    speeds = [
        past.seconds / (past.meta["rows"] * past.settings["epochs"])
        for past in results.history(USE)
        if past.meta.get("rows")
    ]
    return median(speeds) if speeds else SECONDS_A_ROW
