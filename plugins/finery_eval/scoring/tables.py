"""The tables of `metrics.json`, which any viewer can show."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Unit = Literal["share", "difference", "p"]
"""What numbers of a table are: a share from 0 to 1, a difference of two shares, a p-value."""
HOLM = "p (Holm)"


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
