"""`eval.classification`: does the answer name the right class (of each field)?"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from finery import Completion, DataError, Forecast, Inputs, Job, Look, Metrics, UsageError, setting
from finery.advanced import did_you_mean, percent
from finery.rows import Row, answer_text
from finery.rows.answers.reading import (
    INVALID,
    Expected,
    Reader,
    Unreadable,
    extract_answer,
    field_names,
)
from finery.rows.chat.turns import turn_problems
from finery.rows.report import Report, ReportTable
from finery_eval import stats
from finery_eval.asking import refuse_calls, refuse_rows
from finery_eval.evaluation import answers_table, majority_table
from finery_eval.evaluator import SAMPLED, BatchEvaluator, is_metric_name
from finery_eval.measure import Statistic
from finery_eval.verdicts import Answers, Verdict, Verdicts, each_judged

RESERVED = ("accuracy", "macro_f1", "valid", "coverage", "selective_accuracy")
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Shares of the answers, those with the highest probability, whose accuracy is shown."""


class Classification(BatchEvaluator, task="classification"):
    """Judge models by the class in their answer: accuracy, macro-F1, per-class scores, confusion.

    The expected class of a row is its `label`, or else the text of its completion. With `fields`,
    an answer consists of lines like `priority: high` (or of a JSON object, if the expected answer
    is one), and each field has a class. A `label` then counts if it maps fields to classes.

    Metrics, each from 0 to 1 with a 95 % interval:
    - `accuracy`: rows whose class is right; with fields, rows where all fields are right.
    - `macro_f1`: mean F1 over the classes that the rows expect; with fields, its mean over fields.
    - `<field>`, `<field>_macro_f1`: accuracy and macro-F1 of one field.
    - `valid`: answers with one allowed class (for each field) and nothing else that doesn't belong
      to the expected format. The other metrics are more lenient: with fields, they ignore other
      lines; without, they follow `match`.
    - `coverage`, `selective_accuracy`: with `abstain_below`, the share of answers that are probable
      enough, and the accuracy among these. All other metrics cover all answers.

    An answer without an allowed class is wrong and counts as class `(invalid)`. Intervals: Wilson
    score (Wilson 1927) for shares; for F1 the percentile bootstrap over rows with 2,000 resamples
    and a fixed seed (Efron & Tibshirani 1993). Each further model is compared with the first on the
    same rows: exact McNemar test (McNemar 1947), Newcombe's paired difference (1998, method 10).

    Raises DataError for rows whose expected answer is missing or can't be read, UsageError for
    settings that can't work, a malformed `require` among them.
    """

    fields: list[str] = setting(
        [],
        help="Names of the fields of an answer, each with its own class. Empty: the answer is one"
        " class.",
        examples=[["category", "priority"]],
    )
    labels: list[str] | dict[str, list[str]] | None = setting(
        None,
        help="Allowed classes; with `fields`, a list for each field. Default: the classes that "
        "the rows expect.",
        examples=[["spam", "ham"], {"priority": ["low", "high"]}],
    )
    match: Literal["exact", "first_line", "contains"] = setting(
        "exact",
        help="Which part of an answer must be the class: all of it, its first line, or any part, "
        "if the answer names exactly one class (fair to models that answer in sentences). "
        "Not with `fields`.",
    )
    ignore_case: bool = setting(False, help="Treat 'High' and 'high' as the same answer.")
    abstain_below: float | None = setting(
        None,
        gt=0,
        le=1,
        help="Probability below which an answer counts as an abstention, for `coverage` and "
        "`selective_accuracy`. The models must give probabilities, as those of encoder.classify "
        "and baseline.linear do.",
    )

    def metric_names(self) -> list[str]:
        """The metrics of each model; the first one decides."""
        of_fields = [name for field in self.fields for name in (field, f"{field}_macro_f1")]
        return ["accuracy", "macro_f1", *of_fields, "valid", *self._selective]

    @property
    def _selective(self) -> tuple[str, ...]:
        """The metrics of abstentions."""
        return () if self.abstain_below is None else ("coverage", "selective_accuracy")

    def statistics(self) -> Mapping[str, Statistic]:
        """Macro-F1, of all fields and of each."""
        of_fields = [f"{field}_macro_f1" for field in self.fields]
        return dict.fromkeys(["macro_f1", *of_fields], stats.mean_macro_f1)

    def answer_fields(self, rows: Sequence[Row] | None) -> Collection[str] | None:
        """Those that are named."""
        return self.fields

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        check_fields(self.fields, self.metric_names())
        check_labels(self.labels, self.fields)
        if self.fields and self.match != "exact":
            raise UsageError(
                f"`match: {self.match}` can't be used with `fields`",
                where="match",
                fix="remove it: fields are found among other lines anyway",
            )
        super().check()
        formats = {model.name: str(model.meta.get("format", "")) for model in self.models}
        for name, model_format in formats.items() if self.abstain_below is not None else ():
            if model_format in ("baseline-majority", "baseline-nearest"):
                raise without_probability(name)

    def examine(self, look: Look) -> None:
        """Also raise it for fields that none of the first rows has in its expected answer."""
        super().examine(look)
        normal, names = self.reader().normal, dict[str, None]()
        rows = look.rows("rows", SAMPLED) if self.fields else None
        for row in rows.value if rows else ():
            is_row = isinstance(row.get("messages"), list) or row.keys() >= {"id", "completion"}
            if not is_row or turn_problems(row):  # e.g. a record of a file
                continue
            label, text = row.get("label"), extract_answer(answer_text(row), self.extract)
            names |= dict.fromkeys(label if isinstance(label, dict) else ())
            names |= dict.fromkeys(field_names([text]))
        for field in self.fields:
            if names and normal([field])[0] not in normal(names):
                raise DataError(
                    f"no expected answer of the rows has the field '{field}'",
                    where="fields",
                    fix=did_you_mean(field, names),
                )

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read the expected classes, and with them which classes are allowed."""
        reader, expected = self.expectations(rows)
        self.log_advice(job, rows, reader)
        return partial(self.judged, reader, expected)

    def run(self, job: Job) -> Metrics:
        """Judge, and log the accuracy of the answers that are no abstentions."""
        metrics = super().run(job)
        for name, scores in metrics.report().scores.items() if self._selective else ():
            share, right = (scores.get(metric) for metric in self._selective)
            of_these = "" if right is None else f", {percent(right.value)} of these right"
            job.log(
                f"{name}: answers {percent(share.value if share else 0.0)} of the rows{of_these}"
            )
        return metrics

    def reader(self) -> Reader:
        """Reads answers, and what rows expect, as the settings say."""
        return Reader(
            fields=tuple(self.fields),
            extract=self.extract,
            match=self.match,
            ignore_case=self.ignore_case,
        )

    def expectations(self, rows: Sequence[Row]) -> tuple[Reader, list[Expected]]:
        """A reader that knows the allowed classes, and what each row expects."""
        reader = self.reader()
        labels = self.labels if isinstance(self.labels, dict) else {"label": self.labels or []}
        normal = tuple(reader.normal(labels.get(column, ())) for column in reader.columns)
        named = msgspec.structs.replace(reader, labels=normal if any(normal) else ())
        expected = read_expected(named, rows)
        observed = (sorted({e.values[i] for e in expected}) for i in range(len(reader.columns)))
        allowed = tuple(n or tuple(s) for n, s in zip(normal, observed, strict=True))
        reader = msgspec.structs.replace(reader, labels=allowed)
        refuse_contradictions(reader, rows, expected)
        return reader, expected

    def log_advice(self, job: Job, rows: Sequence[Row], reader: Reader) -> None:
        """Log a suggestion where another setting looks better."""
        if self.fields or any(row.get("label") is not None for row in rows):
            return
        names = field_names(answer_text(row) for row in rows)
        if names:
            job.log(
                f"the answers look like fields; to judge each, set fields: [{', '.join(names)}]"
            )
        elif len(reader.labels[0]) > max(20, len(rows) // 2):
            job.log(
                f"{len(reader.labels[0])} classes in {len(rows)} rows: did you mean eval.exact?"
            )

    def judged(self, reader: Reader, expected: Sequence[Expected], answers: Answers) -> Verdicts:
        """Read the classes in the answers and compare them with the expected ones."""
        refuse_unknown(answers, self.abstain_below)
        judged = each_judged(
            answers, lambda i, a: verdict(reader, expected[i], a, self.abstain_below)
        )
        outcomes = {name: [v.values["macro_f1"] for v in rows] for name, rows in judged.items()}
        invalid = {
            name: sum(any(guess == INVALID for _, guess in outcome) for outcome in values)
            for name, values in outcomes.items()
        }
        columns = {c: [e.values[i] for e in expected] for i, c in enumerate(reader.columns)}
        tables = [answers_table(answers, invalid), majority_table(columns, "class")]
        confused: dict[str, dict[str, Matrix]] = {name: {} for name in outcomes}
        for name, model_values in outcomes.items():
            for i, column in enumerate(reader.columns):
                pairs = Counter(outcome[i] for outcome in model_values)
                tables.append(class_table(name, column, reader.labels[i], pairs))
                confused[name][column] = confusion(reader.labels[i], pairs)
        extra: dict[str, Any] = {CONFUSION: confused}
        if self.abstain_below is not None:
            tables += [coverage_table(name, answers[name], rows) for name, rows in judged.items()]
            extra[ABSTAIN] = self.abstain_below
        headline = ["accuracy", "macro_f1", *self.fields, "valid", *self._selective]
        return self.verdicts(answers, judged, tables, headline=headline, report=Report(extra=extra))

    def forecast(self, inputs: Inputs) -> Forecast:
        """Which classes rows expect."""
        return Forecast(classes=self._classes)

    def _classes(self, rows: Iterable[Row]) -> Counter[str]:
        """Rows of each class, with fields of each `field: class`; rows without one don't count."""
        reader = self.reader()
        counts: Counter[str] = Counter()
        for row in rows:
            try:
                values = reader.expected(row).values
            except Unreadable:
                continue
            classes = zip(reader.columns, values, strict=True)
            counts.update(f"{name}: {value}" if reader.fields else value for name, value in classes)
        return counts


def check_fields(fields: Sequence[str], metrics: Sequence[str]) -> None:
    """Raise `UsageError` for field names that can't be names of metrics too."""
    for field in fields:
        if not is_metric_name(field):
            raise UsageError(
                f"{field!r} can't be the name of a field",
                where="fields",
                fix="name it without dots, colons and spaces around",
            )
        if metrics.count(field) > 1:
            raise UsageError(
                f"the field '{field}' is listed twice, or has the name of a metric",
                where="fields",
                fix=f"list each field once, none of {', '.join(RESERVED)} or <field>_macro_f1",
            )


def check_labels(labels: list[str] | dict[str, list[str]] | None, fields: Sequence[str]) -> None:
    """Raise `UsageError` unless `labels` has the shape that `fields` asks for."""
    if labels is None:
        return
    if fields and not isinstance(labels, dict):
        raise UsageError(
            "with `fields`, `labels` must map each field to a list",
            where="labels",
            fix=f"labels: {{{fields[0]}: [{', '.join(labels)}]}}",
        )
    if isinstance(labels, dict):
        unknown = [name for name in labels if name not in fields]
        if unknown:
            raise UsageError(
                f"`labels` has '{unknown[0]}', which isn't one of the fields",
                where="labels",
                fix=f"name it in `fields`, or one of: {', '.join(fields)}"
                if fields
                else "set `fields`",
            )
    if not labels or (isinstance(labels, dict) and not all(labels.values())):
        raise UsageError("a list of labels is empty", where="labels", fix="fill it, or remove it")


def read_expected(reader: Reader, rows: Sequence[Row]) -> list[Expected]:
    """The expected classes of each row. Raises `DataError` with the rows that can't be read."""
    refuse_calls(row for row in rows if row.get("label") is None)
    expected: list[Expected] = []
    failed: list[str] = []
    for row in rows:
        try:
            expected.append(reader.expected(row))
        except Unreadable as error:
            failed.append(f"{row['id']}: {error}")
    refuse_rows(
        "some rows have no readable expected answer",
        failed,
        fix="give each row a label or a completion that holds one, or drop it",
    )
    return expected


def refuse_contradictions(
    reader: Reader, rows: Sequence[Row], expected: Sequence[Expected]
) -> None:
    """Raise `DataError` for rows whose own completion would be judged wrong."""
    failed = [
        f"{row['id']}: label {', '.join(want.values)}, completion {answer_text(row)!r:.80}"
        for row, want in zip(rows, expected, strict=True)
        if answer_text(row).strip() and reader.read(answer_text(row), want).values != want.values
    ]
    refuse_rows(
        "the completions of some rows aren't read as their labels",
        failed,
        fix="set `extract` or `match` so that the label is found, or remove the rows' labels",
    )


def refuse_unknown(answers: Answers, abstain_below: float | None) -> None:
    """Raise `UsageError` for a model that doesn't give the probabilities that are needed."""
    for name, model_answers in answers.items() if abstain_below is not None else ():
        if any(answer.probability is None for answer in model_answers):
            raise without_probability(name)


def without_probability(model: str) -> UsageError:
    """The error for a model that says no probabilities, though `abstain_below` needs them."""
    return UsageError(
        f"abstain_below needs the probability of each answer, which '{model}' doesn't give",
        where="abstain_below",
        fix=f"judge {model} in another step without abstain_below; models of encoder.classify and "
        "baseline.linear give probabilities",
    )


def verdict(
    reader: Reader, want: Expected, answer: Completion, abstain_below: float | None
) -> Verdict:
    """What an answer counts as."""
    got = reader.read(answer.text, want)
    outcome = tuple((e, g or INVALID) for e, g in zip(want.values, got.values, strict=True))
    values: dict[str, Any] = {
        "accuracy": all(e == g for e, g in outcome),
        "macro_f1": outcome,
    }
    for field, pair in zip(reader.fields, outcome, strict=bool(reader.fields)):
        values |= {field: pair[0] == pair[1], f"{field}_macro_f1": (pair,)}
    values["valid"] = got.valid
    facts = {"expected": shown(reader, want.values), "prediction": shown(reader, got.values)}
    if answer.probability is not None:
        facts["probability"] = round(answer.probability, 4)
    if abstain_below is not None:
        is_sure = (answer.probability or 0.0) >= abstain_below
        right = values["accuracy"] if is_sure else None
        values |= {"coverage": is_sure, "selective_accuracy": right}
    return Verdict(values, facts)


def shown(reader: Reader, values: Sequence[str | None]) -> Any:
    """The class, or field → class."""
    return dict(zip(reader.fields, values, strict=True)) if reader.fields else values[0]


def class_table(model: str, column: str, labels: Sequence[str], pairs: stats.Pairs) -> ReportTable:
    """Precision, recall, F1 and rows of every class of a column."""
    rows = [[label, *stats.class_score(pairs, label)] for label in labels]
    columns = ["class", "precision", "recall", "F1", "rows"]
    shares = dict.fromkeys(columns[1:4], "share")
    return ReportTable(f"{model}: {column}", columns, rows, units=shares, model=model)


def coverage_table(
    model: str, answers: Sequence[Completion], judged: Sequence[Verdict]
) -> ReportTable:
    """The accuracy of the most probable answers, and the lowest probability among these."""
    pairs = zip(answers, judged, strict=True)
    ranked = sorted(
        ((answer.probability or 0.0, bool(v.values["accuracy"])) for answer, v in pairs),
        reverse=True,
    )
    rows = []
    for coverage in COVERAGES:
        taken = ranked[: max(1, round(coverage * len(ranked)))]
        right = sum(is_right for _, is_right in taken)
        shares = [len(taken) / len(ranked), taken[-1][0], right / len(taken)]
        rows.append([*shares, len(taken) - right])
    columns = ["coverage", "probability from", "accuracy", "wrong answers"]
    units = {**dict.fromkeys(columns[:3], "share"), columns[1]: "likely"}
    return ReportTable(f"{model}: accuracy by coverage", columns, rows, units=units, model=model)


CONFUSION, ABSTAIN = "confusion", "abstain_below"
"""An entry of `extra` in a report: the matrices, and the threshold of abstentions."""


class Matrix(msgspec.Struct):
    """How often each class is answered, by column, where each is expected, by row."""

    labels: list[str]
    matrix: list[list[int]]


def confusion(labels: Sequence[str], pairs: stats.Pairs) -> Matrix:
    """The matrix of a column of answers.

    `(invalid)` is the last class where an answer named none.
    """
    labels = [*labels, *([INVALID] if any(guess == INVALID for _, guess in pairs) else [])]
    return Matrix(labels, [[pairs.get((e, g), 0) for g in labels] for e in labels])


def confusion_of(report: Report) -> dict[str, dict[str, Matrix]]:
    """Model → field → matrix; empty for other evaluations."""
    return report.part(CONFUSION, dict[str, dict[str, Matrix]]) or {}
