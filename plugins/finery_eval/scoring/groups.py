"""Scores of answers that come in groups: the turns of a conversation, rows with one parent.

The answers of one group aren't independent of each other: a model that goes wrong in the first
turn of a conversation goes wrong in the next. So groups are drawn, and an interval is as wide as
their number makes it, however many answers they have. `together` and `recorded` say which rows
and which lines of `predictions.jsonl` belong together, for all steps and views.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finery_eval import stats
from finery_eval.verdicts import Draws, Hit, Judged, Score, Verdicts, means

Group = Sequence[int]
"""The answers of a group, by their number."""
Count = tuple[int, int]
"""(hits, answers that count) of a group, for one metric."""
GROUP = "group"
"""The fact in `predictions.jsonl` that names the group of a row."""


def together(rows: Sequence[Mapping[str, Any]]) -> list[Group] | None:
    """The groups of rows that belong together, see `groups_of`; None if each row stands alone."""
    groups = groups_of(rows)
    return groups if len(groups) < len(rows) else None


def facts_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What `predictions.jsonl` says of each row's group: its name, where rows belong together.

    A group is named by the first of its rows' and their parents' ids.
    """
    facts: list[dict[str, str]] = [{} for _ in rows]
    for group in together(rows) or ():
        name = min(one for i in group for one in (rows[i]["id"], *(rows[i].get("parents") or ())))
        for i in group:
            facts[i] = {GROUP: name}
    return facts


def recorded(*sides: Sequence[Mapping[str, Any]]) -> list[Group] | None:
    """The answers that belong together, as their lines of `predictions.jsonl` say, or None.

    sides: the lines of each model or build, by answer. Answers to one row belong together, e.g. to
    the turns of a conversation, and rows with the same `group` on any side.
    """
    rows = [
        {"id": str(lines[0].get("id", f"line {number}")),
         "parents": [line[GROUP] for line in lines if GROUP in line]}
        for number, lines in enumerate(zip(*sides, strict=True))
    ]  # fmt: skip
    return together(rows)


def among(groups: Sequence[Group] | None, numbers: Sequence[int]) -> list[Group] | None:
    """The groups of some of the rows, by their place among these; None if there are no groups."""
    if groups is None:
        return None
    place = {number: i for i, number in enumerate(numbers)}
    parts = [[place[i] for i in group if i in place] for group in groups]
    return [part for part in parts if part]


def effective(groups: Sequence[Group]) -> float:
    """The number of independent rows that grouped ones count as at least.

    As if all rows of a group had the same answer.

    Source: L. Kish, "Survey Sampling" (1965), ch. 8: the design effect of clusters, here with an
    intraclass correlation of 1.
    """
    sizes = [len(group) for group in groups]
    return sum(sizes) ** 2 / sum(size * size for size in sizes)


def groups_of(rows: Sequence[Mapping[str, Any]]) -> list[Group]:
    """The rows that belong together: equal ids, a common parent, or a row and its parent.

    Also through others: of a row's paraphrase, a paraphrase belongs to all three.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for row in rows:
        for parent in row.get("parents") or ():
            leader[find(parent)] = find(row["id"])
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(find(row["id"]), []).append(i)
    return list(groups.values())


def draws_of(judged: Judged, verdicts: Verdicts, groups: Sequence[Group]) -> Draws:
    """The resampled values of the metrics that are no shares; whole groups are drawn."""
    if verdicts.means is None:
        return {}
    names, statistic = verdicts.means
    outcomes = [tuple(judged.outcomes[i] for i in group) for group in groups]
    return dict(zip(names, stats.resampled(outcomes, _ungrouped(statistic)), strict=True))


def scores(
    judged: Judged, verdicts: Verdicts, groups: Sequence[Group], draws: Draws | None = None
) -> dict[str, Score]:
    """Metric → (value, interval) of one model. A metric that applies to no answer is left out.

    Intervals: percentile bootstrap over groups (Efron and Tibshirani 1993), see
    `stats.interval_of`. draws: as from `draws_of`, if they are there already.
    """
    scored = _shares(judged.hits, groups)
    drawn = draws_of(judged, verdicts, groups) if draws is None else draws
    of = judged.outcomes
    n = sum(any(of[i] is not None for i in group) for group in groups) if of else 0
    scored |= means(judged, verdicts, drawn, n)
    return {metric: scored[metric] for metric in verdicts.metrics if metric in scored}


def share(hits: Sequence[bool], groups: Sequence[Group] | None = None) -> Score:
    """A share and its interval: as in `scores`, or Wilson's if rows are independent."""
    if groups is None:
        return sum(hits) / len(hits), stats.wilson(sum(hits), len(hits))
    return _shares({"": hits}, groups)[""]


def _ungrouped(
    statistic: Callable[[Mapping[Any, int]], Sequence[float]],
) -> Callable[[Mapping[Any, int]], Sequence[float]]:
    """The statistic of how often each outcome occurs, from how often each group does."""

    def of_groups(counts: Mapping[Any, int]) -> Sequence[float]:
        each: Counter[Any] = Counter()
        for group, n in counts.items():
            for outcome in group:
                each[outcome] += n
        return statistic(each)

    return of_groups


def _shares(hits: Mapping[str, Sequence[Hit]], groups: Sequence[Group]) -> dict[str, Score]:
    counts = [tuple(_count(of, group) for of in hits.values()) for group in groups]
    totals = [_total(column) for column in zip(*counts, strict=True)]
    shares = [right / n if n else 0.0 for right, n in totals]

    def statistic(drawn: Mapping[Any, int]) -> list[float]:
        sums = [0] * (2 * len(shares))
        for group, times in drawn.items():
            for i, (right, n) in enumerate(group):
                sums[2 * i] += times * right
                sums[2 * i + 1] += times * n
        # Without an answer that counts, a draw says nothing.
        return [
            sums[2 * i] / sums[2 * i + 1] if sums[2 * i + 1] else s for i, s in enumerate(shares)
        ]

    drawn = stats.resampled(counts, statistic)
    scored: dict[str, Score] = {}
    for i, metric in enumerate(hits):
        if totals[i][1]:
            used = sum(bool(count[i][1]) for count in counts)
            scored[metric] = shares[i], stats.interval_of(drawn[i], used, stats.SHARE)
    return scored


def _count(hits: Sequence[Hit], group: Group) -> Count:
    counted = [hits[i] for i in group if hits[i] is not None]
    return sum(map(bool, counted)), len(counted)


def _total(counts: Sequence[Count]) -> Count:
    return sum(right for right, _ in counts), sum(n for _, n in counts)


def difference(
    first: Sequence[Hit],
    second: Sequence[Hit],
    groups: Sequence[Group],
    *,
    resamples: int = stats.RESAMPLES,
) -> stats.Difference | None:
    """Second minus first model, of a share: bootstrap over groups and exact sign-flip test.

    The interval is that of `stats.interval_of`. None where no answer of both models counts.
    """
    counts = [_gain(first, second, group) for group in groups]
    counts = [(gain, n) for gain, n in counts if n]
    if not counts:
        return None
    (interval,) = stats.bootstrap(counts, _difference, stats.GAIN, resamples=resamples)
    p_value = stats.sign_flip_exact([gain for gain, _ in counts])
    return stats.Difference(_difference(Counter(counts))[0], interval, p_value)


def _gain(first: Sequence[Hit], second: Sequence[Hit], group: Group) -> Count:
    """(second's right answers minus first's, answers that count for both) of a group."""
    both = [(first[i], second[i]) for i in group if None not in (first[i], second[i])]
    return sum(bool(b) - bool(a) for a, b in both), len(both)


def _difference(counts: Mapping[Count, int]) -> list[float]:
    answers = sum(times * n for (_, n), times in counts.items())
    return [sum(times * difference for (difference, _), times in counts.items()) / answers]
