"""Which answers of a model are right where those of another one are wrong, and the reverse.

Input: the lines of `predictions.jsonl` of both models, on the same rows. Output: the rows, and the
share of rows that are broken: right with the earlier model and wrong now.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from finery.rows.report import Score
from finery_eval import stats
from finery_eval.predictions import Facts, by_model, paired, recorded
from finery_eval.verdicts import effective

BROKEN = "broken"
"""The share of rows that are right with the earlier model and wrong with this one."""


class Flips(NamedTuple):
    """The rows that two models differ on. better, broken: (before, after) of each.

    score: the share of `rows` that are broken.
    """

    better: Sequence[tuple[Facts, Facts]]
    broken: Sequence[tuple[Facts, Facts]]
    score: Score
    rows: int


def flips_between(lines: Iterable[Facts], earlier: str, model: str) -> Flips | None:
    """What `model` gets right or wrong in another way than `earlier` did.

    None unless the first metric says whether an answer is right. The interval is Wilson's, of the
    number of independent rows that grouped ones are worth at least.
    """
    models = by_model(lines)
    pairs = paired(models.get(earlier, ()), models.get(model, ())).pairs
    rights = [(a, b) for a, b in pairs if isinstance(a.get("correct"), bool)]
    rights = [(a, b) for a, b in rights if isinstance(b.get("correct"), bool)]
    if not rights:
        return None
    groups = recorded(*([pair[place] for pair in rights] for place in (0, 1)))
    rows = len(rights)
    units = effective(groups) if groups else rows
    broken = [(a, b) for a, b in rights if a["correct"] and not b["correct"]]
    better = [(a, b) for a, b in rights if b["correct"] and not a["correct"]]
    share = len(broken) / rows
    return Flips(better, broken, Score(share, stats.wilson(share * units, units)), rows)
