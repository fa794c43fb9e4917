"""The outcome of an evaluation: scores, comparisons, slices and tables, written as `Metrics`.

Input: rows, answers and verdicts. Output: `metrics.json` and `predictions.jsonl`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from finery import Completion, Job, Metrics, Model
from finery.rows import Row
from finery.util.text import counted, percent
from finery_eval import slices as slicing
from finery_eval.asking import truncated
from finery_eval.measure import (
    Group,
    Measure,
    Scores,
    compare,
    in_json,
    pairs_of,
    parts_of,
    scores_of,
)
from finery_eval.predictions import predictions, references
from finery_eval.tables import baseline_tables, comparison_tables, quantity, table
from finery_eval.verdicts import Answers, Verdicts, together

BASELINE = "baseline"
"""The fact in `meta` of a cheap baseline that names its kind."""
BUNDLE = "bundle"
"""The fact in `meta` of a model without weights that names the step type which ships it."""
SOURCE = "exported_from"
"""The fact in `meta` of an exported file that has the digest of the model it was made of."""
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
    answers: Answers,
    verdicts: Verdicts,
    *,
    models: Sequence[Model] = (),
    slices: Sequence[str] = (),
) -> Metrics:
    """Write `Metrics`, and compare the models with each other.

    Related rows, e.g. paraphrases of one row, count as one in intervals and tests. models: the
    judged ones; exported files among them are compared with the model that they were made from.
    slices: columns to break scores down by. Raises `DataError` for a column that no row has.
    """
    groups = dependent(job, rows)
    measures = verdicts.measures(groups)
    first = measures[verdicts.metrics[0]]
    scores = scores_of(list(verdicts.judged), measures)
    details = compared(verdicts, measures, first, models)
    details |= sliced_and_tables(rows, verdicts, details, scores, groups, slices, first.test)
    details |= {"groups": len(groups)} if groups else {}
    lines = predictions(rows, answers, verdicts)
    metrics = write_scored(job, len(rows), scores, details, lines, answers=answers)
    return with_speeds(metrics, models)


def sliced_and_tables(
    rows: Sequence[Row],
    verdicts: Verdicts,
    details: Mapping[str, Any],
    scores: Scores,
    groups: Sequence[Group] | None,
    slices: Sequence[str],
    test: str,
) -> dict[str, Any]:
    """The `details` with all tables, and with the slices if there are any.

    details: those of `compared`. test: of its comparisons.
    """
    sliced = slicing.details_of(rows, verdicts, slices, groups)
    first, shown = verdicts.metrics[0], details["headline"][0]
    tables = [
        *comparison_tables(
            details["comparisons"],
            test,
            first,
            is_share=verdicts.is_share(first),
            unit=details.get("units", {}).get(first),
        ),
        *slicing.tables_of(sliced, shown, is_share=verdicts.is_share(shown)),
        *baseline_tables(details, in_json(scores)[0]),
        *verdicts.tables,
    ]
    return {**({"slices": sliced} if sliced else {}), "tables": tables}


def compared(
    verdicts: Verdicts, measures: Mapping[str, Measure], first: Measure, models: Sequence[Model]
) -> dict[str, Any]:
    """The `details` about the models next to each other.

    first: the measure that each model is compared with the first one by. Exported files are
    compared with the model that they were exported from, if that is among `models`. `applies` has
    the numbers of rows of metrics that don't apply to all.
    """
    parts = parts_of(list(verdicts.judged), measures)
    cheap = [model.name for model in models if BASELINE in model.meta]
    bundles = {model.name: model.meta[BUNDLE] for model in models if BUNDLE in model.meta}
    names = {model.digest: model.name for model in models if model.digest}
    exports = []
    for model in models:
        if SOURCE not in model.meta:
            continue
        facts = {"model": model.name, "file": model.meta["file"], "size": model.meta["size"]}
        trained = names.get(model.meta[SOURCE])
        if trained is not None:
            both = {name: first.values[name] for name in (trained, model.name)}
            facts |= dict(*compare(replace(first, values=both)))
        exports.append(facts)
    return {
        **verdicts.details,
        "headline": list(verdicts.headline or verdicts.metrics),
        "comparisons": compare(first),
        "pairs": pairs_of(list(verdicts.judged), measures),
        **references(verdicts),
        **({"applies": parts} if parts else {}),
        **({"unbounded": list(verdicts.unbounded)} if verdicts.unbounded else {}),
        **({"baselines": cheap} if cheap else {}),
        **({"bundles": bundles} if bundles else {}),
        **({"exports": exports} if exports else {}),
    }


def with_speeds(metrics: Metrics, models: Sequence[Model]) -> Metrics:
    """The metrics with the measured speeds of files, which aren't part of their identity."""
    speeds = {model.name: model.runtime[SPEED] for model in models if SPEED in model.runtime}
    if speeds:
        metrics.runtime[SPEED] = speeds
    return metrics


def dependent(job: Job, rows: Sequence[Row]) -> list[Group] | None:
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
    rows: int,
    scores: Scores,
    details: Mapping[str, Any],
    lines: Iterable[dict[str, Any]],
    *,
    answers: Mapping[str, Sequence[Completion]] | None = None,
) -> Metrics:
    """Write scores, and log each model's first metric. lines: of `predictions.jsonl`."""
    values, intervals = in_json(scores)
    log_scores(job, scores, details.get("unbounded", ()), details.get("units", {}))
    if answers is not None:
        cut = {name: truncated(of) for name, of in answers.items()}
        details = {**details, "truncated": cut}
    return Metrics.write(
        job.out,
        rows=rows,
        scores=values,
        intervals=intervals,
        details=dict(details),
        predictions=lines,
    )


def log_scores(
    job: Job, scores: Scores, unbounded: Collection[str] = (), units: Mapping[str, str] = {}
) -> None:
    """Log each model's first metric."""
    for name, of in scores.items():
        if not of:
            continue
        metric, (value, interval) = next(iter(of.items()))
        if metric in unbounded:
            ends = " – ".join(quantity(end, units.get(metric)) for end in interval or ())
            ends = f" (95 % CI {ends})" if ends else ""
            job.log(f"{name}: {metric} {quantity(value, units.get(metric))}{ends}")
        else:
            low, high = interval or (0.0, 1.0)
            ends = f"{100 * low:.1f} – {100 * high:.1f}"
            job.log(f"{name}: {metric} {percent(value)} (95 % CI {ends})")


# -- tables --------------------------------------------------------------------------------------


def unjudged_tables(job: Job, parts: Sequence[Unjudged]) -> list[dict[str, Any]]:
    """The table of what isn't judged, which is also logged; empty if all is."""
    for part in parts:
        turns, rows = counted(part.turns, "turn"), counted(part.rows, "row")
        job.log(f"not judged: {turns} in {rows}: {part.what}")
    return [table("Not judged", ["what", "rows", "turns"], parts)] if parts else []


def answers_table(
    answers: Mapping[str, Sequence[Completion]], invalid: Mapping[str, int] | None = None
) -> dict[str, Any]:
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
    return table("Answers", columns, rows)


def majority_table(columns: Mapping[str, Sequence[str]], noun: str) -> dict[str, Any]:
    """The score of a model that always gives the most frequent expected answer.

    columns: field → what each row expects. noun: what that is, e.g. `class`.
    """
    rows = []
    for column, expected in columns.items():
        value, n = Counter(expected).most_common(1)[0]
        rows.append([column, value, n / len(expected)])
    heads = ["field", noun, "accuracy"]
    title = f"Always the most frequent {noun}"
    return table(title, heads, rows, units={"accuracy": "share"})
