"""Everything that is said of models by counting: scores, and the difference of every two."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finery_eval import verdicts as of_rows
from finery_eval.scoring import groups as grouped
from finery_eval.scoring.differences import pairs_of
from finery_eval.scoring.groups import Group
from finery_eval.verdicts import Draws, Judged, Score, Verdicts


class Scored(NamedTuple):
    """scores: model → metric → (value, interval). pairs: see `differences.pairs_of`."""

    scores: Mapping[str, dict[str, Score]]
    pairs: Sequence[dict[str, Any]]


def score(verdicts: Verdicts, groups: Sequence[Group] | None) -> Scored:
    """Score all models. groups: the answers that belong together; None if none do."""
    judged = verdicts.judged
    draws = {name: _draws_of(of, verdicts, groups) for name, of in judged.items()}
    scores = {name: scores_of(of, verdicts, groups, draws[name]) for name, of in judged.items()}
    return Scored(scores, pairs_of(verdicts, draws, groups))


def scores_of(
    judged: Judged,
    verdicts: Verdicts,
    groups: Sequence[Group] | None,
    draws: Draws | None = None,
) -> dict[str, Score]:
    """The scores of one model. draws: of its means, if they are there already."""
    if groups is None:
        return of_rows.scores(judged, verdicts, draws)
    return grouped.scores(judged, verdicts, groups, draws)


def _draws_of(judged: Judged, verdicts: Verdicts, groups: Sequence[Group] | None) -> Draws:
    if groups is None:
        return of_rows.draws_of(judged, verdicts)
    return grouped.draws_of(judged, verdicts, groups)
