"""The tables of `metrics.json`, which any viewer can show."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finery_eval import stats
from finery_eval.measure import MCNEMAR, between

HOLM = "p (Holm)"
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    units: Mapping[str, str] | None = None,
    model: str = "",
) -> dict[str, Any]:
    """A table that any viewer of `Metrics` can show: cells are text, numbers or None.

    units: column → unit of its numbers: `share` from 0 to 1, `likely` for probabilities that may be
    near 1, `difference` of shares, `p` for p-values, `seconds` or `dollars`. model: the only one
    that the table is about, if so.
    """
    cells = [list(row) for row in rows]
    about = {"units": dict(units or {}), **({"model": model} if model else {})}
    return {"title": title, "columns": list(columns), "rows": cells, **about}


def quantity(value: float, unit: str | None = None) -> str:
    """A number to three digits with its unit, `seconds` or `dollars`: `12.3 ms`, `$0.0042`.

    Without a unit, to four digits.
    """
    if unit is None:
        return f"{value:.4g}"
    is_short = unit == "seconds" and abs(value) < 1
    value = float(f"{1000 * value if is_short else value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    text = f"{abs(value):,.{digits}f}"
    text = ("-" if value < 0 else "") + (text.rstrip("0").rstrip(".") if digits else text)
    return (
        f"${text}".replace("$-", "-$")
        if unit == "dollars"
        else f"{text} {'ms' if is_short else 's'}"
    )


def remark(text: str, advice: str = "", *, warning: bool = True) -> dict[str, str]:
    """A remark on the result for `details["remarks"]`, which `show` and `build` print.

    advice: what to do about it. Step types that measure what was forgotten add a `verdict`: the
    answer of a report rests on those that are `lost`.
    """
    return {"text": text, "advice": advice, "severity": "warning" if warning else "info"}


def comparison_tables(
    comparisons: Sequence[Mapping[str, Any]],
    test: str = MCNEMAR,
    metric: str = "accuracy",
    *,
    is_share: bool = True,
    unit: str | None = None,
) -> list[dict[str, Any]]:
    """The table of the comparisons; empty if there is only one model. test: of the p-value.

    unit: of a metric that isn't a share.
    """
    if not comparisons:
        return []
    base, p_value = comparisons[0]["baseline"], f"p ({test})"
    differences = [f"{metric} (points)" if is_share else metric, "95 % CI low", "95 % CI high"]
    facts = {"only_model": "only this right", "only_baseline": f"only {base} right",
             "p_value": p_value, "p_holm": HOLM}  # fmt: skip
    named = {fact: column for fact, column in facts.items() if fact in comparisons[0]}
    unit = "difference" if is_share else unit
    units = dict.fromkeys(differences, unit) if unit else {}
    units |= dict.fromkeys((p_value, HOLM) if "p_holm" in named else (p_value,), "p")
    rows = [
        [c["model"], c["difference"], *c["interval"], *(c[fact] for fact in named)]
        for c in comparisons
    ]
    columns = ["model", *differences, *named.values()]
    return [table(f"Compared with {base}", columns, rows, units=units)]


def baseline_tables(
    details: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Whether each other model beats each cheap baseline in each metric: a table for each pair.

    details: with `baselines`, `pairs` and `headline`.
    """
    baselines, tables = details.get("baselines", ()), []
    points = ["points", "95 % CI low", "95 % CI high"]
    for baseline in baselines:
        columns = ["metric", "score", baseline, *points, HOLM, "verdict"]
        units = {"score": "share", baseline: "share", HOLM: "p"}
        units |= dict.fromkeys(points, "difference")
        for model in scores:
            compared = against(details, details["headline"], model, baseline)
            if compared and model not in baselines:
                rows = [
                    [m, scores[model][m], scores[baseline][m], d.value, *d.interval, p, verdict]
                    for m, d, p, verdict in compared
                ]
                title = f"{model} against the baseline {baseline}"
                tables.append(table(title, columns, rows, units=units))
    return tables


class Against(NamedTuple):
    """A metric of a model against a baseline. verdict: at the 5 % level."""

    metric: str
    difference: stats.Difference
    p_holm: float
    verdict: str


def against(
    details: Mapping[str, Any], metrics: Sequence[str], model: str, baseline: str
) -> list[Against]:
    """The metrics by which `details["pairs"]` compares a model with a baseline.

    The p-values are adjusted for their number (Holm 1979).
    """
    found = between(details.get("pairs", ()), model, baseline)
    shown = {metric: found[metric] for metric in metrics if metric in found}
    adjusted = stats.holm([difference.p_value for difference in shown.values()])
    return [
        Against(metric, d, p, verdict_of(d.value, p))
        for (metric, d), p in zip(shown.items(), adjusted, strict=True)
    ]


def verdict_of(difference: float, p_value: float) -> str:
    """What a test shows. The words and colours of every comparison follow from it."""
    if p_value >= stats.LEVEL:
        return NOT_SHOWN
    return BETTER if difference > 0 else WORSE
