"""Scores and their uncertainty: small pure functions over counts."""

import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

Interval = tuple[float, float]
Pairs = Mapping[tuple[str, str], int]
"""How often each (expected, predicted) pair of classes occurs."""

T = TypeVar("T", bound=Hashable)

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

RESAMPLES = 2000
BOOTSTRAP_SEED = 20_000


def wilson(successes: float, n: int, z: float = Z95) -> Interval:
    """The Wilson score interval of a share `successes / n`, 95 % by default; (0, 1) if n is 0.

    successes: not a whole number if n is an effective number of answers.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    JASA 22 (1927) 209-212; recommended for small n by L. Brown, T. Cai and A. DasGupta, "Interval
    estimation for a binomial proportion", Statistical Science 16 (2001) 101-133.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the formula is exact, but floating point is not.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p-value that two models are right equally often, from the rows they differ on.

    only_first, only_second: rows that only the one or only the other gets right. The exact
    conditional (binomial) form, valid for any number of rows.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12 (1947) 153-157.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    tail = ways = 1
    for k in range(fewer):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    p_value: float = 2 * tail / 2**n  # whole numbers up to here: no overflow
    return min(1.0, max(p_value, sys.float_info.min))  # never 0, however many rows differ


def sign_flip_exact(differences: Sequence[int]) -> float:
    """The two-sided p-value that two models are equally good, from the difference in each group.

    differences: the right answers of the one model minus those of the other, for each group of
    answers that aren't independent of each other. If the models are equally good, each difference
    is as likely to have the other sign. All signs are counted, without drawing any. For groups of
    one answer this is the exact McNemar test.

    Source: R. A. Fisher, "The Design of Experiments" (1935), ch. 3; E. J. G. Pitman, "Significance
    tests which may be applied to samples from any populations", Supplement to the Journal of the
    Royal Statistical Society 4 (1937) 119-130.
    """
    sizes = [abs(difference) for difference in differences if difference]
    reach, limit = 0, abs(sum(differences))
    chances = [1.0]  # of each sum from -reach to reach
    for size in sizes:
        padding = [0.0] * (2 * size)
        shifted = zip([*chances, *padding], [*padding, *chances], strict=True)
        chances, reach = [(one + other) / 2 for one, other in shifted], reach + size
    tail = math.fsum(c for i, c in enumerate(chances) if abs(i - reach) >= limit)
    return min(1.0, max(tail, sys.float_info.min))


def paired_difference(
    both: int, only_first: int, only_second: int, neither: int, z: float = Z95
) -> tuple[float, Interval]:
    """(difference, interval) of two shares measured on the same rows: first minus second.

    The square-and-add interval from the two Wilson intervals and the correlation of the pairs,
    with its continuity correction; 95 % by default. (0, (-1, 1)) without rows.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17 (1998) 2635-2650, method 10.
    """
    n = both + only_first + only_second + neither
    if n == 0:
        return 0.0, (-1.0, 1.0)
    first, second = both + only_first, both + only_second
    low1, high1 = wilson(first, n, z)
    low2, high2 = wilson(second, n, z)
    share1, share2 = first / n, second / n
    phi = _correlation(both, only_first, only_second, neither)
    below = _added(share1 - low1, high2 - share2, phi)
    above = _added(high1 - share1, share2 - low2, phi)
    difference = (only_first - only_second) / n
    return difference, (max(-1.0, difference - below), min(1.0, difference + above))


def _correlation(both: int, only_first: int, only_second: int, neither: int) -> float:
    """Newcombe's phi: a positive numerator is moved towards 0 by n/2, not past it."""
    n = both + only_first + only_second + neither
    first, second = both + only_first, both + only_second
    product = first * (n - first) * second * (n - second)
    if product == 0:
        return 0.0
    numerator: float = both * neither - only_first * only_second
    if numerator > 0:
        numerator = max(0.0, numerator - n / 2)
    return numerator / math.sqrt(product)


def _added(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))


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


def bootstrap(
    outcomes: Sequence[T],
    statistic: Callable[[Mapping[T, int]], Sequence[float]],
    *,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> list[Interval]:
    """95 % percentile bootstrap intervals of each number that `statistic` returns.

    outcomes: one for each row, n > 0. statistic: takes the count of each outcome. Rows are drawn
    n at a time, with replacement, `resamples` times, always with the same `seed`: the same rows
    give the same interval.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13.
    """
    distinct = list(dict.fromkeys(outcomes))
    code = {outcome: i for i, outcome in enumerate(distinct)}
    codes = [code[outcome] for outcome in outcomes]  # small whole numbers count faster
    draw = random.Random(seed).choices
    values: list[Sequence[float]] = []
    for _ in range(resamples):
        drawn = Counter(draw(codes, k=len(codes)))
        values.append(statistic({distinct[i]: n for i, n in drawn.items()}))
    return [_percentiles(column) for column in zip(*values, strict=True)]


def _percentiles(values: Sequence[float]) -> Interval:
    ordered, cut = sorted(values), len(values) * 25 // 1000
    return ordered[cut], ordered[-1 - cut]
