"""The contract of evaluators, for this plugin and others.

An evaluator is a subclass of `Evaluator` with `judge(row, answer)`, which returns the value of each
metric for an answer: True or False, a number from 0 to 1, or None if the metric doesn't apply. With
`Verdict`, it adds facts about the answer for people. `metric_names` lists the metrics, the one that
decides first. The base class does the rest: it asks models, handles refusals and answers that were
cut off, and provides `slices:`, groups of related rows, intervals, paired tests, `require:`,
baselines, tables and `predictions.jsonl`, and so `show`, `diff`, `select`, `curve`, `watch` and
reports.

For more, override `judging`, which reads the expected answers of all rows before any model is asked
and refuses rows that can't be judged; `statistics`, for metrics that aren't means over rows, such
as F1; and `unbounded`, for metrics that aren't from 0 to 1. `finery_eval.measure` computes
everything from a value to a p-value.
"""

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import msgspec

from finery import (
    Artifact,
    Completion,
    Dataset,
    Estimate,
    FineryError,
    Inputs,
    Job,
    Key,
    Look,
    Metrics,
    Model,
    Note,
    PluginError,
    Promise,
    RequirementError,
    Step,
    StepError,
    UsageError,
    outside_key,
    setting,
    takes,
)
from finery.rows import Row
from finery.rows.answers.reading import extract_answer
from finery.rows.conditions import compile_pattern
from finery.rows.report import Report, ReportTable
from finery_eval.asking import Answering, ask, read_rows
from finery_eval.evaluation import (
    Unjudged,
    answers_table,
    check_slices,
    columns_of,
    unjudged_tables,
    write,
)
from finery_eval.measure import Statistic, Value, frozen
from finery_eval.requirements import Condition, doubts_about, parse, unchecked, unmet
from finery_eval.stats import NO_WIDTH
from finery_eval.verdicts import Answers, Judging, Verdict, Verdicts, each_judged

Better = Literal["higher", "lower"]
"""Which values of a metric are better."""
EXPECTED = "expected_answers"
"""An entry of `extra` in a report: a sentence about the rows' own answers that fail, for gates."""


class Gate(Step, isolated=True, schemas=False):
    """Hold scores of anything against `require`, a setting that subclasses declare."""

    def metric_names(self) -> list[str]:
        """The metrics of each model, or of what else has scores; the first one decides."""
        return ["accuracy"]

    def more_metrics(self) -> str:
        """How to add further metrics, as part of the fix for an unknown one; empty by default."""
        return ""

    def unbounded(self) -> Mapping[str, Better]:
        """The metrics that aren't shares from 0 to 1 → which of their values are better.

        A report has them among its `metrics`, for views.
        """
        return {}

    def measured(self) -> dict[str, list[str]]:
        """The judged models (or other things with scores) → their metrics, for `require`."""
        raise NotImplementedError

    def nouns(self) -> tuple[str, str]:
        """What is judged, in the singular and the plural, for errors."""
        return "model", "models"

    @outside_key
    def outputs(self) -> dict[str, Promise]:
        """With what is measured, for the checks of steps that choose by it."""
        try:
            check_metrics(self)
            metrics = [metric for names in self.measured().values() for metric in names]
        except FineryError:  # which `check` reports
            return {"": Promise(Metrics)}
        meta = {"metrics": list(dict.fromkeys(metrics)), "better": dict(self.unbounded())}
        return {"": Promise(Metrics, meta)}

    def choices(self) -> Mapping[str, Sequence[str]]:
        """What `require` may name."""
        return {
            "require": [f"{name}.{m}" for name, names in self.measured().items() for m in names]
        }

    @outside_key
    def requirements(self) -> list[Condition]:
        """What `require` asks for, in its order. Raises `UsageError` for malformed requirements."""
        return parse(cast(Any, self).require, *self._names(), **self._facts())

    @outside_key
    def _names(self) -> tuple[list[str], list[str]]:
        """The models and the metrics that `require` may name."""
        measured = self.measured()
        metrics = list(dict.fromkeys(metric for names in measured.values() for metric in names))
        return list(measured), metrics

    @outside_key
    def _facts(self) -> dict[str, Any]:
        """Others of `Names`."""
        models = getattr(self, "models", ())
        releases = [model.ref for model in models if "release" in model.runtime]
        facts = {"more": self.more_metrics(), "nouns": self.nouns(), "unbounded": self.unbounded()}
        return facts | {"releases": releases}

    def leave_out(self, unreleased: Mapping[str, str]) -> list[str]:
        """Remove requirements that name an unreleased model; a sentence for each."""
        changing = cast(Any, self)
        require = changing.require
        reasons = unchecked(require, unreleased, *self._names(), **self._facts())
        changing.require = {key: text for key, text in require.items() if key not in reasons}
        return [f"{key} {require[key]} isn't checked, since {why}" for key, why in reasons.items()]

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        self.requirements()

    def verify(self, outputs: Mapping[str, Artifact]) -> None:
        """Compare the scores with `require`. Raises `RequirementError`."""
        self.check()
        report = _report_in(outputs)
        failed = unmet(self.requirements(), report, lambda: _metrics_in(outputs).predictions())
        if failed:
            subject = "requirement is" if len(failed) == 1 else "requirements are"
            usual = (
                f"improve the {self.nouns()[0]}, test on more rows, or lower the value in `require`"
            )
            cut = [
                f"raise `max_tokens`: {n} of {report.rows} answers of {name} were cut off"
                for name, n in report.truncated.items()
                if n and any(f"{name}." in line for line in failed)
            ]
            raise RequirementError(
                f"{len(failed)} {subject} not met",
                where="require",
                details=[*failed, *filter(None, [report.part(EXPECTED, str)])],
                fix="; or ".join([*cut, usual]),
            )

    def doubts(self, outputs: Mapping[str, Artifact]) -> Sequence[str]:
        """The requirements that are met but prove little, such as `> base.accuracy` above 0 %."""
        return doubts_about(self.requirements(), _report_in(outputs), self.unbounded())


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
        "another model or a number, use a statistical test, so a lucky score isn't enough.",
        examples=[
            {"sft.accuracy": ">= 0.85"},
            {"sft.accuracy": ">= base.accuracy + 0.3"},
            {"gguf.accuracy": "not worse than sft by 0.03"},
            {"sft.accuracy": "significantly better than base"},
        ],
    )

    def measured(self) -> dict[str, list[str]]:
        """The judged models (or other things with scores) → their metrics, for `require`."""
        return {model.name: self.metric_names() for model in self.models}

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        names = [model.name for model in self.models]
        if not names:
            raise UsageError("`models` is empty", where="models", fix="name one: models: [sft]")
        if len(set(names)) < len(names):
            raise UsageError("a model is listed twice", where="models", fix="list each model once")
        super().check()


def check_metrics(gate: Gate) -> None:
    """Raise `PluginError` unless a step type declares its metrics as it should.

    That is, the names of all, each once, and mappings of some of them.
    """

    def refuse(method: str, problem: str, fix: str) -> None:
        raise PluginError(f"`{method}` of {gate.use} {problem}", fix=fix)

    names: Any = gate.metric_names()
    fix = 'return a list with each name once, the one that decides first, e.g. ["accuracy"]'
    is_list = isinstance(names, list | tuple)
    if not (is_list and names and all(isinstance(name, str) and name.strip() for name in names)):
        refuse("metric_names", f"returns {names!r:.80}, which isn't a list of names", fix)
    for name, n in Counter(names).items():
        if n > 1:
            refuse("metric_names", f"names '{name}' twice", fix)
    for method, noun, is_right in (
        ("unbounded", "'higher' or 'lower'", get_args(Better).__contains__),
        ("statistics", "functions", callable),
    ):
        declared: Any = getattr(gate, method, dict)()
        if not (isinstance(declared, Mapping) and all(map(is_right, declared.values()))):
            refuse(method, f"returns {declared!r:.80}", f"return a mapping of metrics to {noun}")
        if unknown := [metric for metric in declared if metric not in names]:
            refuse(
                method,
                f"names the metric '{unknown[0]}', which `metric_names` doesn't",
                f"one of: {', '.join(names)}",
            )


def _metrics_in(outputs: Mapping[str, Artifact]) -> Metrics:
    (metrics,) = outputs.values()
    assert isinstance(metrics, Metrics)
    return metrics


def _report_in(outputs: Mapping[str, Artifact]) -> Report:
    return _metrics_in(outputs).report().with_more()


SAMPLED = 1_000
"""Maximum number of rows that settings are compared with before the rows are judged."""


class Judge(Gated):
    """Judge models on the same rows."""

    rows: Dataset = takes(
        help="Rows with an expected answer each. The rest of a row is the prompt."
    )

    def examine(self, look: Look) -> None:
        """Raise `DataError` for rows that can't be judged."""
        if look.open("rows"):
            try:
                self.prepare(look.job)
            except FineryError as error:
                error.where = error.where or "rows"
                raise

    def prepare(self, job: Job) -> Any:
        """Read what `run` needs before any model is asked.

        Raises `DataError` for rows that can't be judged.
        """

    def estimate(self, inputs: Inputs) -> Estimate | None:
        """The differences that the rows can show, and the time of a first evaluation."""
        from finery_eval.planning import estimate

        max_tokens = self.max_tokens if isinstance(self, BatchEvaluator) else None
        is_of_speed = type(self).__spec__.task == "speed"
        return None if is_of_speed else estimate(inputs, len(self.models), max_tokens)

    def advise(self, inputs: Inputs) -> Iterator[Note]:
        """Notes on gates that luck passes."""
        from finery_eval.planning import notes_on_gates

        if self.require:
            yield from notes_on_gates(self, inputs)


def longest_answer(default: int) -> Any:
    """The setting `max_tokens` of an evaluator."""
    text = "Longest answer, in tokens. A longer one is cut off there and judged as it is."
    return setting(default, ge=1, help=text)


class BatchEvaluator(Judge, engines=True, rehearsal={"max_tokens": 8}):
    """Have models answer the rows and judge all answers at once, e.g. by another model."""

    max_tokens: int = longest_answer(64)
    temperature: float = setting(
        0.0, ge=0.0, help="Sampling temperature. 0 always takes the most likely token."
    )
    extract: str | None = setting(
        None,
        help="A regular expression with one group that captures the answer in a longer text. "
        "If it doesn't match, the complete text is the answer.",
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
        check_metrics(self)
        super().check()
        check_pattern(self.extract)

    def check_nested(self) -> None:
        """Raise `UsageError` for settings that only `run` obeys.

        Inside another step, only `judging` is called, see `finery_eval.nested`.
        """

    def statistics(self) -> Mapping[str, Statistic]:
        """The metrics that aren't means over rows → a function of how often each value occurs.

        It is a function of a module, so that `finery diff` finds it. Its code is recorded as a
        digest: builds with another one aren't compared by it.
        """
        return {}

    def cache_key(self) -> Key:
        """Schemas, if a subclass has a `constraint`."""
        is_overridden = type(self).constraint is not BatchEvaluator.constraint
        return super().cache_key() | Key(schemas=is_overridden)

    def constraint(self) -> dict[str, Any] | None:
        """A JSON Schema that engines hold the answers to; None lets models answer freely."""
        return None

    def judging(self, job: Job, rows: Sequence[Row]) -> Judging:
        """Read what the rows expect; the result judges the models' answers to their prompts.

        Raises `DataError` for rows that can't be judged. The result is used once.
        """
        raise NotImplementedError

    def verdicts(
        self,
        answers: Answers,
        judged: Mapping[str, Sequence[Verdict]],
        tables: Sequence[ReportTable] | None = None,
        **more: Any,
    ) -> Verdicts:
        """The verdicts on the answers. tables: by default that of the answers.

        more: other fields of `Verdicts`, by default what the step declares.
        """
        declared: dict[str, Any] = {
            "metrics": self.metric_names(),
            "headline": self.metric_names(),
            "tables": [answers_table(answers)] if tables is None else tables,
            "statistics": self.statistics(),
            "unbounded": list(self.unbounded()),
        }
        return Verdicts(judged, **declared | more)

    def unjudged(self, rows: Sequence[Row]) -> list[Unjudged]:
        """Turns that people may think are judged, but that aren't."""
        return []

    def prepare(self, job: Job) -> Any:
        """The rows, and what judges the answers to them."""
        rows = read_rows(self.rows)
        return rows, judge_of(self, job, rows)

    def run(self, job: Job) -> Metrics:
        """Get the answers, judge them, write the metrics."""
        return evaluate(self, job, *self.prepare(job))

    def examine(self, look: Look) -> None:
        """Raise `DataError` for slices that no row can have, and for rows that can't be judged."""
        fields = self.answer_fields(None) if self.slices else None
        if fields is not None and (columns := look.columns("rows")):
            check_slices(columns.value, self.slices, fields)
        super().examine(look)

    def check_slices(self, rows: Sequence[Row]) -> None:
        """Raise `DataError` for slices that no row has."""
        if self.slices:
            fields = self.answer_fields(rows) or ()
            check_slices(columns_of(rows), self.slices, fields)

    def answer_fields(self, rows: Sequence[Row] | None) -> Collection[str] | None:
        """The fields of the expected answers, which rows can be sliced by.

        rows: None before they are known; then None if the fields depend on them.
        """
        return ()


class Evaluator(BatchEvaluator):
    """Have models answer the rows and judge the answers one by one."""

    def judge(self, row: Row, answer: Completion) -> Mapping[str, Value] | Verdict:
        """The values of the metrics for an answer to the prompt of a row: metric → value.

        A value is True or False, a number, or None if the metric doesn't apply to the row. `answer`
        has the text that `extract` captures.
        """
        raise NotImplementedError

    def judging(self, job: Job, rows: Sequence[Row]) -> Judging:
        """Judge each answer with `judge`. Raises `StepError` for what `judge` must not return."""
        metrics = self.metric_names()
        statistics, unbounded = self.statistics(), self.unbounded()

        def verdict_on(i: int, answer: Completion) -> Verdict:
            text = extract_answer(answer.text, self.extract)
            answer = msgspec.structs.replace(answer, text=text)
            try:
                verdict = verdict_of(self.judge(rows[i], answer), metrics)
                return checked_verdict(verdict, "judge", statistics, unbounded)
            except FineryError as error:
                if error.where is None:
                    error.where = f"{type(self).__name__}.judge, row {rows[i].get('id')}"
                raise
            except Exception as error:  # a plugin's code can raise anything
                raise StepError.in_method(error, self, "judge", rows[i].get("id")) from error

        def judge(answers: Answers) -> Verdicts:
            judged = each_judged(answers, verdict_on)
            returned = {name for of in judged.values() for verdict in of for name in verdict.values}
            if missing := [metric for metric in metrics if metric not in returned]:
                raise StepError(
                    f"`judge` never returns '{missing[0]}', which `metric_names` names",
                    where=f"{type(self).__name__}.judge",
                    fix="return it for each answer, None where it doesn't apply, or remove it from "
                    "`metric_names`",
                )
            return self.verdicts(answers, judged)

        return judge


def judge_of(
    evaluator: BatchEvaluator,
    job: Job,
    rows: Sequence[Row],
    judge: Judging | None = None,
    unjudged: Sequence[Unjudged] | None = None,
) -> Judging:
    """What judges the models' answers to the rows. To be called before any model is asked.

    judge: in place of `evaluator.judging`. unjudged: turns that aren't judged; None means those
    that the evaluator names. They are logged, and are a table of the verdicts. Raises `DataError`
    for rows that can't be judged, and for slices that no row has.
    """
    judge = judge or evaluator.judging(job, rows)
    place = f"{type(evaluator).__name__}.judging"
    if not callable(judge):
        raise StepError(
            f"`judging` returns {judge!r:.80}, which can't be called with answers",
            where=place,
            fix="return a function that takes `Answers` and returns `Verdicts`",
        )
    evaluator.check_slices(rows)
    tables = unjudged_tables(job, evaluator.unjudged(rows) if unjudged is None else unjudged)

    def judge_checked(answers: Answers) -> Verdicts:
        verdicts = judge(answers)
        judged = verdicts.judged if isinstance(verdicts, Verdicts) else {}
        counts = [len(judged.get(name, ())) for name in answers]
        if {*counts} != {len(rows)}:
            number = f"{', '.join(map(str, counts))} verdicts for {len(rows)} answers"
            raise StepError(
                f"what `judging` returned gives {number if judged else f'{verdicts!r:.80}'}",
                where=place,
                fix="return `self.verdicts(answers, judged)` with a verdict on each answer",
            )
        if type(evaluator).judging is not Evaluator.judging:  # which checks them itself
            declared = "judging", verdicts.statistics, verdicts.unbounded
            try:
                checked = {
                    n: [checked_verdict(v, *declared) for v in of] for n, of in judged.items()
                }
            except StepError as error:
                error.where = place
                raise
            verdicts = verdicts._replace(judged=checked)
        return verdicts.with_tables(tables)

    return judge_checked


def checked_verdict(
    verdict: Any, method: str, statistics: Collection[str], unbounded: Collection[str]
) -> Verdict:
    """A verdict with its values as plain numbers. Raises `StepError` for other values.

    method: that gave it. statistics, unbounded: names of metrics.
    """
    if not isinstance(verdict, Verdict):
        raise StepError(
            f"`{method}` gives {verdict!r:.80} as the verdict on an answer",
            fix="give a `Verdict` with the values of the metrics",
        )
    values = dict(verdict.values)
    for metric, value in values.items():
        problem = f"`{method}` returns {value!r:.80} as '{metric}'"
        if metric not in statistics:
            is_share = metric not in unbounded
            values[metric] = checked_value(value, problem, metric, is_share=is_share)
        elif not isinstance(frozen(value), Hashable):
            fix = "return a text, a number or a tuple, which the statistic gets counted"
            raise StepError(f"{problem}, which can't be counted", fix=fix)
    return verdict._replace(values=values)


def evaluate(
    evaluator: BatchEvaluator,
    job: Job,
    rows: Sequence[Row],
    judge: Judging,
    answer: Answering | None = None,
) -> Metrics:
    """One run of an evaluator: its models answer, the answers are judged, the metrics written.

    judge: see `judge_of`. answer: see `ask`.
    """
    answers = ask(evaluator, job, rows, answer)
    models, slices = evaluator.models, evaluator.slices
    return write(job, rows, answers, judge(answers), models=models, slices=slices)


def verdict_of(returned: Any, metrics: Sequence[str]) -> Verdict:
    """Convert the result of `judge` to a verdict. `StepError` for another type or metric."""
    verdict = returned if isinstance(returned, Verdict) else Verdict(returned)
    for field, value in (("values", verdict.values), ("facts", verdict.facts)):
        if not isinstance(value, Mapping):
            raise StepError(
                f"`judge` returns {value!r:.80} as the {field} of an answer, which isn't a mapping",
                fix=f"return e.g. {{{metrics[0]!r}: True}}, alone or as the values of a `Verdict`"
                if field == "values"
                else "return a mapping of texts to JSON values as the facts",
            )
    if unknown := [metric for metric in verdict.values if metric not in metrics]:
        raise StepError(
            f"`judge` returns {unknown[0]!r}, which `metric_names` doesn't name",
            fix=f"one of: {', '.join(metrics)}",
        )
    return verdict


def checked_value(value: Any, problem: str, metric: str, *, is_share: bool) -> bool | float | None:
    """A value of a metric, also from NumPy's or PyTorch's. Raises `StepError` for no number.

    A share that is outside 0 to 1 by no more than a rounding error is moved to the end.
    """
    if getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, int | float) or not -math.inf < value < math.inf:
        raise StepError(
            f"{problem}, which is neither True, False, None nor a finite number",
            fix="convert it, e.g. with float(…), or return None if the metric doesn't apply",
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
    groups = compile_pattern(pattern, f"extract: {pattern}").groups
    if groups != 1:
        raise UsageError(
            f"the expression must have one group, but has {groups}",
            where=f"extract: {pattern}",
            fix="put ( ) around the answer, and (?: ) around anything else",
        )


def is_metric_name(name: str) -> bool:
    """Whether a metric can have this name. `require` must be able to read `<model>.<metric>`."""
    return bool(name.strip()) and name == name.strip() and not set(".:\n") & set(name)
