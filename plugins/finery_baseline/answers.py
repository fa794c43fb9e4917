"""The answers of training rows in parts: one class, or fields with a class each."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from finery import DataError, Dataset, Step, UsageError, setting, takes
from finery.advanced import did_you_mean
from finery.rows import Row, answer_text, split_turns
from finery.rows.answers.reading import as_text, field_names
from finery.rows.similar import question_text
from finery_baseline.classifier import LINES, OBJECT, WHOLE

MOST_CLASSES = 500
"""More values than that in a field are free text."""
ROWS = "rows.jsonl"
"""The file of `baseline.nearest`: the prompt and the answer of each row, a row a line."""


class FieldsStep(Step):
    """Base of step types that learn each field of the answers."""

    is_baseline = True

    rows: Dataset = takes(role="train", help="Rows to learn from, e.g. `split.train`.")
    fields: list[str] = setting(
        [],
        help="Fields of the answer. Default: those that all answers have once and in one form, "
        "else the whole answer.",
        examples=[["category", "priority"]],
    )


class Shape(msgspec.Struct, frozen=True):
    """The form of answers: lines `field: value`, a JSON object, or one text."""

    form: str
    fields: tuple[str, ...] = ()

    def parts(self, answer: str) -> list[str]:
        """The value of each field as text; of an object, as JSON. The answer has this shape."""
        if self.form == WHOLE:
            return [answer.strip()]
        if self.form == OBJECT:
            values = json.loads(answer)
            return [json.dumps(values[field], ensure_ascii=False) for field in self.fields]
        named = dict(_lines(answer))
        return [named[field] for field in self.fields]


class Lesson(msgspec.Struct, frozen=True):
    """A training row: the text of its prompt, its answer, and the parts of that."""

    question: str
    answer: str
    parts: list[str]


def lessons_of(rows: Dataset, fields: Sequence[str]) -> tuple[Shape, list[Lesson]]:
    """The form of the answers, and the rows to learn from.

    fields: those to predict; empty: those that all answers have. If there are none, if only some
    answers are JSON objects, or if they have several lines of one name, the complete answer is
    predicted. Raises `DataError` if there are no rows, and for rows without a prompt or an answer;
    `UsageError` for `fields` that don't occur exactly once in all answers, in the same form.
    """
    read = [(row, question_text(split_turns(row)[0]), answer_of(row)) for row in rows]
    if not read:
        raise DataError("`rows` has no rows to learn from", fix="check the step that makes `rows`")
    missing = [f"row {row['id']}" for row, asked, answer in read if not (asked and answer)]
    if missing:
        raise DataError(
            "some rows have no prompt or no answer",
            details=missing[:10],
            fix="give every row both, or drop it",
        )
    shape = shape_of([answer for _, _, answer in read], fields)
    return shape, [Lesson(asked, answer, shape.parts(answer)) for _, asked, answer in read]


def classes_of(shape: Shape, lessons: Sequence[Lesson]) -> list[list[str]]:
    """The classes of each field. Raises `DataError` for a field of free text."""
    columns = [sorted(set(column)) for column in zip(*(x.parts for x in lessons), strict=True)]
    for name, classes in zip(shape.fields or ("answer",), columns, strict=True):
        if not are_classes(len(classes), len(lessons)):
            labels = [f for f, of in zip(shape.fields, columns, strict=False) if of != classes]
            raise DataError(
                f"the {name} of {len(lessons)} rows has {len(classes)} different values: it is "
                "free text, not a label",
                where="rows",
                fix=f"name the fields that are labels, e.g. fields: [{labels[0]}]"
                if labels
                else "use baseline.nearest",
            )
    return columns


def are_classes(values: int, rows: int) -> bool:
    """Whether so many different values of a field are classes. Otherwise it is free text."""
    return values <= min(MOST_CLASSES, max(20, rows // 2))


def answer_of(row: Row) -> str:
    """The text of a row's answer; without one, its label."""
    text, label = answer_text(row).strip(), row.get("label")
    if text or label is None:
        return text
    if isinstance(label, dict):
        return "\n".join(f"{name}: {as_text(value)}" for name, value in label.items())
    return as_text(label)


def shape_of(answers: Sequence[str], fields: Sequence[str]) -> Shape:
    """The form of answers. They are texts unless all have fields in one form, each field once.

    fields: those that count; empty: all. Raises `UsageError` for fields that not all answers have.
    """
    names = list(dict.fromkeys(field_names(answers)))
    unknown = [field for field in fields if field not in names]
    if unknown:
        raise UsageError(
            f"not all answers have the field '{unknown[0]}'",
            where="fields",
            fix=did_you_mean(unknown[0], names)
            or "remove `fields` to predict the complete answers",
        )
    forms = {OBJECT if _is_object(answer) else LINES for answer in answers}
    repeated = _repeated(answers) if forms == {LINES} else set()
    if not fields and (not names or len(forms) > 1 or repeated):
        return Shape(WHOLE)
    if len(forms) > 1:
        raise UsageError(
            "some answers are JSON objects, others are lines `field: value`",
            where="fields",
            fix="write all answers in one form, or remove `fields` to predict the complete answers",
        )
    twice = [field for field in fields if field in repeated]
    if twice:
        raise UsageError(
            f"some answers have several lines '{twice[0]}: …'",
            where="fields",
            fix="write its values in one line, or name other fields",
        )
    return Shape(forms.pop(), tuple(fields or names))


def _lines(answer: str) -> list[tuple[str, str]]:
    """The name and the value of each line `field: value`."""
    lines = (line.partition(":") for line in answer.splitlines() if line.strip())
    return [(name.strip(), value.strip()) for name, _, value in lines]


def _repeated(answers: Sequence[str]) -> set[str]:
    """The names that have more than one line in any answer."""
    counts = (Counter(name for name, _ in _lines(answer)) for answer in answers)
    return {name for of in counts for name, n in of.items() if n > 1}


def _is_object(answer: str) -> bool:
    try:
        value: Any = json.loads(answer)
    except ValueError:
        return False
    return isinstance(value, dict)
