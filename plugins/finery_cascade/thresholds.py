"""The thresholds of a cascade, such that the error of each small model is bounded.

Input: for each model but the last, its confidence in its answer to each calibration row, and which
answers are wrong. Output: for each, the threshold above which it answers, with the evidence.

What holds: with probability `confidence` over the choice of calibration rows, the share of wrong
answers among those that the cascade gives at a stage is at most `risk`, for all stages but the last
at once. So it is at most `risk` for their answers together. Rows must be independent draws of what
the cascade will be asked, and none may have been seen by a model.

- One threshold is tested by an exact binomial test, whose limit is the bound of C. J. Clopper and
  E. S. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
  Biometrika 26 (1934) 404-413. A threshold is the confidence at a rank that is fixed beforehand.
  Given that confidence, the rows strictly above it are independent draws from all rows above it, so
  their number of wrong answers is binomial.
- Thresholds are tested from the strictest to the laxest, until one fails: fixed sequence testing,
  A. N. Angelopoulos, S. Bates, E. J. Candès, M. I. Jordan and L. Lei, "Learn then Test: calibrating
  predictive algorithms to achieve risk control" (2021), https://arxiv.org/abs/2110.01052. It needs
  no correction for the number of thresholds. Since a rank can be on either side of the confidence
  at which the error reaches `risk`, the proof needs that the error doesn't fall just below there.
  `tests/plugins/test_cascade.py` simulates both cases.
- Which rows reach the second stage depends on the threshold of the first, which was chosen by the
  same rows. So the level of each stage is divided by the number of outcomes of those before it, and
  by the number of stages (Bonferroni).
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

STEPS = 20
"""Steps from the first rank to the last one."""
OUTCOMES = STEPS + 2
"""Thresholds that a stage can get, and none."""
FIRST_ERRORS = 5
"""Wrong answers that the test at the first rank allows if there are enough rows. If it allowed
none, it would also fail for good models."""
ALL = -1.0
"""The threshold at which a stage answers everything: no confidence is lower than 0."""


class Certificate(NamedTuple):
    """The evidence for a stage.

    threshold: it answers if its confidence is above that; None: it never answers. rows: of the
    calibration, those that reach the stage. answered, errors: of these. level: of its test.
    """

    threshold: float | None
    rows: int
    answered: int
    errors: int
    level: float

    @property
    def bound(self) -> float | None:
        """The upper limit of its error at its level; None if it never answers."""
        return upper_limit(self.errors, self.answered, self.level) if self.answered else None


def certify(
    scores: Sequence[Sequence[float]],
    wrong: Sequence[Sequence[bool]],
    risk: float,
    confidence: float,
) -> list[Certificate]:
    """The certificate of each stage but the last. scores, wrong: by stage, then by row."""
    rows = list(range(len(scores[0])))
    certificates = []
    for level, own, bad in zip(levels_of(len(scores), confidence), scores, wrong, strict=True):
        chosen = choose([own[i] for i in rows], [bad[i] for i in rows], risk, level)
        certificates.append(chosen)
        if (limit := chosen.threshold) is not None:
            rows = [i for i in rows if own[i] <= limit]
            # A row with the very confidence of the threshold is there by its choice, not by chance.
            rows = [i for i in rows if i != next((j for j in rows if own[j] == limit), None)]
    return certificates


def choose(
    scores: Sequence[float], wrong: Sequence[bool], risk: float, level: float
) -> Certificate:
    """The laxest threshold that passes, of one stage. scores, wrong: of the rows that reach it."""
    ordered = sorted(zip(scores, wrong, strict=True))
    ascending, n = [score for score, _ in ordered], len(ordered)
    least = rows_needed(risk, level)
    # Fewest rows that can pass with `FIRST_ERRORS` wrong answers, or half of them.
    allowing_errors = bisect_left(
        range(n // 2), True, key=lambda m: binomial_tail(FIRST_ERRORS, m, risk) <= level
    )
    start = 1 + max(least, allowing_errors)
    ranks = [start + (n - start) * step // STEPS for step in range(STEPS)] if start < n else []
    best = Certificate(None, n, 0, 0, level)
    for limit in dict.fromkeys([*(ascending[n - rank] for rank in ranks), ALL]):
        answered = n - bisect_left(ascending, math.nextafter(limit, math.inf))
        if answered < least:  # by ties, or by too few rows: no label can make it pass
            continue
        errors = sum(is_wrong for _, is_wrong in ordered[n - answered :])
        if binomial_tail(errors, answered, risk) > level:
            break
        best = Certificate(limit, n, answered, errors, level)
    return best


def levels_of(stages: int, confidence: float) -> list[float]:
    """The level of each stage's test, such that all hold together."""
    return [(1 - confidence) / stages / OUTCOMES**before for before in range(stages)]


def rows_needed(risk: float, level: float) -> int:
    """Fewest rows that can show an error of at most `risk`, if none is wrong."""
    return math.ceil(math.log(level) / math.log1p(-risk))


def binomial_tail(most: int, n: int, share: float) -> float:
    """The probability of at most `most` hits in n independent rows, each with this share."""
    if most >= n or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    hit, miss, whole = math.log(share), math.log1p(-share), math.lgamma(n + 1)
    return min(1.0, math.fsum(
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * hit + (n - k) * miss)
        for k in range(most + 1)
    ))  # fmt: skip


def upper_limit(hits: int, n: int, level: float) -> float:
    """Clopper and Pearson's upper limit of a share, which holds with probability 1 - level."""
    low, high = hits / n, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(hits, n, middle) > level else (low, middle)
    return high
