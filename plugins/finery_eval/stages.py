"""Answers of models that ask others, such as cascades: scores by stage, and whether rows differ.

Input: verdicts on answers that name the stage which gave them, and the facts of the models. Output:
a table for each such model, and remarks where the rows aren't like those of its calibration.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from finery import Model
from finery.advanced import percent
from finery.rows.report import Remark, Report, ReportTable
from finery_eval.measure import Group, scores_of
from finery_eval.stats import wilson
from finery_eval.tables import INTERVAL
from finery_eval.verdicts import Answers, Verdicts, among

STAGES, RISK = "stages", "risk"
"""Facts in `meta` of a model that asks others: its stages, with how many calibration rows reached
each (`rows`) and how many of these it answered (`answered`); the error that it promises."""
SURELY_DIFFERENT, STRONGLY_DIFFERENT = 3.29, 0.05
"""Standard errors (p < 0.001), and share of the rows, by which two shares must differ."""


def stage_tables(
    answers: Answers, verdicts: Verdicts, groups: Sequence[Group] | None, report: Report
) -> Iterator[ReportTable]:
    """Of each model that asks others: the rows that each stage answered, and their scores.

    Of a first metric that is yes or no, the error with its 95 % Wilson interval; of others the
    shown metrics.
    """
    first, shown = verdicts.metrics[0], report.headline
    for name, completions in answers.items():
        if not any(completion.stage for completion in completions):
            continue
        values = verdicts.values(first)[name]
        is_right = all(isinstance(value, bool | None) for value in values)
        metrics = [] if is_right else [m for m in shown if verdicts.values(m).get(name)]
        rows: list[list[Any]] = []
        for stage in max((c.stage_tokens or {} for c in completions), key=len):  # all, in order
            numbers = [i for i, c in enumerate(completions) if c.stage == stage]
            cells: list[Any] = [stage, len(numbers), len(numbers) / len(completions)]
            if is_right:
                wrong, judged = _wrong_among(values, numbers)
                error = (wrong / judged, *wilson(wrong, judged)) if judged else (None,) * 3
                cells += [wrong, *error]
            else:
                measures = verdicts.measures(among(groups, numbers), numbers)
                scores = scores_of([name], measures)[name] if numbers else {}
                cells += [scores[m].value if m in scores else None for m in metrics]
            rows.append(cells)
        columns = ["stage", "rows", "share"]
        columns += ["wrong", "error", *INTERVAL] if is_right else metrics
        units = {m: unit for m in metrics if (unit := report.unit(m))} | {"share": "share"}
        units |= {"error": "share"} if is_right else {}
        yield ReportTable(f"{name} by stage", columns, rows, units=units, model=name)


def _wrong_among(values: Sequence[Any], numbers: Sequence[int]) -> tuple[int, int]:
    """Of these rows, (wrong answers, answers that are right or wrong)."""
    judged = [values[i] for i in numbers if isinstance(values[i], bool)]
    return judged.count(False), len(judged)


def stage_remarks(models: Sequence[Model], answers: Answers, verdicts: Verdicts) -> list[Remark]:
    """Warnings where a stage answers another share of the rows than of its calibration, or errs
    more often than promised."""
    remarks = []
    for model in models:
        stages = [stage for stage in model.meta.get(STAGES, ()) if stage.get("answered")]
        completions = answers.get(model.name, []) if stages else []
        asked = [(completion, completion.stage_tokens or {}) for completion in completions]
        values = verdicts.values(verdicts.metrics[0]).get(model.name, ())
        for stage in stages:
            name = stage["model"]
            reached = sum(name in tokens for _, tokens in asked)
            gave = [i for i, (completion, _) in enumerate(asked) if completion.stage == name]
            if shares_differ(len(gave), reached, stage["answered"], stage["rows"]):
                before = percent(stage["answered"] / stage["rows"])
                remarks.append(Remark(
                    f"{model.name}: {name} answers {percent(len(gave) / reached)} of the rows that "
                    f"reach it, and {before} in the calibration, so these rows differ from those, "
                    "and nothing bounds its error here",
                    "Calibrate on rows like these.",
                    "warning",
                ))  # fmt: skip
            wrong, judged = _wrong_among(values, gave)
            if wilson(wrong, judged)[0] > (risk := model.meta.get(RISK, 1.0)):
                remarks.append(Remark(
                    f"{model.name}: {percent(wrong / judged)} of the answers of {name} are wrong, "
                    f"more than the {percent(risk)} that it was calibrated for",
                    "Calibrate on rows like these, which the models haven't seen.",
                    "warning",
                ))  # fmt: skip
    return remarks


def shares_differ(hits: int, n: int, others: int, n_others: int) -> bool:
    """Whether two shares differ strongly, by the pooled z test of two proportions."""
    if not n or not n_others:
        return False
    pooled = (hits + others) / (n + n_others)
    difference = abs(hits / n - others / n_others)
    error = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n_others))
    return difference > max(STRONGLY_DIFFERENT, SURELY_DIFFERENT * error)
