"""Notes on gates that a bad model passes by luck."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finery import Count, Inputs, Metrics, Note, UsageError
from finery.advanced import About
from finery_eval.estimate import rows_of
from finery_eval.requirements import Requirement

if TYPE_CHECKING:
    from finery_eval.evaluator import Judge

LUCKY_GATE = "lucky-gate"
WORSE_BY = 0.1
"""How much worse the model is that must not pass by luck."""
CHANCE = 0.05
MOST_ROWS = 2_000
"""Number of rows from which on luck is worth no more than a few points."""
LUCK = {
    LUCKY_GATE: About(
        when="`require:` compares a score with a number on so few rows that a model which is 10 "
        "points worse passes with a probability of more than 5 %",
        why="A score on a few rows is partly luck: a share from 20 rows is often 10 points too "
        "high or too low. A gate that a bad model can pass by luck doesn't stop it. Judge more "
        "rows, or require a test: `significantly better than` uses the interval.",
    ),
}


def notes_on_gates(step: "Judge", inputs: Inputs) -> Iterator[Note]:
    """A note for each requirement that luck meets."""
    rows = rows_of(inputs)
    try:
        gates = step.requirements()
    except UsageError:
        return  # an error of its own
    if rows is None or not 0 < rows.rows < MOST_ROWS:
        return
    models = [model.name for model in step.models]
    metrics = inputs.results.artifact(inputs.name)
    report = metrics.report() if isinstance(metrics, Metrics) else None
    for name, gate in zip(step.require, gates, strict=True):
        if not isinstance(gate, Requirement) or gate.of or gate.op[0] != ">":
            continue
        model, metric = gate.subject
        if model not in models:  # e.g. a judge, which isn't measured on these rows
            continue
        if metric in step.unbounded():  # no share, so no binomial distribution
            continue
        judged = Count(report.rows_of(model, metric)) if report else rows
        if not judged.rows:
            continue
        chance, worse = chance_to_pass(gate.number, judged.rows)
        score = report.score(model, metric) if report else None
        ends = score.interval if score else None
        if chance <= CHANCE or (ends and ends[0] >= gate.number):
            continue
        shares = " to ".join(f"{100 * end:.0f}" for end in ends or ())
        seen = f". The interval of its score is {shares} %" if ends else ""
        yield Note(
            name=LUCKY_GATE,
            text=f"{inputs.name} requires {name} {gate.text} on {judged}: a model that is right in "
            f"{100 * worse:.0f} % of all cases passes with a probability of {100 * chance:.0f} %"
            f"{seen}",
            fix=f'judge {enough_rows(gate.number):,} rows or more, or write {name}: "significantly '
            f'better than {gate.number:g}"',
            place=(*inputs.node.place, "require", name),
        )


def chance_to_pass(bound: float, n: int) -> tuple[float, float]:
    """(probability, its accuracy) that a model `WORSE_BY` below a bound reaches it on n rows.

    The upper tail of the binomial distribution.
    """
    accuracy = max(0.0, bound - WORSE_BY)
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
