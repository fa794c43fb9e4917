"""The contract of evaluators, for this plugin and others.

An evaluator is a subclass of `Evaluator` with `judge(row, answer)`, which returns the value of each
metric for an answer: True or False, a number from 0 to 1, or None where the metric doesn't apply.
With `Verdict`, it adds what people see of the answer. `metric_names` names the metrics, the
headline first. All else comes with it: asking models, refusals and answers that were cut off,
`slices:`, groups of rows that aren't independent, intervals, paired tests, `require:`, baselines,
tables, `predictions.jsonl`, and with these `show`, `diff`, `select`, `curve`, `watch` and reports.

Where more is needed: `judging` reads what all rows expect before any model is asked, and refuses
rows that can't be judged. `statistics` has the metrics that are no means over rows, such as F1, and
`unbounded` those that aren't from 0 to 1. The chain from a value to a p-value is in
`finery_eval.measure`.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from finery import (
    Artifact,
    Completion,
    Dataset,
    Job,
    Metrics,
    Model,
    PluginError,
    Preflight,
    Step,
    StepError,
    UsageError,
    setting,
    takes,
)
from finery.rows import Row
from finery.rows.answers.reading import extracted
from finery_eval import slices as slicing
from finery_eval.asking import ask, read_rows
from finery_eval.evaluation import Unjudged, answers_table, unjudged_tables, write
from finery_eval.measure import Statistic, Value
from finery_eval.requirements import Requirements
from finery_eval.stats import NO_WIDTH
from finery_eval.tables import remark as remark
from finery_eval.tables import table as table
from finery_eval.verdicts import Answers, Verdict, Verdicts, each_judged

Better = Literal["higher", "lower"]
"""Which values of a metric are better."""


class Gate(Step, isolated=True):
    """Hold scores of anything against `require`, a setting that subclasses declare."""

    def metric_names(self) -> list[str]:
        """The metrics of each model, or of what else has scores, the headline first."""
        return ["accuracy"]

    def more_metrics(self) -> str:
        """How to add further metrics, as part of the fix for an unknown one; empty by default."""
        return ""

    def unbounded(self) -> Mapping[str, Better]:
        """The metrics that are no shares from 0 to 1, and which values of them are better.

        Writers of `Metrics` name them in `details["unbounded"]`, for views.
        """
        return {}

    def measured(self) -> dict[str, list[str]]:
        """What `require` may name: the models, or what else has scores → its metrics."""
        raise NotImplementedError

    def nouns(self) -> tuple[str, str]:
        """What has the scores, in the singular and the plural, for errors."""
        return "model", "models"

    def choices(self) -> Mapping[str, Sequence[str]]:
        """What `require` may ask for."""
        return {"require": [f"{name}.{m}" for name, of in self.measured().items() for m in of]}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        Requirements(self)  # type: ignore[arg-type]  # subclasses declare `require`

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        """Compare the scores with `require`. Raises `RequirementError`."""
        self.check()
        (metrics,) = outputs.values()
        assert isinstance(metrics, Metrics)
        requirements = Requirements(self)  # type: ignore[arg-type]
        requirements.verify(with_more(metrics.report()))


class Gated(Gate):
    """Measure models, compare them with the first, and hold the scores against `require`."""

    models: list[Model] = takes(
        uses_name=True,
        help="The models to judge on the same rows. Each is compared with the first.",
    )
    require: dict[str, str] = setting(
        {},
        affects_output=False,
        help="Conditions that the build must meet: <model>.<metric> compared (>=, >, <=, <) with "
        "a number, for most metrics a share from 0 to 1, or with another metric plus or minus a "
        "number. `not worse than` another model `by` a margin, and `significantly better than` "
        "another model or a number, rest on a test, so a lucky score isn't enough.",
        examples=[
            {"sft.accuracy": ">= 0.85"},
            {"sft.accuracy": ">= base.accuracy + 0.3"},
            {"gguf.accuracy": "not worse than sft by 0.03"},
            {"sft.accuracy": "significantly better than base"},
        ],
    )

    def measured(self) -> dict[str, list[str]]:
        """What `require` may name: the models, or what else has scores → its metrics."""
        return {model.name: self.metric_names() for model in self.models}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        names = [model.name for model in self.models]
        if not names:
            raise UsageError("`models` is empty", where="models", fix="name one: models: [sft]")
        if len(set(names)) < len(names):
            raise UsageError("a model is listed twice", where="models", fix="list each model once")
        super().check()


def check_metrics(step_type: str, names: Any) -> None:
    """Raise `PluginError` unless these are the names of metrics, each once."""
    is_list = isinstance(names, list | tuple)
    if is_list and names and all(isinstance(name, str) and name.strip() for name in names):
        twice = [name for name, n in Counter(names).items() if n > 1]
        if not twice:
            return
        problem = f"names '{twice[0]}' twice"
    else:
        problem = f"returns {names!r:.80}, which isn't a list of names"
    raise PluginError(
        f"`metric_names` of {step_type} {problem}",
        fix='return a list with each name once, the headline first, e.g. ["accuracy"]',
    )


def with_more(report: dict[str, Any]) -> dict[str, Any]:
    """A `Metrics` report with the scores of `details["more"]`, which aren't in its tables.

    `details["more"]`: model, or what else is measured → metric → `{value, interval}`.
    """
    scores = {name: dict(of) for name, of in report["scores"].items()}
    intervals = {name: dict(of) for name, of in report["intervals"].items()}
    for name, of in report["details"].get("more", {}).items():
        for metric, added in of.items():
            scores.setdefault(name, {})[metric] = added["value"]
            intervals.setdefault(name, {})[metric] = added["interval"]
    return {**report, "scores": scores, "intervals": intervals}


class JudgePreflight(Preflight["Judge"]):
    """Reads the rows as the evaluator will."""

    def check_sample(self, samples: Mapping[str, Iterable[Row]]) -> None:
        """Raise `DataError` for settings that don't fit the first rows."""
        if "rows" in samples:
            self.step.check_sample(samples["rows"])

    def check_columns(self, columns: Mapping[str, Collection[str]]) -> None:
        """Raise `DataError` for slices that no row can have."""
        if "rows" in columns:
            self.step.check_columns(columns["rows"])

    def check_inputs(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        self.step.check_rows(job)


class Judge(Gated, preflight=JudgePreflight):
    """Judge models on the same rows."""

    rows: Dataset = takes(
        help="Rows with an expected answer each. The rest of a row is the prompt."
    )

    def check_rows(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""

    def check_sample(self, rows: Iterable[Row]) -> None:
        """Raise `DataError` for settings that don't fit the rows, as far as the first ones show it.

        Rows that aren't built yet look as in their source, e.g. records of a file.
        """

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `DataError` for slices that no row can have. columns: all that rows can have."""


class BatchEvaluator(Judge, engines=True):
    """Have models answer the rows and judge all answers at once, e.g. by another model."""

    max_tokens: int = setting(
        64,
        ge=1,
        help="Longest answer, in tokens. A longer one is cut off there and judged as it is.",
    )
    temperature: float = setting(
        0.0, ge=0.0, help="Sampling temperature. 0 always takes the most likely token."
    )
    extract: str | None = setting(
        None,
        help="A regular expression with one group that captures the answer in a longer text. "
        "Where it doesn't match, the whole text is the answer.",
        examples=[r"(?i)answer:\s*(\w+)"],
    )
    slices: list[str] = setting(
        [],
        help="What to break the scores down by: columns of the rows, fields of the expected answer "
        "or of its label, and `length`, thirds of the rows by the length of their prompts.",
        examples=[["source", "length"]],
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        check_metrics(type(self).__name__, self.metric_names())
        super().check()
        check_pattern(self.extract)

    def check_nested(self) -> None:
        """Raise `UsageError` for settings that only `run` obeys.

        Inside another step, only `judging` is called, see `finery_eval.nested`.
        """

    def statistics(self) -> Mapping[str, Statistic]:
        """The metrics that are no means over rows → a function of how often each value occurs.

        It is a function of a module, so that `finery diff` finds it.
        """
        return {}

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read what the rows expect; the result judges the models' answers to their prompts.

        Raises `DataError` for rows that can't be judged. The result is used once.
        """
        raise NotImplementedError

    def verdicts(
        self,
        answers: Answers,
        judged: Mapping[str, Sequence[Verdict]],
        tables: Sequence[dict[str, Any]] | None = None,
        **more: Any,
    ) -> Verdicts:
        """The verdicts on the answers. tables: by default that of the answers.

        more: other fields of `Verdicts`, by default what the step declares.
        """
        own: dict[str, Any] = {
            "metrics": self.metric_names(),
            "headline": self.metric_names(),
            "tables": [answers_table(answers)] if tables is None else tables,
            "statistics": self.statistics(),
            "unbounded": list(self.unbounded()),
        }
        return Verdicts(judged, **own | more)

    def unjudged(self, rows: Sequence[Row]) -> list[Unjudged]:
        """Turns that people may think are judged, but that aren't."""
        return []

    def run(self, job: Job) -> Metrics:
        """Get the answers, judge them, write the metrics."""
        self.check()
        rows = read_rows(self.rows)
        judge = self.judging(job, rows)
        self.check_slices(rows)
        unjudged = unjudged_tables(job, self.unjudged(rows))
        answers = ask(self, job, rows)
        verdicts = judge(answers).with_tables(unjudged)
        return write(job, rows, answers, verdicts, models=self.models, slices=self.slices)

    def check_rows(self, job: Job) -> None:
        """Raise `DataError` for rows that can't be judged."""
        rows = read_rows(self.rows)
        self.judging(job, rows)
        self.check_slices(rows)

    def check_columns(self, columns: Collection[str]) -> None:
        """Raise `DataError` for slices that no row can have. columns: all that rows can have."""
        fields = self.answer_fields(None)
        if fields is not None:
            slicing.check_names(columns, self.slices, fields)

    def check_slices(self, rows: Sequence[Row]) -> None:
        """Raise `DataError` for slices that no row has."""
        if self.slices:
            slicing.check(rows, self.slices, self.answer_fields(rows) or ())

    def answer_fields(self, rows: Sequence[Row] | None) -> Collection[str] | None:
        """The fields of the expected answers, which rows can be sliced by.

        rows: None before they are known; then None if the fields depend on them.
        """
        return ()


class Evaluator(BatchEvaluator):
    """Have models answer the rows and judge the answers one by one."""

    def judge(self, row: Row, answer: Completion) -> Mapping[str, Value] | Verdict:
        """What an answer to the prompt of a row counts as: metric → value.

        A value is True or False, a number, or None where the metric doesn't apply to the row. The
        text of the answer is what `extract` captures.
        """
        raise NotImplementedError

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Judge each answer with `judge`. Raises `StepError` for what `judge` must not return."""
        metrics = self.metric_names()
        anything, unbounded = self.statistics(), self.unbounded()

        def one(i: int, answer: Completion) -> Verdict:
            text = extracted(answer.text, self.extract)
            answer = msgspec.structs.replace(answer, text=text)
            try:
                verdict = verdict_of(self.judge(rows[i], answer), metrics)
                values = {
                    metric: value
                    if metric in anything
                    else number(value, metric, is_share=metric not in unbounded)
                    for metric, value in verdict.values.items()
                }
            except StepError as error:
                if error.where is None:
                    error.where = f"{type(self).__name__}.judge, row {rows[i].get('id')}"
                raise
            return verdict._replace(values=values)

        return lambda answers: self.verdicts(answers, each_judged(answers, one))


def verdict_of(returned: Any, metrics: Sequence[str]) -> Verdict:
    """What `judge` returns, as a verdict. Raises `StepError` for another type or metric."""
    verdict = returned if isinstance(returned, Verdict) else Verdict(returned)
    for what, value in (("values", verdict.values), ("facts", verdict.facts)):
        if not isinstance(value, Mapping):
            raise StepError(
                f"`judge` returns {value!r:.80} as the {what} of an answer, which isn't a mapping",
                fix=f"return e.g. {{{metrics[0]!r}: True}}, alone or as the values of a `Verdict`"
                if what == "values"
                else "return a mapping of texts to JSON values as the facts",
            )
    if unknown := [metric for metric in verdict.values if metric not in metrics]:
        raise StepError(
            f"`judge` returns {unknown[0]!r}, which `metric_names` doesn't name",
            fix=f"one of: {', '.join(metrics)}",
        )
    return verdict


def number(value: Any, metric: str, *, is_share: bool) -> bool | float | None:
    """A value of a metric, also from NumPy's or PyTorch's. Raises `StepError` for no number.

    A share that is outside 0 to 1 by no more than a rounding error is moved to the end.
    """
    if getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    problem = f"`judge` returns {value!r:.80} as '{metric}'"
    if not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise StepError(
            f"{problem}, which is neither True, False, None nor a finite number",
            fix="convert it, e.g. with float(…), or return None where the metric doesn't apply",
        )
    if not is_share:
        return value
    if not -NO_WIDTH <= value <= 1 + NO_WIDTH:
        raise StepError(
            f"{problem}, which is not from 0 to 1",
            fix=f"scale it, or let `unbounded` return {{'{metric}': 'higher'}}, or 'lower'",
        )
    return min(max(value, 0), 1)


def check_pattern(pattern: str | None) -> None:
    """Raise `UsageError` unless it is a regular expression with one group."""
    if pattern is None:
        return
    try:
        groups = re.compile(pattern).groups
    except (re.error, RecursionError) as error:
        raise UsageError(
            f"not a regular expression: {error}", where=f"extract: {pattern}", fix="correct it"
        ) from None
    if groups != 1:
        raise UsageError(
            f"the expression must have one group, but has {groups}",
            where=f"extract: {pattern}",
            fix="put ( ) around the answer, and (?: ) around anything else",
        )


def names_metric(name: str) -> bool:
    """Whether a metric can have this name: `require` must be able to read `<model>.<metric>`."""
    return bool(name.strip()) and name == name.strip() and not set(".:\n") & set(name)
