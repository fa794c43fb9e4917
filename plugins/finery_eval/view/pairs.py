"""Answers of two evaluations to the same rows, paired by row, and the tests of their difference."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from finery_eval.scoring.differences import MCNEMAR, SIGN_FLIPS, difference
from finery_eval.scoring.groups import Group, recorded

Facts = Mapping[str, Any]
"""A line of `predictions.jsonl`."""
Place = tuple[str, Any, Any, int]
"""(row id, turn, message or context, how often the place came before) of an answer."""
ASKED = ("prompt", "expected")
"""Facts that must be the same for two answers to be compared."""
SLACK = 1e-9
CONVERSATIONS = "sign flips of conversations"


class Pairs(NamedTuple):
    """Answers by place. pairs: (first, second) that answer the same. changed: whose question or
    expected answer differs. only_first, only_second: without a partner."""

    pairs: Sequence[tuple[Facts, Facts]]
    changed: int
    only_first: int
    only_second: int


class Tested(NamedTuple):
    """Two scores on the same rows. difference: second minus first. gained, lost: answers that count
    only for the second or only for the first; None where the score isn't a share of answers."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    gained: int | None
    lost: int | None
    test: str

    def data(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self._asdict(), "interval": list(self.interval)}


def by_model(lines: Iterable[Facts]) -> dict[str, list[Facts]]:
    """Model → its answers, in order."""
    found: dict[str, list[Facts]] = {}
    for facts in lines:
        found.setdefault(str(facts.get("model", "")), []).append(facts)
    return found


def paired(first: Iterable[Facts], second: Iterable[Facts]) -> Pairs:
    """Two models' answers, or those of one model in two builds."""
    before, after = _placed(first), _placed(second)
    both = [(before[place], facts) for place, facts in after.items() if place in before]
    pairs = [(a, b) for a, b in both if all(a.get(name) == b.get(name) for name in ASKED)]
    changed = len(both) - len(pairs)
    return Pairs(pairs, changed, len(before) - len(both), len(after) - len(both))


def hit(facts: Facts, metric: str, headline: Sequence[str]) -> bool | None:
    """Whether an answer counts for a metric that is a share of answers; None if it can't be told.

    The first metric is the share of right answers. Another one is a fact with its name, a field of
    the expected answer, or a rule. Whether that is so, `agrees` tells by the reported score.
    """
    if metric in headline[:1]:
        if "context" in facts:  # right with one context of several
            return None
        correct = facts.get("correct")
        return correct if isinstance(correct, bool) else None
    if isinstance(facts.get(metric), bool):
        return bool(facts[metric])
    expected, answered = facts.get("expected"), facts.get("prediction")
    if isinstance(expected, Mapping) and metric in expected:
        return isinstance(answered, Mapping) and answered.get(metric) == expected[metric]
    broken = facts.get("broken")
    return metric not in broken if isinstance(broken, list) else None


def paired_test(
    pairs: Sequence[tuple[Facts, Facts]], metric: str, headline: Sequence[str]
) -> Tested | None:
    """The difference of a metric with its interval and p-value; None if it isn't a share.

    Answers that belong together aren't independent, e.g. to the turns of a conversation or to
    paraphrases, so whole groups are compared, as by the evaluation.
    """
    hits = [tuple(hit(facts, metric, headline) for facts in pair) for pair in pairs]
    known = [(a, b) for a, b in hits if a is not None and b is not None]
    if not known or len(known) < len(hits):
        return None
    groups = groups_of(pairs)
    before, after = zip(*known, strict=True)
    between = difference(before, after, groups)
    assert between is not None  # all answers count
    gained, lost = known.count((False, True)), known.count((True, False))
    conversations = any("turn" in facts for facts, _ in pairs)
    test = MCNEMAR if groups is None else CONVERSATIONS if conversations else SIGN_FLIPS
    return Tested(between.value, between.interval, between.p_value, gained, lost, test)


def agrees(lines: Sequence[Facts], metric: str, headline: Sequence[str], score: float) -> bool:
    """Whether the share of answers that count, as told from their facts, is the reported score."""
    hits = [hit(facts, metric, headline) for facts in lines]
    if not hits or None in hits:
        return False
    return abs(sum(map(bool, hits)) / len(hits) - score) < SLACK


def flips(pairs: Sequence[tuple[Facts, Facts]]) -> tuple[list[Any], list[Any]]:
    """(pairs that only the second gets right, pairs that only the first gets right)."""
    rights = [(pair, pair[0].get("correct"), pair[1].get("correct")) for pair in pairs]
    gained = [pair for pair, a, b in rights if b is True and a is False]
    lost = [pair for pair, a, b in rights if a is True and b is False]
    return gained, lost


def _placed(lines: Iterable[Facts]) -> dict[Place, Facts]:
    seen: Counter[tuple[str, Any, Any]] = Counter()
    placed: dict[Place, Facts] = {}
    for facts in lines:
        within = facts.get("message") or facts.get("context")
        place = str(facts.get("id", "")), facts.get("turn"), within
        placed[(*place, seen[place])] = facts
        seen[place] += 1
    return placed


def groups_of(pairs: Sequence[tuple[Facts, Facts]]) -> list[Group] | None:
    """The answers that belong together, as in the evaluation; None if each stands alone."""
    return recorded([first for first, _ in pairs], [second for _, second in pairs])
