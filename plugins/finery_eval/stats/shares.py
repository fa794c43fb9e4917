"""Shares of rows: their intervals, and the difference of two shares of the same rows."""

import math
import sys
from typing import NamedTuple

Interval = tuple[float, float]

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


class Difference(NamedTuple):
    """The difference of a metric between two models, on the same rows.

    p_value: two-sided, that there is none; for this comparison alone.
    """

    value: float
    interval: Interval
    p_value: float


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
    others = wilson(0, n)[1]
    return value - others * (value - lowest), value + others * (highest - value)


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
