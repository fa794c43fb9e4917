"""The tables of `metrics.json`, which any viewer can show."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from finery_eval import stats

Unit = Literal["share", "difference", "p"]
"""What numbers of a table are: a share from 0 to 1, a difference of two shares, a p-value."""
HOLM = "p (Holm)"
LEVEL = 0.05
BETTER, WORSE, NOT_SHOWN = "better", "worse", "not shown"


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    units: Mapping[str, Unit] | None = None,
    model: str = "",
) -> dict[str, Any]:
    """A table that any viewer of `Metrics` can show: cells are text, numbers or None.

    units: column → what its numbers are. model: the one that the table is about, if it is one.
    """
    cells = [list(row) for row in rows]
    about = {"units": dict(units or {}), **({"model": model} if model else {})}
    return {"title": title, "columns": list(columns), "rows": cells, **about}


def comparison_tables(
    comparisons: Sequence[Mapping[str, Any]], test: str = "McNemar, exact"
) -> list[dict[str, Any]]:
    """The table of the comparisons; empty where there is only one model. test: of the p-value."""
    if not comparisons:
        return []
    base = comparisons[0]["baseline"]
    differences = ["accuracy (points)", "95 % CI low", "95 % CI high"]
    counts, p_value = ["only this right", f"only {base} right"], f"p ({test})"
    units: dict[str, Unit] = {**dict.fromkeys(differences, "difference"), p_value: "p"}
    rows = [
        [
            c["model"],
            c["difference"],
            *c["interval"],
            c["only_model"],
            c["only_baseline"],
            c["p_value"],
        ]
        for c in comparisons
    ]
    columns = ["model", *differences, *counts, p_value]
    if "p_holm" in comparisons[0]:
        columns.append(HOLM)
        units[HOLM] = "p"
        rows = [[*row, c["p_holm"]] for row, c in zip(rows, comparisons, strict=True)]
    return [table(f"Compared with {base}", columns, rows, units=units)]


def baseline_tables(
    pairs: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, float]],
    baselines: Sequence[str],
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    """Whether each other model beats each cheap baseline in each metric; a table for a pair.

    The p-values of a table are adjusted for their number (Holm 1979).
    """
    tables = []
    for baseline in baselines:
        for model in scores:
            found = {} if model in baselines else between(pairs, model, baseline)
            shown = {metric: found[metric] for metric in metrics if metric in found}
            if shown:
                title = f"{model} against the baseline {baseline}"
                tables.append(_against(title, shown, scores[model], scores[baseline], baseline))
    return tables


def between(
    pairs: Sequence[Mapping[str, Any]], model: str, other: str
) -> dict[str, stats.Difference]:
    """Metric → a model minus another one, whichever of them comes first."""
    for pair in pairs:
        if {pair["model"], pair["baseline"]} == {model, other}:
            sign = 1 if pair["model"] == model else -1
            return {metric: _signed(facts, sign) for metric, facts in pair["metrics"].items()}
    return {}


def _signed(facts: Mapping[str, Any], sign: int) -> stats.Difference:
    low, high = sorted(sign * end for end in facts["interval"])
    return stats.Difference(sign * facts["difference"], (low, high), facts["p_value"])


def verdict(difference: stats.Difference, p_value: float) -> str:
    """`better`, `worse` or `not shown` to be either, at the 5 % level."""
    if p_value >= LEVEL:
        return NOT_SHOWN
    return BETTER if difference.value > 0 else WORSE


def _against(
    title: str,
    differences: Mapping[str, stats.Difference],
    scores: Mapping[str, float],
    others: Mapping[str, float],
    baseline: str,
) -> dict[str, Any]:
    adjusted = stats.holm([d.p_value for d in differences.values()])
    rows = [
        [metric, scores[metric], others[metric], d.value, *d.interval, p, verdict(d, p)]
        for (metric, d), p in zip(differences.items(), adjusted, strict=True)
    ]
    points = ["points", "95 % CI low", "95 % CI high"]
    columns = ["metric", "score", baseline, *points, HOLM, "verdict"]
    units: dict[str, Unit] = {"score": "share", baseline: "share", HOLM: "p"}
    return table(title, columns, rows, units={**units, **dict.fromkeys(points, "difference")})
