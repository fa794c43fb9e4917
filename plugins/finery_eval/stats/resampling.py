"""Statistics by resampling: what no formula has, e.g. F1, and rows that come in groups."""

import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import TypeVar

from finery_eval.stats.shares import Interval, same_in_all

T = TypeVar("T", bound=Hashable)

RESAMPLES = 2000
TAIL = 0.025
BOOTSTRAP_SEED = 20_000
SHARE: Interval = (0.0, 1.0)
"""What a share of a row or a group can be, or any other score from 0 to 1."""
GAIN: Interval = (-1.0, 1.0)
"""What the difference of two shares can be."""
NO_WIDTH = 1e-9
"""Resampled values that differ by less are equal but for rounding."""


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
    draw = random.Random(seed).choices
    values: list[Sequence[float]] = []
    for _ in range(resamples):
        drawn = Counter(draw(codes, k=len(codes)))
        values.append(statistic({distinct[i]: n for i, n in drawn.items()}))
    return [list(column) for column in zip(*values, strict=True)]


def bootstrap(
    outcomes: Sequence[T],
    statistic: Callable[[Mapping[T, int]], Sequence[float]],
    within: Interval,
    *,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> list[Interval]:
    """95 % bootstrap intervals of each number that `statistic` returns, see `interval_of`.

    As in `resampled`, the same rows give the same interval. within: what each number can be.
    """
    columns = resampled(outcomes, statistic, resamples=resamples, seed=seed)
    return [interval_of(column, len(outcomes), within) for column in columns]


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
