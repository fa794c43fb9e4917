"""Slices: scores of subsets of the rows, by a column, a label, or the length of the prompt."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from finery import DataError
from finery.advanced import did_you_mean
from finery.rows import Row
from finery.rows.answers.reading import as_text
from finery.rows.parts import prompt_text
from finery.rows.report import Slice, Table, values_and_intervals
from finery_eval.measure import Group, scores_of
from finery_eval.tables import table
from finery_eval.verdicts import Verdicts, among

LENGTH = "length"
"""The name for slices by prompt length: thirds of the rows, in characters."""
PARTS = 3
MOST = 20
"""Maximum number of values that get a slice; all rarer values share one."""
OTHER, NONE = "(other)", "(none)"

Slices = Mapping[str, Sequence[int]]
"""Value → the numbers of the rows that have it."""


def check(columns: Collection[str], names: Sequence[str], more: Collection[str]) -> None:
    """Raise `DataError` for a column that no row has. more: names of fields in the answers."""
    allowed = {*columns, LENGTH, *more}
    for name in names:
        if name not in allowed:
            raise _missing(name, allowed)


def _missing(name: str, allowed: Collection[str]) -> DataError:
    meant = did_you_mean(name, sorted(allowed)) or f"write {LENGTH}, or name a column"
    keep = f"; to keep a column of a file in the rows, add keep: [{name}] to the step that reads it"
    return DataError(
        f"no row has the column or field '{name}'",
        where="slices",
        fix=meant if meant.startswith("did you mean") else meant + keep,
    )


def _by_value(rows: Sequence[Row], name: str) -> Slices:
    labels = [row["label"] if isinstance(row.get("label"), dict) else {} for row in rows]
    values = [
        row[name] if name in row else label.get(name)
        for row, label in zip(rows, labels, strict=True)
    ]
    if not any(value is not None for value in values):
        raise _missing(name, columns_of(rows))
    slices: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        slices.setdefault(NONE if value is None else as_text(value), []).append(number)
    if len(slices) <= MOST:
        return dict(sorted(slices.items()))
    frequent = sorted(slices, key=lambda value: (-len(slices[value]), value))
    kept = {value: slices[value] for value in sorted(frequent[:MOST])}
    return {**kept, OTHER: sorted(n for value in frequent[MOST:] for n in slices[value])}


def columns_of(rows: Sequence[Row]) -> set[str]:
    """The columns of the rows, with those of their labels."""
    labels = (row["label"] for row in rows if isinstance(row.get("label"), dict))
    return {name for row in rows for name in row} | {name for label in labels for name in label}


def _by_length(rows: Sequence[Row]) -> Slices:
    """Thirds of the rows. Rows of the same length stay together, so there may be fewer slices."""
    lengths = [len(prompt_text(row)) for row in rows]
    ordered = sorted(lengths)
    ends = [ordered[len(rows) * part // PARTS - 1] for part in range(1, PARTS)]
    ends = list(dict.fromkeys(end for end in ends if end < ordered[-1]))
    slices: dict[str, list[int]] = {}
    lowest = ordered[0]
    for end in [*ends, ordered[-1]]:
        name = f"{lowest:,} to {end:,} characters"
        slices[name] = [i for i, length in enumerate(lengths) if lowest <= length <= end]
        lowest = min((length for length in ordered if length > end), default=end)
    return slices


def slices_of(
    rows: Sequence[Row], verdicts: Verdicts, names: Sequence[str], groups: Sequence[Group] | None
) -> dict[str, dict[str, Slice]]:
    """Column → value → each model's scores on the rows that have it.

    The fields of an expected answer, as the evaluator read it, count as columns of its row. Raises
    `DataError` for a column that no row has.
    """
    judged = next(iter(verdicts.judged.values()))
    expected = [verdict.facts.get("expected") for verdict in judged]
    columns = [
        {**fields, **row} if isinstance(fields, dict) else row
        for row, fields in zip(rows, expected, strict=True)
    ]
    slices: dict[str, dict[str, Slice]] = {}
    for name in names:
        slices[name] = {}
        values = _by_length(columns) if name == LENGTH else _by_value(columns, name)
        for value, numbers in values.items():
            measures = verdicts.measures(among(groups, numbers), numbers)
            scores = scores_of(list(verdicts.judged), measures)
            slices[name][value] = Slice(len(numbers), **values_and_intervals(scores))
    return slices


def tables_of(
    slices: Mapping[str, Mapping[str, Slice]], metric: str, *, is_share: bool
) -> list[Table]:
    """A table for each column, with each model's `metric` in each slice."""
    tables = []
    for name, values in slices.items():
        rows: list[list[Any]] = []
        for value, part in values.items():
            for model in part.scores:
                score = part.score(model, metric)
                cells = (score.value, *(score.interval or (None, None))) if score else (None,) * 3
                rows.append([value, part.rows, model, *cells])
        columns = [name, "rows", "model", metric, "95 % CI low", "95 % CI high"]
        units = dict.fromkeys(columns[3:], "share") if is_share else {}
        tables.append(table(f"{metric} by {name}", columns, rows, units=units))
    return tables
