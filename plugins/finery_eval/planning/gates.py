"""The note `lucky-gate`: a score that a worse model reaches by luck on so few rows."""

import math
from collections.abc import Iterator

from finery import About, Graph, Metrics, Node, Note, Results, UsageError
from finery_eval.evaluator import Judge
from finery_eval.planning.estimate import rows_of
from finery_eval.requirements import Requirement, wanted

LUCKY_GATE = "lucky-gate"
WORSE = 0.1
"""How much worse a model is that mustn't pass by luck."""
CHANCE = 0.05
MOST_ROWS = 2_000
"""From here on, luck is no more than a few points."""
KINDS = {
    LUCKY_GATE: About(
        when="`require:` compares a score with a number on so few rows that a model which is 10 "
        "points worse passes with a probability of more than 5 %",
        why="A score on a few rows is partly luck: a share from 20 rows is often 10 points too "
        "high or too low. A gate that luck passes doesn't hold back a bad model. Judge more rows, "
        "or require a test: `significantly better than` looks at the interval.",
    )
}


def notes_on_gates(graph: Graph, results: Results) -> Iterator[Note]:
    """A note for each gate of a recipe that luck passes."""
    for node in graph.nodes.values():
        if isinstance(node.step, Judge) and node.step.require:
            yield from _notes(graph, results, node)


def _notes(graph: Graph, results: Results, node: Node) -> Iterator[Note]:
    rows = rows_of(graph, results, node)
    assert isinstance(node.step, Judge)
    try:
        gates = wanted(node.step)
    except UsageError:
        return  # an error of its own
    if rows is None or not 0 < rows.rows < MOST_ROWS:
        return
    models = [model.name for model in node.step.models]
    for name, gate in zip(node.step.require, gates, strict=True):
        if not isinstance(gate, Requirement) or gate.of or gate.op[0] != ">":
            continue
        if gate.subject[0] not in models:  # e.g. a judge, which isn't measured on these rows
            continue
        if gate.subject[1] in node.step.unbounded():  # no share, so no binomial distribution
            continue
        chance, worse = chance_to_pass(gate.number, rows.rows)
        if chance <= CHANCE or _is_shown(results, node, gate):
            continue
        yield Note(
            name=LUCKY_GATE,
            text=f"{node.name} requires {name} {gate.text} on {rows}: a model that is right in "
            f"{100 * worse:.0f} % of all cases passes with a probability of {100 * chance:.0f} %"
            f"{_seen(results, node, gate)}",
            fix=f'judge {enough_rows(gate.number):,} rows or more, or write {name}: "significantly '
            f'better than {gate.number:g}"',
            step=node.name,
            place=(*node.place, "require", name),
        )


def chance_to_pass(bound: float, n: int) -> tuple[float, float]:
    """(probability, its accuracy) that a model which is `WORSE` than a bound reaches it on n rows.

    The upper tail of the binomial distribution.
    """
    accuracy = max(0.0, bound - WORSE)
    least = math.ceil(bound * n - 1e-9)
    if accuracy <= 0:
        return float(least <= 0), 0.0
    logs = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(accuracy) + (n - k) * math.log1p(-accuracy)
        for k in range(least, n + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs))), accuracy


def enough_rows(bound: float) -> int:
    """The rows from which such a model seldom passes, to the next ten."""
    return next(
        (n for n in range(10, MOST_ROWS, 10)
         if all(chance_to_pass(bound, more)[0] <= CHANCE for more in range(n, n + 10))),
        MOST_ROWS,
    )  # fmt: skip


def _is_shown(results: Results, node: Node, gate: Requirement) -> bool:
    """Whether the step is built, and the whole interval is above the bound."""
    interval = _interval(results, node, gate)
    return interval is not None and interval[0] >= gate.number


def _seen(results: Results, node: Node, gate: Requirement) -> str:
    interval = _interval(results, node, gate)
    if interval is None:
        return ""
    low, high = interval
    return f". The interval of its score is {100 * low:.0f} to {100 * high:.0f} %"


def _interval(results: Results, node: Node, gate: Requirement) -> tuple[float, float] | None:
    metrics = results.artifact(node.name)
    if not isinstance(metrics, Metrics):
        return None
    model, metric = gate.subject
    interval = metrics.report()["intervals"].get(model, {}).get(metric)
    return None if interval is None else (interval[0], interval[1])
