"""The tables of a report, which any viewer can show."""

from collections.abc import Sequence
from typing import NamedTuple

from finery.rows.report import Comparison, Difference, Report, ReportTable
from finery_eval import stats
from finery_eval.measure import between

HOLM = "p (Holm)"
INTERVAL = ("95 % CI low", "95 % CI high")
"""The columns of an interval, after its number."""
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"


def comparison_tables(
    comparisons: Sequence[Comparison], metric: str = "accuracy", unit: str = "share"
) -> list[ReportTable]:
    """The table of the comparisons; empty if there is only one model. unit: of the metric."""
    if not comparisons:
        return []
    first = comparisons[0]
    base, p_value = first.baseline, f"p ({first.method})"
    differences = [f"{metric} (points)" if unit == "share" else metric, *INTERVAL]
    facts = {"only_model": "only this right", "only_baseline": f"only {base} right",
             "p_value": p_value, "p_holm": HOLM}  # fmt: skip
    named = {fact: column for fact, column in facts.items() if getattr(first, fact) is not None}
    unit = "difference" if unit == "share" else unit
    units = dict.fromkeys(differences, unit) if unit else {}
    units |= dict.fromkeys((p_value, HOLM) if "p_holm" in named else (p_value,), "p")
    rows = [
        [c.model, c.value, *c.interval, *(getattr(c, fact) for fact in named)] for c in comparisons
    ]
    columns = ["model", *differences, *named.values()]
    return [ReportTable(f"Compared with {base}", columns, rows, units=units)]


def baseline_tables(report: Report) -> list[ReportTable]:
    """Whether each other model beats each cheap baseline in each metric: a table for each pair."""
    tables, scores = [], report.scores
    points = ["points", *INTERVAL]
    for baseline in report.baselines:
        columns = ["metric", "score", baseline, *points, HOLM, "verdict"]
        units = {"score": "share", baseline: "share", HOLM: "p"}
        units |= dict.fromkeys(points, "difference")
        for model in scores:
            compared = against(report, report.headline, model, baseline)
            if compared and model not in report.baselines:
                rows = [
                    [m, scores[model][m].value, scores[baseline][m].value,
                     d.value, *d.interval, p, verdict]
                    for m, d, p, verdict in compared
                ]  # fmt: skip
                title = f"{model} against the baseline {baseline}"
                tables.append(ReportTable(title, columns, rows, units=units))
    return tables


class Against(NamedTuple):
    """A metric of a model against a baseline. verdict: at the 5 % level."""

    metric: str
    difference: Difference
    p_holm: float
    verdict: str


def against(report: Report, metrics: Sequence[str], model: str, baseline: str) -> list[Against]:
    """The metrics by which a report compares a model with a baseline.

    The p-values are adjusted for their number (Holm 1979). Where the report compares the two by the
    metric that decides, its p-value is the one there, which is adjusted for the number of models,
    and only the others are adjusted for theirs.
    """
    differences = between(report.pairs, model, baseline)
    shown_differences = {metric: differences[metric] for metric in metrics if metric in differences}
    decided = {
        next(iter(shown_differences)): c.p_value if c.p_holm is None else c.p_holm
        for c in report.comparisons
        if shown_differences and (c.model, c.baseline) == (model, baseline)
    }
    undecided = [metric for metric in shown_differences if metric not in decided]
    adjusted = stats.holm([shown_differences[metric].p_value for metric in undecided])
    p_values = decided | dict(zip(undecided, adjusted, strict=True))
    return [
        Against(metric, d, p := p_values[metric], verdict_of(d.value, p))
        for metric, d in shown_differences.items()
    ]


def verdict_of(difference: float, p_value: float) -> str:
    """What a test shows. The words and colours of every comparison follow from it."""
    if p_value >= stats.LEVEL:
        return NOT_SHOWN
    return BETTER if difference > 0 else WORSE
