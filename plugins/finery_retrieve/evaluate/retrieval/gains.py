"""Metrics of a single ranking: recall, reciprocal rank and discounted gain.

Input: the gains of a ranking, i.e. for each retrieved chunk, best first, whether it is a right one
that wasn't counted before. All metrics are from 0 to 1.
"""

import math
from collections.abc import Sequence


def recall(gains: Sequence[bool], right: int, k: int) -> float:
    """The share of the `right` chunks that are among the first k."""
    return sum(gains[:k]) / right


def reciprocal_rank(gains: Sequence[bool], k: int) -> float:
    """1 / the rank of the first right chunk, 0 if none is among the first k.

    Its mean over questions is the MRR. Source: E. M. Voorhees, "The TREC-8 Question Answering Track
    Report" (1999).
    """
    return next((1 / rank for rank, hit in enumerate(gains[:k], 1) if hit), 0.0)


def ndcg(gains: Sequence[bool], right: int, k: int) -> float:
    """The normalised discounted cumulative gain of the first k, with gains of 0 or 1.

    Source: K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM
    Transactions on Information Systems 20 (2002) 422-446, with the discount log2(rank + 1) that is
    usual today.
    """
    ideal = _dcg([True] * min(right, k))
    return _dcg(gains[:k]) / ideal


def _dcg(gains: Sequence[bool]) -> float:
    return math.fsum(1 / math.log2(rank + 1) for rank, hit in enumerate(gains, 1) if hit)
