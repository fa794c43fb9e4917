"""Describes the scores of a matrix in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from finery.compare.variants import Line, Score
from finery.recipe.graph import Graph
from finery.recipe.matrix.axes import sizes
from finery.util.text import counted, percent, signed


def title_of(graph: Graph) -> str:
    """`12 variants: 3 learning_rate × 2 r × 2 rows`."""
    assert graph.matrix is not None
    variants = counted(len(graph.matrix.variants), "variant")
    of = sizes(graph.matrix.axes)
    return f"{variants}: {of}" if of else variants


def caption_of(graph: Graph) -> str:
    """The title, and the rows that the scores are on."""
    select = graph.select_by
    on = f", judged on {select.rows}" if select is not None else ""
    return f"{title_of(graph)}{on}"


def choice_in_words(choice: Mapping[str, Any]) -> str:
    """What was chosen and how far it is ahead."""
    parts, margin = [f"chosen: {choice['chosen']}"], choice["margin"]
    if repeats := choice.get("repeats"):  # of which one is shipped and tested
        score, mean = repeats[choice["chosen"]], choice["score"]
        seeds = counted(len(repeats), "seed")
        parts.append(f"the best of {seeds}: {score:.3f}, the mean is {mean:.3f}")
    if margin is not None:
        ahead = signed(margin["difference"], ".3f")
        if margin["interval"]:
            low, high = margin["interval"]
            ahead += f", 95 % CI {signed(low, '.3f')} to {signed(high, '.3f')}"
            ahead += ": too close to call" if is_close(choice) else ""
        parts.append(f"ahead of {margin['over']} by {ahead}")
    return "; ".join(parts)


def is_close(choice: Mapping[str, Any]) -> bool:
    """Whether the second best may be as good, according to the interval."""
    margin = choice["margin"]
    return bool(
        margin and margin["interval"] and margin["interval"][0] <= 0 <= margin["interval"][1]
    )


def are_shares(lines: Sequence[Line], name: str) -> bool:
    """Whether all values of a score are between 0 and 1, so that percentages are appropriate."""
    values = [v for line in lines if name in line.scores for v in line.scores[name].values]
    return all(0 <= value <= 1 for value in values)


def number(value: float, shares: bool) -> str:
    """A score: `91.7 %`, or four digits of what isn't a share."""
    return percent(value) if shares else f"{value:.4g}"


def interval_of(score: Score, shares: bool) -> str:
    """Its 95 % interval: `85.3 – 95.4`; empty without one."""
    if score.interval is None:
        return ""
    low, high = score.interval
    if not shares:
        return f"{low:.4g} – {high:.4g}"
    return f"{100 * max(0.0, low):.1f} – {100 * min(1.0, high):.1f}"


def score_in_words(score: Score, shares: bool) -> str:
    """A score and its interval."""
    interval = f" (95 % CI {interval_of(score, shares)})" if score.interval else ""
    return f"{number(score.repeats.mean, shares)}{interval}"


def remarks_on(lines: Sequence[Line]) -> list[str]:
    """What the intervals account for."""
    scores = [score for line in lines for score in line.scores.values()]
    remarks = []
    if any(len(score.values) > 1 for score in scores):
        remarks.append("95 % CI: Student's interval of the mean over seeds, on the same rows")
    if any(len(score.values) == 1 and score.interval for score in scores):
        single = "95 % CI of a score that isn't repeated" if remarks else "95 % CI"
        remarks.append(f"{single}: covers the choice of rows only, not the seed of a training")
    return remarks
