"""Rankings: the best by a score, and one ranking out of two."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

POOL = 1_000
"""Best chunks of each ranking that are fused, as in Cormack et al."""
FUSION = 60
"""The constant of reciprocal rank fusion."""
Ranking = list[tuple[int, float]]
"""(number of the chunk, score), best first."""


def best(scores: "np.ndarray", count: int, least: float = -1e30) -> Ranking:
    """At most `count` numbers with a score above `least`, the best first; of equal ones the first.

    scores: shape (chunks,).
    """
    import numpy as np

    if count < len(scores):
        bound = np.partition(scores, len(scores) - count)[len(scores) - count]
        numbers = np.flatnonzero((scores >= bound) & (scores > least))
    else:
        numbers = np.flatnonzero(scores > least)
    order = np.argsort(-scores[numbers], kind="stable")[:count]
    return [(int(number), float(scores[number])) for number in numbers[order]]


def fused(rankings: Sequence[Ranking], count: int) -> Ranking:
    """Reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009): Σ 1 / (60 + rank)."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (number, _) in enumerate(ranking, start=1):
            scores[number] = scores.get(number, 0.0) + 1 / (FUSION + rank)
    ordered = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return ordered[:count]
