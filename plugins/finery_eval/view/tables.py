"""The scores, tables, plots and matrices of a report, as parts that finery shows anywhere."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from finery.advanced import counted, in_points, range_in_points
from finery.rows.answers.reading import INVALID
from finery.rows.report import Export, Report, ReportTable, Score
from finery.views import (
    Cell,
    Column,
    Matrix,
    Part,
    Quantity,
    Remark,
    Table,
    Text,
)
from finery_eval.evaluation import ANSWERS, NOT_JUDGED, SPEED
from finery_eval.predictions import Facts
from finery_eval.steps.classification import confusion_of
from finery_eval.tables import WORSE, verdict_of

# -- scores ----------------------------------------------------------------------------------------


def comparable(reports: Mapping[str, Report]) -> list[dict[str, Report]]:
    """Step → report, in groups: those with the same metrics on equally many rows."""
    groups: dict[Any, dict[str, Report]] = {}
    for step, report in reports.items():
        groups.setdefault((report.rows, tuple(headline(report))), {})[step] = report
    return list(groups.values())


def headline(report: Report) -> list[str]:
    """The metrics to show, in order: what the evaluator names, else all."""
    return report.headline or list(next(iter(report.scores.values()), {}))


def score_cell(score: Score | None, metric: str, report: Report) -> Quantity | None:
    """A score in its unit, with its interval."""
    if score is None:
        return None
    return Quantity(score.value, cast(Any, report.unit(metric)), score.interval)


def scores(reports: Mapping[str, Report], roles: Mapping[str, str] = {}) -> Iterator[Part]:
    """The scores of some reports with the same metrics, by the step that judged.

    A terminal has the interval of the first metric only. roles: of the models, shown if they
    differ.
    """
    report = next(iter(reports.values()))
    title, metrics = counted(report.rows, "row"), headline(report)
    has_steps, has_roles = "" not in reports, len({*roles.values()}) > 1
    columns = [
        Column("model"),
        *([Column("evaluation")] if has_steps else []),
        *([Column("role", priority=2)] if has_roles else []),
        *(Column(metric, has_interval=not index) for index, metric in enumerate(metrics)),
    ]
    rows = [
        [
            model,
            *([Text(step, "soft")] if has_steps else []),
            *([Text(roles.get(model, ""), "soft")] if has_roles else []),
            *(score_cell(model_scores.get(metric), metric, each) for metric in metrics),
        ]
        for step, each in reports.items()
        for model, model_scores in each.scores.items()
    ]
    yield Table(columns, rows, title)
    counts = [c for each in reports.values() for c in each.applies.values()]
    for metric in dict.fromkeys(metric for c in counts for metric in c):
        fewest, most = min(ns := [c[metric] for c in counts if metric in c]), max(ns)
        if most:  # else shown as missing
            number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            yield Text(f"{metric}: applies to {number} of {title}", "soft")
    for legend in dict.fromkeys(report.legend for report in reports.values() if report.legend):
        yield Text(legend, "soft")


def interval_notes(reports: Iterable[Report]) -> Iterator[Text]:
    """What the intervals account for, if there are any."""
    with_intervals = (
        report
        for report in reports
        if any(score.interval for m in report.scores.values() for score in m.values())
    )
    default = "the choice of test rows only, not the seed of a training"
    for text in dict.fromkeys(report.intervals_cover or default for report in with_intervals):
        yield Text(f"95 % CI: covers {text}", "soft")


# -- exported files next to the trained model ------------------------------------------------------


def is_worse(export: Export) -> bool:
    """Whether a file is significantly worse than the model that it was exported from."""
    test = export.comparison
    return test is not None and verdict_of(test.value, test.p_value) == WORSE


def exports(report: Report, runtime: Mapping[str, Any]) -> Iterator[Part]:
    """A row for each exported file, and what to know about the differences.

    runtime: that of the metrics, with the measured speeds.
    """
    if not report.exports:
        return
    metric, *_ = headline(report)
    speeds, rows, missing = runtime.get(SPEED, {}), [], []
    for export in report.exports:
        test, speed = export.comparison, speeds.get(export.model)
        score = score_cell(report.score(export.model, metric), metric, report)
        file = [Quantity(export.size, "bytes"), None if speed is None else round(speed)]
        row: list[Cell] = [export.model, *file, score and score._replace(interval=None)]
        if test is None:
            missing.append(export.model)
            row += [None, None, None]
        else:
            difference = Quantity(test.value, "difference", test.interval)
            row += [test.baseline, difference, Quantity(test.p_value, "p")]
        rows.append(row)
    heads = ("model", "size", "tokens/s", metric, "trained model", "to that model", "p")
    tested = len(missing) < len(rows)
    note = "to that model: points of the same rows, paired" if tested else ""
    tones = ["warning" if is_worse(export) else "" for export in report.exports]
    yield Table(heads, rows, "Exported files", note, cast(Any, tones))
    if missing:
        text = f"To compare {', '.join(missing)} with the trained model, add that to `models`: its "
        yield Text(f"{text}answers to these rows are cached", "soft")
    yield from export_remarks(report)


def export_remarks(report: Report) -> Iterator[Remark]:
    """A warning for each file that is significantly worse than the model it was exported from."""
    for export in report.exports:
        if (test := export.comparison) and is_worse(export):
            yield Remark(
                f"{export.model} is significantly worse than {test.baseline}: "
                f"{in_points(test.value)} points (95 % CI {range_in_points(test.interval)})",
                "Ship a file with more bits.",
                "warning",
            )


# -- what evaluators keep --------------------------------------------------------------------------


def own_tables(report: Report) -> list[ReportTable]:
    """The tables of the evaluator itself, and slices: no tests, no lengths of answers."""
    return [
        t
        for t in report.tables
        if not {"difference", "p"} & {*t.units.values()} and t.title not in (ANSWERS, NOT_JUDGED)
    ]


def matrices(report: Report, answers: Mapping[str, Sequence[Facts]], only: str) -> Iterator[Matrix]:
    """The classes that models confuse, with an example of each of the most frequent pairs.

    answers: of each model. only: a model; empty for all.
    """
    for model, fields in confusion_of(report).items():
        if only and model != only:
            continue
        for field, data in fields.items():
            matrix = Matrix(data.labels, data.matrix, f"{model}: {field}")
            yield matrix._replace(examples=_examples(matrix, field, answers.get(model, ())))


def _examples(matrix: Matrix, field: str, answers: Iterable[Facts]) -> dict[tuple[str, str], str]:
    """(right, answered) → the first such row: its id and the beginning of its prompt."""
    shown_pairs = {(pair.right, pair.answered) for pair in matrix.pairs()}
    examples: dict[tuple[str, str], str] = {}
    for facts in answers:
        expected, answered = facts.get("expected"), facts.get("prediction")
        if isinstance(expected, Mapping):
            expected = expected.get(field)
            answered = answered.get(field) if isinstance(answered, Mapping) else None
        pair = str(expected), INVALID if answered is None else str(answered)
        if pair in shown_pairs:
            shown_pairs.remove(pair)
            examples[pair] = f"{facts.get('id', '')}  {facts.get('prompt', '')}"
            if not shown_pairs:
                break
    return examples
