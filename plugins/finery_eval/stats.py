"""Statistics of evaluations: small pure functions over counts and outcomes.

Input: counts of rows. Output: intervals, differences and p-values. Each function names the paper of
its method; `tests/plugins/test_eval_stats.py` holds it against published values, scipy and
statsmodels. They need no package, so that evaluators need none and no version of one is in a key.
`finery_eval.measure` chooses among them for a metric.
"""

import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)
Interval = tuple[float, float]

# -- shares of rows, and the difference of two shares of the same rows -----------------------------

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


def wilson(successes: float, n: float, z: float = Z95) -> Interval:
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


def same_in_all(value: float, n: int, lowest: float = 0.0, highest: float = 1.0) -> Interval:
    """An interval of a mean that is `value` in each of n groups, where a bootstrap has no width.

    lowest, highest: what the mean of a group can be. None of n groups has another mean than
    `value`, so up to a share u of all groups may have one, by Wilson's interval of 0 in n. The ends
    are the means if all of that share were at `lowest` or at `highest`. For a share of 0 or 1, this
    is Wilson's interval of n answers. Groups should be of about equal size.

    Source of the bound without an event: J. A. Hanley and A. Lippman-Hand, "If nothing goes wrong,
    is everything all right? Interpreting zero numerators", JAMA 249 (1983) 1743-1745.
    """
    upper = wilson(0, n)[1]
    return value - upper * (value - lowest), value + upper * (highest - value)


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


def paired_difference(
    both: float, only_first: float, only_second: float, neither: float, z: float = Z95
) -> tuple[float, Interval]:
    """(difference, interval) of two shares measured on the same rows: first minus second.

    The square-and-add interval from the two Wilson intervals and the correlation of the pairs,
    with its continuity correction; 95 % by default. (0, (-1, 1)) without rows. The numbers needn't
    be whole if they are effective numbers of answers.

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


def _correlation(both: float, only_first: float, only_second: float, neither: float) -> float:
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


def not_worse_z(gained: float, lost: float, n: float, margin: float) -> float:
    """How many standard errors a paired difference of shares is above -`margin`.

    gained, lost: answers that only the new or only the old model has right, of n; not whole numbers
    if they are effective. The score test, whose variance is that at the margin, so it also holds
    where hardly any answers differ. `paired_difference` doesn't there: if a model that is worse by
    the margin gains nothing, its lower end is above the margin in up to 9 % of cases.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design", Statistics in Medicine 17 (1998) 891-908.
    """
    linear = -gained - lost - (2 * n - gained + lost) * margin
    constant = lost * margin * (1 + margin)
    # The probability of a loss, estimated as if the difference were the margin.
    p_gain = (math.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n) - margin
    return (gained - lost + n * margin) / math.sqrt(n * (2 * p_gain + margin - margin * margin))


# -- several tests at once -------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in their order.

    If those below 0.05 count as differences, the probability of even one false difference among
    all of them is at most 5 %, whether or not the tests depend on each other.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal
    of Statistics 6 (1979) 65-70.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


# -- precision, recall and F1 of classes -----------------------------------------------------------

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


def mean_macro_f1(counts: Mapping[tuple[tuple[str, str], ...], int]) -> float:
    """The mean of the fields' macro-F1. counts: of the (expected, predicted) pairs of each row.

    A statistic of `finery_eval.measure`; an answer that is one class has one pair.
    """
    if not counts:
        return 0.0
    fields = len(next(iter(counts)))
    scores = []
    for i in range(fields):
        pairs: Counter[tuple[str, str]] = Counter()
        for row, n in counts.items():
            pairs[row[i]] += n
        scores.append(macro_f1(pairs))
    return sum(scores) / fields


# -- resampling: what no formula has, e.g. F1, and rows that come in groups ------------------------

PARTS = 5_000
"""Resolution of a sign-flip test of non-integer numbers: parts in the sum of all gains."""
RESAMPLES = 2000
TAIL = 0.025
BOOTSTRAP_SEED = 20_000
SHARE: Interval = (0.0, 1.0)
"""The range of a share of a row or a group, or of any other score from 0 to 1."""
GAIN: Interval = (-1.0, 1.0)
"""The range of the difference of two shares."""
KEPT = 1000
"""Rows up to which the resamples are kept for the next metric."""
NO_WIDTH = 1e-9
"""Resampled values that differ by less only differ by rounding."""


def sign_flips(gains: Sequence[float]) -> float:
    """The p-value of `sign_flip_exact`, also for non-integer gains, which are rounded to parts."""
    total = sum(map(abs, gains))
    if total < NO_WIDTH:
        return 1.0
    is_whole = all(gain == round(gain) for gain in gains)
    part = 1.0 if is_whole else total / PARTS
    return sign_flip_exact([round(gain / part) for gain in gains])


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


def resampled(
    outcomes: Sequence[T],
    statistic: Callable[[Mapping[T, int]], Sequence[float]],
    *,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> list[list[float]]:
    """The values of each number that `statistic` returns, one for each resample of the rows.

    outcomes: one for each row, n > 0. statistic: takes the count of each outcome. Rows are drawn
    n at a time, with replacement, `resamples` times, always with the same `seed`. So the outcomes
    of two models on the same rows are drawn in pairs, and the difference of their values is that
    of a paired bootstrap.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), ch. 13.
    """
    distinct = list(dict.fromkeys(outcomes))
    code = {outcome: i for i, outcome in enumerate(distinct)}
    codes = [code[outcome] for outcome in outcomes]  # small whole numbers count faster
    values: list[Sequence[float]] = []
    draws = _drawn if len(codes) <= KEPT else _draw
    for places in draws(len(codes), resamples, seed):
        drawn = Counter(map(codes.__getitem__, places))
        values.append(statistic({distinct[i]: n for i, n in drawn.items()}))
    return [list(column) for column in zip(*values, strict=True)]


def _draw(n: int, resamples: int, seed: int) -> Iterator[list[int]]:
    """The rows of each resample, by number."""
    choices, rows = random.Random(seed).choices, range(n)
    return (choices(rows, k=n) for _ in range(resamples))


@lru_cache(maxsize=2)
def _drawn(n: int, resamples: int, seed: int) -> list[list[int]]:
    """The same, kept: the metrics of an evaluation have the same resamples."""
    return list(_draw(n, resamples, seed))


def bootstrap(
    outcomes: Sequence[T],
    statistic: Callable[[Mapping[T, int]], float],
    within: Interval,
    *,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Interval:
    """The 95 % bootstrap interval of the number that `statistic` returns, see `interval_of`.

    As in `resampled`, the same rows give the same interval. within: what the number can be.
    """
    (draws,) = resampled(outcomes, lambda x: [statistic(x)], resamples=resamples, seed=seed)
    return interval_of(draws, len(outcomes), within)


def interval_of(draws: Sequence[float], n: int, within: Interval) -> Interval:
    """The 95 % interval of a number, from its values in resamples of n rows or groups.

    The percentiles are expanded for n, since a bootstrap of few rows is too narrow. If all draws
    are equal, as for rows that are all right or for a single row, the bootstrap has no width. Then
    the interval is that of `same_in_all`, as if the number were a mean. within: what it can be,
    where infinite ends are allowed.
    """
    low, high = percentiles(draws, expanded_tail(n))
    return (low, high) if high - low > NO_WIDTH else same_in_all(low, n, *within)


def percentiles(values: Sequence[float], tail: float = TAIL) -> Interval:
    """The resampled values without that share of them at each end; by default the middle 95 %."""
    ordered, cut = sorted(values), int(len(values) * tail)
    return ordered[cut], ordered[-1 - cut]


def expanded_tail(n: int) -> float:
    """The share to leave out at each end of a bootstrap of n rows, for an interval of 95 %.

    It corrects the spread, which is too small by the root of (n - 1) / n, and takes Student's
    quantile instead of the normal one (here by its expansion in 1 / (n - 1)). 0 for a single row.

    Source: T. Hesterberg, "What teachers should know about the bootstrap", The American
    Statistician 69 (2015) 371-386: the expanded percentile interval.
    """
    if n < 2:
        return 0.0
    z, free = NormalDist().inv_cdf(1 - TAIL), n - 1
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return NormalDist().cdf(-math.sqrt(n / free) * t)


def bootstrap_p(differences: Sequence[float], differing: int) -> float:
    """The two-sided p-value that a difference is 0, from its resampled values.

    Twice the share of resamples on the other side of 0; the sample itself counts as one of them, so
    it is never 0. It is below 0.05 about where the interval of `percentiles` leaves out 0.

    differing: the rows or groups in which the two models differ. If the models are equally good,
    they can be exchanged in each of these without another probability of the outcome, and two of
    the 2 ** differing outcomes are as extreme as the one where all favour the same model. So the
    p-value is 2 ** (1 - differing) at least, however few rows a resample can consist of.

    Sources: A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application" (1997),
    ch. 4.4 and 5; the least value from the permutation test of E. J. G. Pitman (1937), see
    `sign_flip_exact`.
    """
    below = sum(value <= 0 for value in differences)
    above = sum(value >= 0 for value in differences)
    p_value = 2 * (1 + min(below, above)) / (1 + len(differences))
    return min(1.0, max(p_value, 2.0 ** (1 - differing)))


# -- how small a difference some number of rows can show -------------------------------------------


DISAGREEMENT = 0.25
"""Assumed share of rows that only one of two models gets right."""
LEVEL = 0.05
POWER = 0.8


def detectable_difference(n: int) -> float:
    """The smallest difference of two models' accuracy that n rows show four times in five.

    The models are assumed to differ on the share `DISAGREEMENT` of the rows, or on as many as the
    difference needs. "Show" means a two-sided McNemar test at the 5 % level. 1 if n is below 4.

    Source: R. J. Connor, "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43 (1987) 207-211, solved for the difference.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if rows_needed(middle) <= n else (middle, high)
    return high


def rows_needed(difference: float, disagreement: float = DISAGREEMENT) -> float:
    """The rows that show a difference of accuracy, as in `detectable_difference`; not rounded."""
    if difference <= 0:
        return math.inf
    disagreement = max(difference, disagreement)
    reach, power = _quantiles()
    spread = math.sqrt(disagreement - difference**2)
    return ((reach * math.sqrt(disagreement) + power * spread) / difference) ** 2


def rows_to_show(n: int, half_width: float, distance: float) -> float:
    """The rows whose interval leaves out a bound four times in five, not rounded.

    half_width: of the 95 % interval that n rows gave; it shrinks with the root of their number.
    distance: of the estimate to the bound; if it isn't above 0, no number of rows is enough.
    """
    if distance <= 0:
        return math.inf
    reach, power = _quantiles()
    return n * (half_width * (1 + power / reach) / distance) ** 2


def _quantiles() -> tuple[float, float]:
    normal = NormalDist()
    return normal.inv_cdf(1 - LEVEL / 2), normal.inv_cdf(POWER)
