"""Precision, recall and F1 of classes, from counts."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

Pairs = Mapping[tuple[str, str], int]
"""How often each (expected, predicted) pair of classes occurs."""


class ClassScore(NamedTuple):
    """The scores of one class. None where the denominator is 0."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


def class_score(pairs: Pairs, label: str) -> ClassScore:
    """Precision, recall, F1 and support (rows that are expected to be of the class) of a class.

    Source: C. J. van Rijsbergen, "Information Retrieval", 2nd ed. (1979), ch. 7.
    """
    hits = pairs.get((label, label), 0)
    support = sum(n for (expected, _), n in pairs.items() if expected == label)
    predicted = sum(n for (_, guess), n in pairs.items() if guess == label)
    return ClassScore(
        precision=hits / predicted if predicted else None,
        recall=hits / support if support else None,
        f1=2 * hits / (support + predicted) if support + predicted else None,
        support=support,
    )


def macro_f1(pairs: Pairs) -> float:
    """The mean of F1 over the classes that are expected of at least one row; 0 without rows.

    An answer outside these classes (an invalid one) lowers the recall of the expected class
    and isn't a class of its own. Equal to scikit-learn's
    `f1_score(expected, predicted, labels=sorted(set(expected)), average="macro")`.
    """
    support: Counter[str] = Counter()
    predicted: Counter[str] = Counter()
    for (expected, guess), n in pairs.items():
        support[expected] += n
        predicted[guess] += n
    classes = [label for label, n in support.items() if n]
    if not classes:
        return 0.0
    total = math.fsum(
        2 * pairs.get((label, label), 0) / (support[label] + predicted[label]) for label in classes
    )
    return total / len(classes)
