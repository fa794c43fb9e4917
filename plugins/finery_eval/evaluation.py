"""The outcome of an evaluation: scores, comparisons, slices and tables, written as `Metrics`.

Input: rows, answers and verdicts. Output: `metrics.json` and `predictions.jsonl`.
"""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from msgspec.structs import replace

from finery import Completion, DataError, Job, Metrics, Model
from finery.advanced import counted, did_you_mean, percent, quantity
from finery.rows import Row
from finery.rows.answers.reading import as_text
from finery.rows.parts import prompt_text
from finery.rows.report import Export, Report, ReportTable, Score, Slice, values_and_intervals
from finery_eval.asking import truncated
from finery_eval.measure import Group, Measure, compare, pairs_of, parts_of, scores_of
from finery_eval.predictions import predictions, statistics_of
from finery_eval.stages import stage_remarks, stage_tables
from finery_eval.tables import INTERVAL, baseline_tables, comparison_tables
from finery_eval.verdicts import Answers, Verdicts, among, together

BASELINE = "baseline"
"""The fact in `meta` of a cheap baseline that names its kind."""
BUNDLE = "bundle"
"""The fact in `meta` of a model without weights that names the step type which ships it."""
SOURCE = "exported_from"
"""The fact in `meta` of an exported file that has the digest of the model it was made of."""
ANSWERS, NOT_JUDGED = "Answers", "Not judged"
"""Titles of tables that any evaluator has."""
SPEED = "tokens_per_second"
"""The entry of `runtime`: of a file, what its export measured; of `Metrics`, the same by model."""


class Unjudged(NamedTuple):
    """Turns of the rows that aren't judged. what: a description of them."""

    what: str
    rows: int
    turns: int


def write(
    job: Job,
    rows: Sequence[Row],
    answers: Answers | None,
    verdicts: Verdicts,
    *,
    models: Sequence[Model] = (),
    slices: Sequence[str] = (),
) -> Metrics:
    """Write `Metrics`, and compare the models with each other.

    Related rows, e.g. paraphrases of one row, count as one in intervals and tests. answers: None
    where nothing is generated. models: the judged ones; exported files among them are compared with
    the model that they were made from. slices: columns to break scores down by. Raises `DataError`
    for a column that no row has.
    """
    groups = row_groups(job, rows)
    report = report_of(verdicts, groups, models)
    report.rows = len(rows)
    add_tables(report, rows, verdicts, groups, slices)
    if groups:
        report.extra = report.extra | {"groups": len(groups)}
    if answers is not None:
        report.tables = [*stage_tables(answers, verdicts, groups, report), *report.tables]
        report.remarks = [*report.remarks, *stage_remarks(models, answers, verdicts)]
    lines = predictions(rows, answers, verdicts)
    return write_scored(job, report, lines, answers=answers, models=models)


def add_tables(
    report: Report,
    rows: Sequence[Row],
    verdicts: Verdicts,
    groups: Sequence[Group] | None,
    slices: Sequence[str],
) -> None:
    """Add the slices and all tables to a report that has its scores and comparisons."""
    report.slices = slices_of(rows, verdicts, slices, groups)
    first, headline = verdicts.metrics[0], report.headline[0]
    report.tables = [
        *comparison_tables(report.comparisons, first, report.unit(first)),
        *slice_tables(report.slices, headline, report.unit(headline)),
        *baseline_tables(report),
        *verdicts.tables,
        *report.tables,  # of the evaluator's own
    ]


def report_of(
    verdicts: Verdicts,
    groups: Sequence[Group] | None,
    models: Sequence[Model],
    first: Measure | None = None,
) -> Report:
    """A report on the models next to each other, with their scores.

    groups: the rows that belong together. first: the measure that each model is compared with the
    first one by, if it isn't that of the first metric. Exported files are compared with the model
    that they were exported from, if that is among `models`.
    """
    measures, judged = verdicts.measures(groups), list(verdicts.judged)
    first = first or measures[verdicts.metrics[0]]
    names = {model.digest: model.name for model in models if model.digest}
    exports = []
    for model in models:
        if SOURCE not in model.meta:
            continue
        export = Export(model.name, model.meta["file"], model.meta["size"])
        trained = names.get(model.meta[SOURCE])
        if trained is not None:
            both = {name: first.values[name] for name in (trained, model.name)}
            export.comparison = next(iter(compare(dataclasses.replace(first, values=both))), None)
        exports.append(export)
    return replace(
        verdicts.report,
        scores=scores_of(judged, measures),
        headline=list(verdicts.headline or verdicts.metrics),
        unbounded=list(verdicts.unbounded),
        units=dict(verdicts.units),
        **statistics_of(verdicts),
        comparisons=compare(first),
        pairs=pairs_of(judged, measures),
        applies=parts_of(judged, measures),
        baselines=[model.name for model in models if BASELINE in model.meta],
        bundles={model.name: model.meta[BUNDLE] for model in models if BUNDLE in model.meta},
        exports=exports,
    )


def row_groups(job: Job, rows: Sequence[Row]) -> list[Group] | None:
    """The groups of related rows, which are logged; None if all rows are independent."""
    groups = together(rows)
    if groups is not None:
        job.log(
            f"{len(rows)} rows form {counted(len(groups), 'group')}: rows that repeat each other "
            "or have a common parent count together in intervals and tests"
        )
    return groups


def write_scored(
    job: Job,
    report: Report,
    lines: Iterable[dict[str, Any]],
    *,
    answers: Mapping[str, Sequence[Completion]] | None = None,
    models: Sequence[Model] = (),
) -> Metrics:
    """Write a report, and log each model's first metric. lines: of `predictions.jsonl`.

    models: those whose measured speeds are kept, which aren't part of the metrics' identity.
    """
    for name, scores in report.scores.items():
        if scores:
            metric, score = next(iter(scores.items()))
            job.log(f"{name}: {metric} {_in_words(score, metric, report)}")
    if answers is not None:
        cut = {name: truncated(completions) for name, completions in answers.items()}
        report = replace(report, truncated=cut)
    metrics = Metrics.write(job.out, report, lines)
    speeds = {model.name: model.runtime[SPEED] for model in models if SPEED in model.runtime}
    if speeds:
        metrics.runtime[SPEED] = speeds
    return metrics


def _in_words(score: Score, metric: str, report: Report) -> str:
    if report.is_share(metric):
        low, high = score.interval or (0.0, 1.0)
        return f"{percent(score.value)} (95 % CI {100 * low:.1f} – {100 * high:.1f})"
    unit = report.units.get(metric)
    ends = " – ".join(quantity(end, unit) for end in score.interval or ())
    return f"{quantity(score.value, unit)}{f' (95 % CI {ends})' if ends else ''}"


# -- tables --------------------------------------------------------------------------------------


def unjudged_tables(job: Job, parts: Sequence[Unjudged]) -> list[ReportTable]:
    """The table of what isn't judged, which is also logged; empty if all is."""
    for part in parts:
        turns, rows = counted(part.turns, "turn"), counted(part.rows, "row")
        job.log(f"not judged: {turns} in {rows}: {part.what}")
    return [ReportTable(NOT_JUDGED, ["what", "rows", "turns"], parts)] if parts else []


def answers_table(
    answers: Mapping[str, Sequence[Completion]], invalid: Mapping[str, int] | None = None
) -> ReportTable:
    """The length of the answers, how many were cut off and, if known, how many are invalid.

    If any model thinks, also the number of answers with thinking, which isn't judged, and its mean
    length.
    """
    columns = ["model", "answers", "cut off at max_tokens", "tokens an answer"]
    rows: list[list[Any]] = [
        [
            name,
            len(completions),
            truncated(completions),
            sum(a.completion_tokens for a in completions) / len(completions),
        ]
        for name, completions in answers.items()
    ]
    if invalid is not None:
        columns.append("invalid")
        rows = [[*row, invalid[row[0]]] for row in rows]
    if any(a.reasoning for completions in answers.values() for a in completions):
        columns += ["with thinking", "characters of thinking an answer"]
        for row in rows:
            lengths = [len(answer.reasoning or "") for answer in answers[row[0]]]
            row += [sum(map(bool, lengths)), sum(lengths) / len(lengths)]
    return ReportTable(ANSWERS, columns, rows)


def majority_table(columns: Mapping[str, Sequence[str]], noun: str) -> ReportTable:
    """The score of a model that always gives the most frequent expected answer.

    columns: field → what each row expects. noun: what that is, e.g. `class`.
    """
    rows = []
    for column, expected in columns.items():
        value, n = Counter(expected).most_common(1)[0]
        rows.append([column, value, n / len(expected)])
    heads = ["field", noun, "accuracy"]
    title = f"Always the most frequent {noun}"
    return ReportTable(title, heads, rows, units={"accuracy": "share"})


# -- slices: scores of subsets of the rows, by a column, a label, or the length of the prompt ------

LENGTH = "length"
"""The name for slices by prompt length: thirds of the rows, in characters."""
PARTS = 3
MOST = 20
"""Maximum number of values that get a slice; all rarer values share one."""
OTHER, NONE = "(other)", "(none)"

Slices = Mapping[str, Sequence[int]]
"""Value → the numbers of the rows that have it."""


def check_slices(columns: Collection[str], names: Sequence[str], fields: Collection[str]) -> None:
    """Raise `DataError` for a column that no row has. fields: names of fields in the answers."""
    allowed = {*columns, LENGTH, *fields}
    for name in names:
        if name not in allowed:
            raise _missing(name, allowed)


def _missing(name: str, allowed: Collection[str]) -> DataError:
    suggestion = did_you_mean(name, sorted(allowed)) or f"write {LENGTH}, or name a column"
    keep = f"; to keep a column of a file in the rows, add keep: [{name}] to the step that reads it"
    return DataError(
        f"no row has the column or field '{name}'",
        where="slices",
        fix=suggestion if suggestion.startswith("did you mean") else suggestion + keep,
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
    shown_slices = {value: slices[value] for value in sorted(frequent[:MOST])}
    return {**shown_slices, OTHER: sorted(n for value in frequent[MOST:] for n in slices[value])}


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


def slice_tables(
    slices: Mapping[str, Mapping[str, Slice]], metric: str, unit: str
) -> list[ReportTable]:
    """A table for each column of the rows, with a column for each model's `metric`."""
    tables = []
    for name, values in slices.items():
        rows: list[list[Any]] = []
        models = list(next(iter(values.values())).scores)
        for value, part in values.items():
            cells: list[Any] = []
            for score in (part.score(model, metric) for model in models):
                ends = (score and score.interval) or (None, None)
                cells += [score and score.value, *ends]
            rows.append([value, part.rows, *cells])
        columns = [name, "rows", *chain(*([model, *INTERVAL] for model in models))]
        units = dict.fromkeys(columns[2:], unit) if unit else {}
        tables.append(ReportTable(f"{metric} by {name}", columns, rows, units=units))
    return tables
