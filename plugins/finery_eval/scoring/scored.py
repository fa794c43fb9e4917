"""Everything that is said of models by counting: scores, and the difference of every two."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from finery_eval import verdicts as of_rows
from finery_eval.scoring import groups as grouped
from finery_eval.scoring.differences import pairs_of
from finery_eval.scoring.groups import Group
from finery_eval.verdicts import Score, Verdicts


class Scored(NamedTuple):
    """scores: model → metric → (value, interval). pairs: see `differences.pairs_of`."""

    scores: Mapping[str, dict[str, Score]]
    pairs: Sequence[dict[str, Any]]


def score(verdicts: Verdicts, groups: Sequence[Group] | None) -> Scored:
    """Score all models. groups: the answers that belong together; None if none do."""
    judged = verdicts.judged
    if groups is None:
        draws = {name: of_rows.draws_of(of, verdicts) for name, of in judged.items()}
        scores = {name: of_rows.scores(of, verdicts, draws[name]) for name, of in judged.items()}
    else:
        draws = {name: grouped.draws_of(of, verdicts, groups) for name, of in judged.items()}
        scores = {
            name: grouped.scores(of, verdicts, groups, draws[name]) for name, of in judged.items()
        }
    return Scored(scores, pairs_of(verdicts, draws, groups))
