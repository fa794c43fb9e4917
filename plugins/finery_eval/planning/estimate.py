"""What the test rows can show, for `finery plan`: the differences that they can tell apart."""

from collections.abc import Sequence

from finery import Count, Dataset, Estimate, Graph, Node, Results, count_rows, sources_of
from finery_eval.evaluator import Judge
from finery_eval.stats.power import DISAGREEMENT, detectable_difference
from finery_eval.stats.shares import wilson


def estimates(graph: Graph, results: Results, steps: Sequence[str]) -> list[Estimate]:
    """An estimate for each evaluator among the steps whose rows are counted."""
    nodes = [graph.nodes[name] for name in steps]
    counted = [(n, rows_of(graph, results, n)) for n in nodes if isinstance(n.step, Judge)]
    return [_estimate(node, rows) for node, rows in counted if rows is not None and rows.rows]


def rows_of(graph: Graph, results: Results, node: Node) -> Count | None:
    """The rows that an evaluator judges; None if they aren't known yet."""
    counts = [count_rows(graph, results, s) for s in sources_of(node, Dataset) if s.field == "rows"]
    return counts[0] if len(counts) == 1 else None


def _estimate(node: Node, rows: Count) -> Estimate:
    assert isinstance(node.step, Judge)
    difference = detectable_difference(rows.rows)
    facts = {"rows": rows.rows, "detectable_difference": difference}
    if len(node.step.models) > 1:
        return Estimate(step=node.name, lines=[_apart(rows, difference)], facts=facts)
    low, high = wilson(rows.rows / 2, rows.rows)
    text = f"{rows} give a score to within {50 * (high - low):.0f} points (95 % interval)"
    return Estimate(step=node.name, lines=[text], facts=facts)


def _apart(rows: Count, difference: float) -> str:
    if difference >= 1:
        return f"{rows} can't tell any two models apart (at the 5 % level, with 80 % power)"
    return (
        f"{rows} can tell differences of {100 * difference:.0f} points apart (at the 5 % level, "
        f"with 80 % power, if the models differ on {100 * DISAGREEMENT:.0f} % of the rows)"
    )
