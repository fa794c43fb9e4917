"""The mean of a metric over repeats under different seeds, with its spread and interval."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Repeats(NamedTuple):
    """Mean, standard deviation (of a sample) and 95 % interval of the mean.

    size: how many values. deviation, interval: None of one value, which has no spread.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    size: int


def summarise(values: Sequence[float]) -> Repeats:
    """A summary of the values of one metric under different seeds. Needs at least one value.

    The interval is Student's: mean ± t·s/√n, with the 97.5 % quantile of n - 1 degrees of freedom.
    It covers the seeds, not the choice of the test rows.

    Source: Student, "The probable error of a mean", Biometrika 6 (1908) 1-25.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Repeats(mean, None, None, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return Repeats(mean, deviation, (mean - half, mean + half), n)


def t_quantile(freedom: int, share: float = 0.975) -> float:
    """The quantile of Student's t distribution with integer degrees of freedom, for share ≥ 0.5."""
    low, high = 0.0, 1.0
    while t_cdf(high, freedom) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if t_cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def t_cdf(t: float, freedom: int) -> float:
    """The probability of a value of at most `t` ≥ 0, by the finite series.

    Source: M. Abramowitz and I. Stegun, "Handbook of Mathematical Functions" (1964), 26.7.3-4.
    """
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return 0.5 + within / 2
