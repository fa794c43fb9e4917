"""How small a difference some number of rows can show.

For plans and notes, which change no metric: evaluators don't import it.
"""

import math
from statistics import NormalDist

DISAGREEMENT = 0.25
"""Assumed share of rows that only one of two models gets right."""
LEVEL = 0.05
POWER = 0.8


def detectable_difference(n: int, disagreement: float = DISAGREEMENT) -> float:
    """The smallest difference of two models' accuracy that n rows show four times in five.

    disagreement: the share of rows that exactly one of the models gets right; at least as large as
    the difference. "Show" means a two-sided McNemar test at the 5 % level. 1 if n is below 4.

    Source: R. J. Connor, "Sample size for testing differences in proportions for the paired-sample
    design", Biometrics 43 (1987) 207-211, solved for the difference.
    """
    low, high = 0.0, 1.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if rows_needed(middle, disagreement) <= n else (middle, high)
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
