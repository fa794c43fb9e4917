"""What a classifier learns apart from its encoder: classes, linear layers, temperatures."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from finery import DataError, UsageError
from finery_baseline.answers import Lesson, Shape, classes_of
from finery_baseline.vectors import coefficients
from finery_encoder.network import Classifier, Field

WHOLE_ANSWER = "answer"
"""The name of the only field if answers aren't divided into fields."""
WORD = re.compile(r"[^\W\d_]{2,}")
"""Letters of a class's name: `order` and `status` in `order_status_2`."""
HOTTEST = 20.0
"""The highest temperature, and the inverse of the lowest one."""


def fields_of(shape: Shape, lessons: Sequence[Lesson]) -> list[Field]:
    """The fields of the answers with their classes.

    The classes of a field whose values are all JSON lists are the items. Raises `DataError` for a
    field of free text, and if all answers are the same.
    """
    if len({tuple(lesson.parts) for lesson in lessons}) == 1:
        rows = "the only row has" if len(lessons) == 1 else f"all {len(lessons)} rows have"
        raise DataError(
            f"a classifier needs at least two classes, but {rows} the answer "
            f"'{', '.join(lessons[0].parts)}'",
            where="rows",
            fix="add rows with other answers, or check the step that makes `rows`",
        )
    names = shape.fields or (WHOLE_ANSWER,)
    columns = [*zip(*(lesson.parts for lesson in lessons), strict=True)]
    items = [[_items(value) for value in column] for column in columns]
    single = [i for i, of in enumerate(items) if any(value is None for value in of)]
    singles = [
        msgspec.structs.replace(lesson, parts=[lesson.parts[i] for i in single])
        for lesson in lessons
    ]
    chosen = Shape(shape.form, tuple(names[i] for i in single))
    classes = dict(zip(single, classes_of(chosen, singles) if single else (), strict=True))
    return [
        Field(name, classes[i])
        if i in classes
        else Field(name, sorted({item for value in items[i] for item in value or ()}), several=True)
        for i, name in enumerate(names)
    ]


def named_classes(fields: Sequence[Field]) -> list[Lesson]:
    """The name of each class as a row that has this class, for names with a word.

    Raises `UsageError` for answers of several fields or with lists, and if no name has a word.
    """
    if len(fields) > 1 or fields[0].several:
        raise UsageError(
            "class_names expects answers with one label",
            where="class_names",
            fix="remove it, or train a classifier for one field: `fields: [FIELD]`",
        )
    classes = fields[0].classes
    names = [" ".join(WORD.findall(name)) for name in classes]
    if not any(names):
        raise UsageError(
            f"no class has a word in its name: {', '.join(classes[:5])}",
            where="class_names",
            fix="remove it",
        )
    return [Lesson(name, of, [of]) for name, of in zip(names, classes, strict=True) if name]


def _items(value: str) -> list[str] | None:
    """The items of a JSON list, each as JSON; None for any other text."""
    try:
        items = json.loads(value)
    except ValueError:
        return None
    if not isinstance(items, list):
        return None
    return [json.dumps(item, sort_keys=True, ensure_ascii=False) for item in items]


def targets_of(fields: Sequence[Field], lesson: Lesson) -> list[float]:
    """1 for each class of the answer, 0 for others: as long as the logits.

    A field with one class has no 1 if no training row has the answer's class.
    """
    targets: list[float] = []
    for field, value in zip(fields, lesson.parts, strict=True):
        right = (_items(value) or []) if field.several else [value]
        targets += [float(name in right) for name in field.classes]
    return targets


def fit(
    classifier: Classifier,
    vectors: Any,
    lessons: Sequence[Lesson],
    *,
    c: float,
    class_weight: str | None,
) -> tuple[Any, Any]:
    """(weights [classes of all fields, width], bias) in float32, by scikit-learn."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    weights, biases = [], []
    with threadpool_limits(limits=1):  # sums in the same order, whatever the number of cores
        for i, field in enumerate(classifier.fields):
            values = [lesson.parts[i] for lesson in lessons]
            if not field.several:
                w, bias = coefficients(vectors, values, c, class_weight)
                # Softmax has the difference of two classes as its logit.
                halved = 2.0 if len(field.classes) == 2 else 1.0
                weights.append(w / halved)
                biases.append(bias / halved)
                continue
            for name in field.classes:
                has = ["yes" if name in (_items(value) or ()) else "no" for value in values]
                w, bias = coefficients(vectors, has, c, class_weight)
                if len(set(has)) == 1:  # every row has it
                    weights.append(w)
                    biases.append(np.array([math.log(2 * len(has) + 1)]))
                else:
                    weights.append(w[1:])
                    biases.append(bias[1:])
    return (
        np.concatenate(weights).astype(np.float32),
        np.concatenate(biases).astype(np.float32),
    )


def calibrated(
    classifier: Classifier, logits: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]
) -> Classifier:
    """The classifier with the temperatures that make these rows most likely, one a field.

    logits, targets: of rows that it wasn't trained on. Temperature scaling (Guo et al. 2017,
    https://arxiv.org/abs/1706.04599), to four digits. As in Platt scaling (J. Platt 1999), the
    targets aren't certain: of n rows, each label is right with (n + 1) / (n + 2). Else a classifier
    that is right on all of a few rows would be certain of everything.
    """
    import numpy as np
    from scipy.optimize import minimize_scalar
    from scipy.special import log_expit, log_softmax

    parts = zip(*(classifier.split(row) for row in logits), strict=True)
    right = zip(*(classifier.split(row) for row in targets), strict=True)
    fields = []
    for field, x, y in zip(
        classifier.fields, map(np.array, parts), map(np.array, right), strict=True
    ):

        def loss(log: float, field: Field = field, x: Any = x, y: Any = y) -> float:
            scaled, doubt = x / math.exp(log), 1 / (len(x) + 2)
            if field.several:
                y = y * (1 - 2 * doubt) + doubt
                return -float((y * log_expit(scaled) + (1 - y) * log_expit(-scaled)).sum())
            y = y * (1 - doubt) + (1 - y) * doubt / max(1, y.shape[1] - 1)
            return -float((y * log_softmax(scaled, axis=1)).sum())

        limit = math.log(HOTTEST)
        found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded")
        fields.append(field._replace(temperature=round(math.exp(found.x), 4)))
    return classifier._replace(fields=fields)


def mistakes(
    classifier: Classifier, logits: Sequence[Sequence[float]], targets: Sequence[Sequence[float]]
) -> int:
    """How many of some rows have a wrong label in any field."""

    def labels(field: Field, values: Sequence[float], least: float) -> list[int]:
        if field.several:
            return [n for n, value in enumerate(values) if value > least]
        return [max(range(len(values)), key=values.__getitem__)]

    return sum(
        any(
            labels(field, x, 0.0) != labels(field, y, 0.5)
            for field, x, y in zip(
                classifier.fields, classifier.split(row), classifier.split(target), strict=True
            )
        )
        for row, target in zip(logits, targets, strict=True)
    )
