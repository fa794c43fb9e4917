"""Statements about evaluators before a build: lines of `finery plan`, and notes of `finery check`.

Input: a recipe's graph and its results so far. Evaluators don't import this, so it isn't in any
key.
"""

import math
from collections.abc import Callable, Iterator, Sequence

from finery import (
    About,
    Count,
    Dataset,
    Estimate,
    Graph,
    Metrics,
    Model,
    Node,
    Note,
    Results,
    UsageError,
    base_models,
    count_rows,
    evaluates,
    sources_of,
    trains,
)
from finery_eval.evaluator import Judge
from finery_eval.requirements import Requirement, wanted
from finery_eval.stats import DISAGREEMENT, detectable_difference, wilson

LUCKY_GATE = "lucky-gate"
WORSE = 0.1
"""How much worse the model is that must not pass by luck."""
CHANCE = 0.05
MOST_ROWS = 2_000
"""Number of rows from which on luck is worth no more than a few points."""
NO_CHEAP_BASELINE = "no-cheap-baseline"
ABOUT = {
    NO_CHEAP_BASELINE: About(
        when="an evaluator of labels judges a trained model, and no evaluator of the same rows "
        "judges a cheap baseline such as `baseline.linear`",
        why="A linear model on words trains in seconds and is often better than a language model "
        "that was fine-tuned on a few hundred rows. A score says little unless you know the scores "
        "of such a model, field by field.",
    ),
    LUCKY_GATE: About(
        when="`require:` compares a score with a number on so few rows that a model which is 10 "
        "points worse passes with a probability of more than 5 %",
        why="A score on a few rows is partly luck: a share from 20 rows is often 10 points too "
        "high or too low. A gate that a bad model can pass by luck doesn't stop it. Judge more "
        "rows, or require a test: `significantly better than` uses the interval.",
    ),
}


# -- what test rows can show -----------------------------------------------------------------------


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
        f"{rows} can detect differences of {100 * difference:.0f} points (at the 5 % level, "
        f"with 80 % power, if the models differ on {100 * DISAGREEMENT:.0f} % of the rows)"
    )


# -- trained classifiers without a cheap baseline --------------------------------------------------


def notes_on_baselines(graph: Graph) -> Iterator[Note]:
    """A note for the first evaluator of some rows that a baseline is missing from."""
    judges = [node for node in graph.nodes.values() if evaluates(node)]
    covered = {ref for node in judges if _judged(graph, node, _is_cheap) for ref in _refs(node)}
    for node in judges:
        if type(node.step).__spec__.task != "classification" or covered & set(_refs(node)):
            continue
        trained = _judged(graph, node, _is_trained)
        if not trained:
            continue
        covered |= set(_refs(node))
        learned = _learned_refs(graph, trained[0])
        yield Note(
            name=NO_CHEAP_BASELINE,
            text=f"{node.name} compares {trained[0]} with no cheap baseline",
            fix=f"linear: {{use: baseline.linear, rows: {learned}}} under `models`, and add "
            f"`linear` to the models of {node.name}",
            step=node.name,
            place=(*node.place, "models"),
        )


def _refs(node: Node) -> list[str]:
    return [source.ref for source in sources_of(node, Dataset)]


def _judged(graph: Graph, judge: Node, wanted: Callable[[Graph, str], bool]) -> list[str]:
    """The models of an evaluator that are as wanted."""
    steps = [source.step for source in sources_of(judge, Model)]
    return [step for step in steps if wanted(graph, step)]


def _is_cheap(graph: Graph, step: str) -> bool:
    """Whether its step type declares that it is a baseline (`is_baseline`)."""
    return bool(getattr(type(graph.nodes[step].step), "is_baseline", False))


def _is_trained(graph: Graph, step: str) -> bool:
    """Whether a model, or one that it derives from, was trained."""
    return _training(graph, step) is not None


def _training(graph: Graph, step: str) -> Node | None:
    node = graph.nodes[step]
    if trains(node):
        return node
    return next(
        (found for s in base_models(node) if (found := _training(graph, s.step)) is not None), None
    )


def _learned_refs(graph: Graph, step: str) -> str:
    """The names of a training's rows, as a recipe writes them."""
    node = _training(graph, step)
    refs = [s.ref for s in node.sources if s.role == "train"] if node is not None else []
    return refs[0] if refs else "split.train"


# -- gates that luck passes ------------------------------------------------------------------------


def notes_on_gates(graph: Graph, results: Results) -> Iterator[Note]:
    """A note for each gate of a recipe that luck passes."""
    for node in graph.nodes.values():
        if isinstance(node.step, Judge) and node.step.require:
            yield from _of_gates(graph, results, node)


def _of_gates(graph: Graph, results: Results, node: Node) -> Iterator[Note]:
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
    """The number of rows at which such a model rarely passes, rounded up to tens."""
    return next(
        (n for n in range(10, MOST_ROWS, 10)
         if all(chance_to_pass(bound, more)[0] <= CHANCE for more in range(n, n + 10))),
        MOST_ROWS,
    )  # fmt: skip


def _is_shown(results: Results, node: Node, gate: Requirement) -> bool:
    """Whether the step is built, and its interval is completely above the bound."""
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
