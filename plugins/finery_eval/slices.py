"""Scores of parts of the rows: by a column, a label, or the length of the prompt."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from finery import DataError, did_you_mean
from finery.rows import Row
from finery.rows.answers.reading import as_text
from finery.rows.parts import prompt
from finery_eval.groups import among
from finery_eval.measure import Group, in_json, scores_of
from finery_eval.tables import Unit, table
from finery_eval.verdicts import Verdicts

LENGTH = "length"
"""The slices by length: thirds of the rows, by the characters of their prompts."""
PARTS = 3
MOST = 20
"""Values of a column that are told apart; the rarer ones are one slice."""
OTHER, NONE = "(other)", "(none)"

Slices = Mapping[str, Sequence[int]]
"""Value → the rows that have it, by number."""


def check(rows: Sequence[Row], names: Sequence[str], more: Collection[str]) -> None:
    """Raise `DataError` for a name that no row has; more: fields that answers may have."""
    check_names(_names(rows), names, more)


def check_names(columns: Collection[str], names: Sequence[str], more: Collection[str]) -> None:
    """Raise `DataError` for a name that isn't among the columns of rows; more: as for `check`."""
    known = {*columns, LENGTH, *more}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _missing(unknown[0], known)


def _missing(name: str, known: Collection[str]) -> DataError:
    meant = did_you_mean(name, sorted(known)) or f"write {LENGTH}, or name a column"
    kept = f"; a column of the file is in the rows if the step that reads it has keep: [{name}]"
    return DataError(
        f"no row has the column or field '{name}'",
        where="slices",
        fix=meant if meant.startswith("did you mean") else meant + kept,
    )


def _by_value(rows: Sequence[Row], name: str) -> Slices:
    labels = [row["label"] if isinstance(row.get("label"), dict) else {} for row in rows]
    values = [
        row[name] if name in row else label.get(name)
        for row, label in zip(rows, labels, strict=True)
    ]
    if not any(value is not None for value in values):
        raise _missing(name, _names(rows))
    found: dict[str, list[int]] = {}
    for number, value in enumerate(values):
        found.setdefault(NONE if value is None else as_text(value), []).append(number)
    if len(found) <= MOST:
        return dict(sorted(found.items()))
    frequent = sorted(found, key=lambda value: (-len(found[value]), value))
    kept = {value: found[value] for value in sorted(frequent[:MOST])}
    return {**kept, OTHER: sorted(n for value in frequent[MOST:] for n in found[value])}


def _names(rows: Sequence[Row]) -> set[str]:
    labels = (row["label"] for row in rows if isinstance(row.get("label"), dict))
    return {name for row in rows for name in row} | {name for label in labels for name in label}


def _by_length(rows: Sequence[Row]) -> Slices:
    """Thirds of the rows, as far as rows of one length don't share a border."""
    lengths = [len(prompt(row)) for row in rows]
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


def details_of(
    rows: Sequence[Row], verdicts: Verdicts, names: Sequence[str], groups: Sequence[Group] | None
) -> dict[str, Any]:
    """Name → value → its rows, and the scores and intervals of each model.

    Fields of the expected answers, as the evaluator read them, count as columns of the rows.
    Raises `DataError` for a name that no row has.
    """
    judged = next(iter(verdicts.judged.values()))
    expected = [verdict.facts.get("expected") for verdict in judged]
    columns = [
        {**of, **row} if isinstance(of, dict) else row
        for row, of in zip(rows, expected, strict=True)
    ]
    details: dict[str, Any] = {}
    for name in names:
        details[name] = {}
        values = _by_length(columns) if name == LENGTH else _by_value(columns, name)
        for value, numbers in values.items():
            measures = verdicts.measures(among(groups, numbers), numbers)
            scores, intervals = in_json(scores_of(list(verdicts.judged), measures))
            sliced = {"rows": len(numbers), "scores": scores, "intervals": intervals}
            details[name][value] = sliced
    return details


def tables_of(details: Mapping[str, Any], metric: str, *, is_share: bool) -> list[dict[str, Any]]:
    """A table for each name: the headline metric of each model in each slice."""
    tables = []
    for name, values in details.items():
        rows: list[list[Any]] = [
            [value, of["rows"], model, scores.get(metric),
             *of["intervals"][model].get(metric, (None, None))]
            for value, of in values.items()
            for model, scores in of["scores"].items()
        ]  # fmt: skip
        columns = [name, "rows", "model", metric, "95 % CI low", "95 % CI high"]
        units: dict[str, Unit] = dict.fromkeys(columns[3:], "share") if is_share else {}
        tables.append(table(f"{metric} by {name}", columns, rows, units=units))
    return tables
