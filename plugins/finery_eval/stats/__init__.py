"""Statistics of evaluations: small pure functions over counts and outcomes.

In go counts of rows, out come intervals, differences and p-values. Each function names the paper of
its method; `tests/plugins/test_eval_stats.py` holds it against published values, scipy and
statsmodels. They need no package, so that evaluators need none and no version of one is in a key.
"""

from finery_eval.stats.classes import ClassScore, Pairs, class_score, macro_f1
from finery_eval.stats.resampling import (
    GAIN,
    RESAMPLES,
    SHARE,
    bootstrap,
    bootstrap_p,
    expanded_tail,
    interval_of,
    percentiles,
    resampled,
    sign_flip_exact,
)
from finery_eval.stats.several import holm
from finery_eval.stats.shares import (
    Difference,
    Interval,
    mcnemar_exact,
    paired_difference,
    same_in_all,
    wilson,
)

__all__ = [
    "GAIN",
    "RESAMPLES",
    "SHARE",
    "ClassScore",
    "Difference",
    "Interval",
    "Pairs",
    "bootstrap",
    "bootstrap_p",
    "class_score",
    "expanded_tail",
    "holm",
    "interval_of",
    "macro_f1",
    "mcnemar_exact",
    "paired_difference",
    "percentiles",
    "resampled",
    "same_in_all",
    "sign_flip_exact",
    "wilson",
]
