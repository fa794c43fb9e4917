"""`eval.json`: checks answers against an expected JSON object, as a whole and field by field."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec

from finery import DataError, File, Job, Key, Look, Resources, UsageError, setting
from finery.advanced import did_you_mean
from finery.rows import Row, answer_text
from finery.rows.answers.answerschema import AnswerSchema, Problem
from finery.rows.answers.jsonvalues import (
    MISSING,
    UNREADABLE,
    Comparison,
    Count,
    NotJson,
    Path,
    compact_json,
    leaves,
    lookup,
    nodes,
    parse,
)
from finery.rows.answers.reading import explain_bad_row, extract_answer
from finery.rows.report import ReportTable
from finery.rows.templates.limits import limit_patterns
from finery_eval.asking import refuse_calls, refuse_rows
from finery_eval.evaluation import answers_table, majority_table
from finery_eval.evaluator import BatchEvaluator, longest_answer
from finery_eval.verdicts import Answers, Verdict, Verdicts

RESERVED = ("accuracy", "field_score", "valid_json", "valid")
MOST_COLUMNS = 8
"""Maximum number of fields that get a column in the table of scores."""
MANY_FIELDS = 20
NO_OBJECT = Problem("JSON that isn't an object", "JSON that isn't an object")
PROBLEMS_SHOWN = 5

Outcome = tuple[int, int, tuple[Count, ...]]
"""Number of fields, number of right fields with a single value, and the counts of list fields."""


class Fields(msgspec.Struct, frozen=True):
    """The judged fields. paths: by name. lists: the names of fields that hold lists."""

    paths: dict[str, Path]
    lists: frozenset[str]
    named: bool  # in the recipe, so that other fields don't count


class Reading(msgspec.Struct, frozen=True):
    """A parsed answer: its JSON value, or `UNREADABLE`, and what is wrong with it."""

    value: Any
    problem: Problem | None


class Json(BatchEvaluator, packages=("jsonschema",), task="extraction"):
    r"""Judge JSON answers: the complete object, each field, and validity under a JSON Schema.

    A row's completion is the expected object. An answer must consist of JSON only, optionally in a
    code fence; `extract` finds it in a longer text, e.g. `'(?s)(\{.*\})'`. Duplicate keys, NaN and
    Infinity, numbers beyond a double and more than 64 levels of nesting don't count as JSON. The
    order of keys doesn't matter, 3 equals 3.0, and a missing field differs from null.

    Metrics, each from 0 to 1 with a 95 % interval:
    - `accuracy`: rows with the expected object, or, with `fields`, rows where all these are right.
    - `field_score`: the mean of the fields' scores.
    - `<field>`, e.g. `customer.city`: rows where this field is right, or missing as expected. For
      a field with lists, the F1 over the elements of all rows (van Rijsbergen 1979); an answer
      without a list counts as one wrong element. `field.<field>` if the name is reserved.
    - `valid_json`: answers that are JSON.
    - `valid`: answers that match the schema; only with `schema`.

    Intervals are Wilson scores (Wilson 1927) for shares. For F1 and `field_score` they come from a
    percentile bootstrap over rows with 2,000 resamples and a fixed seed (Efron & Tibshirani 1993).
    Each further model is compared with the first on the same rows, by the exact McNemar test
    (McNemar 1947) and Newcombe's paired difference (1998, method 10).

    Raises DataError for rows with an expected answer that isn't a JSON object or breaks the schema,
    and for a file that isn't a JSON Schema; UsageError for settings that can't work.
    """

    schema: File | None = setting(
        None,
        help="JSON Schema file for the answers. References to other files aren't supported, and "
        "`format` isn't checked; use `pattern` instead.",
    )
    constrain: bool = setting(
        False,
        help="Hold the answers to `schema`: at each token, the engine allows only what continues "
        "JSON by it, as in a bundle with a `schema`.",
    )
    fields: list[str] = setting(
        [],
        help="Fields to judge, by dotted path; the rest of the object then doesn't count. By "
        "default, all fields in the expected objects. Only fields named here can be in `require`.",
        examples=[["customer.city", "total"]],
    )
    tolerance: float = setting(
        0.0, ge=0.0, help="Largest difference at which a number counts as right."
    )
    lists: Literal["unordered", "ordered"] = setting(
        "unordered", help="Whether the order of a list's elements counts."
    )
    max_tokens: int = longest_answer(256)
    ignore_case: bool = setting(False, help="Treat 'High' and 'high' as the same answer.")

    def metric_names(self) -> list[str]:
        """The metrics; the first one decides. Without `fields`, those of fields aren't known."""
        named = [metric_of(field) for field in self.fields]
        return ["accuracy", "field_score", *named, "valid_json", *self._valid()]

    def answer_fields(self, rows: Sequence[Row] | None) -> Collection[str] | None:
        """The keys of the expected objects."""
        if rows is None:
            return None
        values = [self.read(answer_text(row), None).value for row in rows]
        return {key for value in values if isinstance(value, dict) for key in value}

    def more_metrics(self) -> str:
        """A hint on how to make a field available to `require`."""
        return "" if self.fields else "a field must also be named in `fields`"

    def check(self) -> None:
        """Raise `UsageError` for settings that can't work. Light: reads no input."""
        if self.constrain and self.schema is None:
            raise UsageError(
                "constrain: true needs a JSON Schema", where="constrain", fix="add `schema: FILE`"
            )
        for field in self.fields:
            if not all(field.split(".")) or self.fields.count(field) > 1:
                raise UsageError(
                    f"{field!r} isn't the path of a field, or is listed twice",
                    where="fields",
                    fix="list each field once, by the keys that lead to it: customer.city",
                )
        super().check()

    def examine(self, look: Look) -> None:
        """Also raise it for a file that isn't a JSON Schema."""
        self.answer_schema()
        super().examine(look)

    def judging(self, job: Job, rows: Sequence[Row]) -> Callable[[Answers], Verdicts]:
        """Read the schema and the expected objects, and find out which fields to judge."""
        schema = self.answer_schema()
        expected = self.expectations(rows, schema)
        fields = fields_of(self.fields, expected)
        if len(fields.paths) > MANY_FIELDS:
            job.log(f"judging {len(fields.paths)} fields; list those that matter in `fields`")
        return partial(self.judged, schema, expected, fields)

    def answer_schema(self) -> AnswerSchema | None:
        """The schema, or None if the recipe gives none."""
        return None if self.schema is None else AnswerSchema(self.schema.path)

    def cache_key(self) -> Key:
        """Schemas only with `constrain`."""
        return msgspec.structs.replace(super().cache_key(), schemas=self.constrain)

    def resources(self) -> Resources:
        """llguidance, for models that transformers answers for."""
        formats = {model.meta.get("format") for model in self.models}
        is_needed = self.constrain and formats & {"transformers", "adapter"}
        installs = {"llguidance": "finery[schema]"} if is_needed else {}
        return super().resources() | Resources(packages=installs)

    def constraint(self) -> dict[str, Any] | None:
        """The schema, with `constrain`."""
        schema = self.answer_schema() if self.constrain else None
        return None if schema is None else schema.value

    def expectations(self, rows: Sequence[Row], schema: AnswerSchema | None) -> list[Any]:
        """The expected object of each row. `DataError` with the rows that have no valid one."""
        refuse_calls(rows)
        readings = [self.read(answer_text(row), schema) for row in rows]
        refuse_rows(
            "the expected answer of some rows isn't a JSON object",
            (
                f"{row['id']}: "
                + (read.problem.text if read.problem else compact_json(read.value)[:80])
                for row, read in zip(rows, readings, strict=True)
                if not isinstance(read.value, dict)
            ),
            fix="give each row a JSON object as its completion, or drop it",
        )
        refuse_rows(
            "the expected answer of some rows breaks the schema",
            (
                f"{row['id']}: {read.problem.text}"
                for row, read in zip(rows, readings, strict=True)
                if read.problem
            ),
            fix="correct the rows or the schema",
        )
        return [read.value for read in readings]

    def read(self, text: str, schema: AnswerSchema | None) -> Reading:
        """Parse an answer and check it."""
        try:
            value = parse(extract_answer(text, self.extract))
        except NotJson as error:
            return Reading(UNREADABLE, Problem(error.kind, str(error)))
        if schema is not None:
            with explain_bad_row(text), limit_patterns("schema: one of its patterns"):
                return Reading(value, schema.problem(value))
        return Reading(value, None if isinstance(value, dict) else NO_OBJECT)

    def judged(
        self, schema: AnswerSchema | None, expected: Sequence[Any], fields: Fields, answers: Answers
    ) -> Verdicts:
        """Parse the answers and compare them with the expected objects."""
        readings = {
            name: [self.read(answer.text, schema) for answer in completions]
            for name, completions in answers.items()
        }
        same = Comparison(
            tolerance=self.tolerance, ignore_case=self.ignore_case, ordered=self.lists == "ordered"
        )
        judged = {
            name: [self.verdict(same, fields, *pair) for pair in zip(expected, read, strict=True)]
            for name, read in readings.items()
        }
        invalid = {n: sum(r.value is UNREADABLE for r in read) for n, read in readings.items()}
        expectations = {
            n: [compact_json(lookup(v, path)) for v in expected] for n, path in fields.paths.items()
        }
        named = [metric_of(field) for field in fields.paths]
        shown_fields = named if len(named) <= MOST_COLUMNS else []
        lists = [metric_of(field) for field in fields.paths if field in fields.lists]
        return self.verdicts(
            answers,
            judged,
            [
                answers_table(answers, invalid),
                majority_table(expectations, "value"),
                *(field_table(name, fields, verdicts) for name, verdicts in judged.items()),
                *problem_tables(readings),
            ],
            metrics=["accuracy", "field_score", *named, "valid_json", *self._valid()],
            headline=["accuracy", "field_score", *shown_fields, *(self._valid() or ["valid_json"])],
            statistics={"field_score": field_score, **dict.fromkeys(lists, elements_f1)},
        )

    def verdict(self, same: Comparison, fields: Fields, expected: Any, reading: Reading) -> Verdict:
        """What an answer counts as, and where it differs from what is expected."""
        readable = reading.value is not UNREADABLE
        differences = dict(differing(same, fields, expected, reading.value))
        is_right = fields.named or same.equal(expected, reading.value)
        of_fields: dict[str, Any] = {}
        for name, path in fields.paths.items():
            want, got = lookup(expected, path), lookup(reading.value, path)
            as_list = name in fields.lists
            count = same.count(want, got, as_list=as_list)
            of_fields[name] = count if as_list else bool(count.hits)
        right = sum(value for name, value in of_fields.items() if name not in fields.lists)
        lists = tuple(value for name, value in of_fields.items() if name in fields.lists)
        values: dict[str, Any] = {
            "accuracy": is_right and not differences,
            "field_score": (len(of_fields), right, lists),
            "valid_json": readable,
            **{metric_of(name): value for name, value in of_fields.items()},
        }
        if self.schema is not None:
            values["valid"] = reading.problem is None
        return Verdict(
            values,
            {
                "expected": expected,
                "prediction": reading.value if readable else None,
                "problem": reading.problem.text if reading.problem else None,
                "differs": differences,
            },
        )

    def _valid(self) -> list[str]:
        return ["valid"] if self.schema is not None else []


def metric_of(field: str) -> str:
    """The metric of a field: its name, prefixed with `field.` if the name is reserved."""
    return f"field.{field}" if field in RESERVED or not field else field


def fields_of(names: Sequence[str], expected: Sequence[Any]) -> Fields:
    """The named fields, or all leaves. `DataError` for a field that no row expects."""
    present = {".".join(path): path for value in expected for path, _ in nodes(value)}
    for name in names:
        if name not in present:
            raise DataError(
                f"no expected answer has a field '{name}'",
                where="fields",
                fix=did_you_mean(name, present),
            )
    leaf_paths = [present[name] for name in names] if names else leaves(expected)
    paths = {".".join(path): path for path in leaf_paths}
    if len({metric_of(name) for name in paths}) < len(leaf_paths) or not leaf_paths:
        raise DataError(
            "some fields of the expected answers have the same name"
            if leaf_paths
            else "the expected answers have no fields",
            fix="rename keys with dots, or list what to judge in `fields`",
        )
    lists = (n for n, p in paths.items() if any(isinstance(lookup(v, p), list) for v in expected))
    return Fields(paths, frozenset(lists), named=bool(names))


def differing(
    same: Comparison, fields: Fields, expected: Any, answered: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(field, its two values) for fields that differ. Missing values are omitted."""
    paths = dict(fields.paths)
    if not fields.named and isinstance(answered, dict):  # then unexpected fields count, too
        paths |= {".".join(p): p for p in leaves([answered]) if lookup(expected, p) is MISSING}
    for name, path in paths.items():
        want, got = lookup(expected, path), lookup(answered, path)
        if not same.equal(want, got):
            values = {"expected": want, "answered": got}
            yield name, {k: v for k, v in values.items() if v not in (MISSING, UNREADABLE)}


def field_score(outcomes: Mapping[Outcome, int]) -> float:
    """The mean of the fields' scores. outcomes: how often each occurs."""
    if not outcomes:
        return 0.0
    fields, _, lists = next(iter(outcomes))
    rows = sum(outcomes.values())
    right = sum(n * singles for (_, singles, _), n in outcomes.items())
    f1s = [
        f1_of(total((counts[i], n) for (_, _, counts), n in outcomes.items()))
        for i in range(len(lists))
    ]
    return (right / rows + sum(f1s)) / fields


def total(counts: Iterable[tuple[tuple[int, int, int], int]]) -> Count:
    """The sum of (count, how often it occurs)."""
    hits = answered = expected = 0
    for count, n in counts:
        hits += n * count[0]
        answered += n * count[1]
        expected += n * count[2]
    return Count(hits, answered, expected)


def elements_f1(counts: Mapping[tuple[int, int, int], int]) -> float:
    """The F1 over the elements of lists. counts: how often each `Count` occurs."""
    return f1_of(total(counts.items()))


def f1_of(count: Count) -> float:
    """2 · hits / (answered + expected), or 1 if nothing is expected and nothing was answered."""
    items = count.answered + count.expected
    return 2 * count.hits / items if items else 1.0


def field_table(model: str, fields: Fields, judged: Sequence[Verdict]) -> ReportTable:
    """Every field's score; precision, recall and how many elements there are, if it holds lists."""
    rows: list[list[Any]] = []
    for name in fields.paths:
        values = [verdict.values[metric_of(name)] for verdict in judged]
        if name in fields.lists:
            of = total((value, 1) for value in values)
            precision = of.hits / of.answered if of.answered else None
            recall = of.hits / of.expected if of.expected else None
            rows.append([name, f1_of(of), precision, recall, of.answered, of.expected])
        else:
            rows.append([name, sum(values) / len(values), None, None, None, None])
    scores = ["score", "precision", "recall"]
    units = dict.fromkeys(scores, "share")
    columns = ["field", *scores, "elements answered", "elements expected"]
    title = f"{model}: fields (a list's score is its F1)"
    return ReportTable(title, columns, rows, units=units, model=model)


def problem_tables(readings: Mapping[str, Sequence[Reading]]) -> list[ReportTable]:
    """A table of each model's most frequent problems; no table if there are none."""
    rows = [
        [name, kind, n]
        for name, read in readings.items()
        for kind, n in Counter(r.problem.kind for r in read if r.problem).most_common(
            PROBLEMS_SHOWN
        )
    ]
    columns = ["model", "problem", "answers"]
    return [ReportTable("Answers that break JSON or the schema", columns, rows)] if rows else []
