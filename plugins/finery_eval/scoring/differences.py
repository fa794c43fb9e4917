"""The difference of every two models in every metric, on the same rows."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from finery_eval import stats
from finery_eval.scoring import groups as grouped
from finery_eval.scoring.groups import Group
from finery_eval.verdicts import Draws, Hit, Verdicts

MCNEMAR = "McNemar, exact"
SIGN_FLIPS = "sign flips, exact"


def compare(
    correct: Mapping[str, Sequence[bool]], groups: Sequence[Group] | None = None
) -> list[dict[str, Any]]:
    """Each model against the first, on the same rows: accuracy difference, interval and p-value.

    p_value is for each comparison by itself. Of several, each has `p_holm` too, which allows for
    their number. groups: rows that belong together; None if they are independent.
    """
    (baseline, first), *others = correct.items()
    compared = [_compared(name, second, baseline, first, groups) for name, second in others]
    return with_holm(compared) if len(compared) > 1 else compared


def with_holm(compared: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with p-values that allow for their number."""
    adjusted = stats.holm([each["p_value"] for each in compared])
    return [{**each, "p_holm": p} for each, p in zip(compared, adjusted, strict=True)]


def _compared(
    name: str,
    correct: Sequence[bool],
    baseline: str,
    base_correct: Sequence[bool],
    groups: Sequence[Group] | None,
) -> dict[str, Any]:
    pairs = list(zip(correct, base_correct, strict=True))
    between = difference(base_correct, correct, groups)
    assert between is not None  # accuracy counts for every row
    return {
        "model": name,
        "baseline": baseline,
        "difference": between.value,
        "interval": list(between.interval),
        "only_model": pairs.count((True, False)),
        "only_baseline": pairs.count((False, True)),
        "p_value": between.p_value,
    }


def difference(
    first: Sequence[Hit], second: Sequence[Hit], groups: Sequence[Group] | None
) -> stats.Difference | None:
    """Second minus first model, of a share. None where no row counts for both.

    Of independent rows: Newcombe's paired interval (1998, method 10) and the exact McNemar test.
    """
    if groups is not None:
        return grouped.difference(first, second, groups)
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if None not in (a, b)]
    if not pairs:
        return None
    gained, lost = pairs.count((False, True)), pairs.count((True, False))
    value, interval = stats.paired_difference(
        pairs.count((True, True)), gained, lost, pairs.count((False, False))
    )
    return stats.Difference(value, interval, stats.mcnemar_exact(gained, lost))


def pairs_of(
    verdicts: Verdicts, draws: Mapping[str, Draws], groups: Sequence[Group] | None
) -> list[dict[str, Any]]:
    """Every two models, the later one against the earlier one, by metric.

    Each is `{model, baseline, metrics: {metric: {difference, interval, p_value}}}`. Shares as in
    `difference`, other metrics by the paired bootstrap. A metric that applies to no row of both is
    left out.
    """
    compared = []
    for first, second in combinations(verdicts.judged, 2):
        metrics = _of_shares(verdicts, first, second, groups)
        metrics |= _of_means(verdicts, first, second, draws, groups)
        ordered = {metric: metrics[metric] for metric in verdicts.metrics if metric in metrics}
        compared.append({"model": second, "baseline": first, "metrics": ordered})
    return compared


def _of_shares(
    verdicts: Verdicts, first: str, second: str, groups: Sequence[Group] | None
) -> dict[str, Any]:
    hits, others = verdicts.judged[first].hits, verdicts.judged[second].hits
    between = {m: difference(hits[m], others[m], groups) for m in hits if m in others}
    return {metric: _facts(found) for metric, found in between.items() if found is not None}


def _of_means(
    verdicts: Verdicts,
    first: str,
    second: str,
    draws: Mapping[str, Draws],
    groups: Sequence[Group] | None,
) -> dict[str, Any]:
    if verdicts.means is None:
        return {}
    names, statistic = verdicts.means
    one, other = verdicts.judged[first], verdicts.judged[second]
    outcomes = list(zip(one.outcomes, other.outcomes, strict=True))
    alone = groups if groups is not None else [[i] for i in range(len(outcomes))]
    together = [[outcomes[i] for i in group if outcomes[i] != (None, None)] for group in alone]
    n, differing = sum(map(bool, together)), sum(any(a != b for a, b in of) for of in together)
    metrics = {}
    values = zip(names, statistic(one.counts), statistic(other.counts), strict=True)
    for name, a, b in values:
        drawn = [y - x for x, y in zip(draws[first][name], draws[second][name], strict=True)]
        interval = stats.interval_of(drawn, n, stats.GAIN)
        p_value = stats.bootstrap_p(drawn, differing)
        metrics[name] = _facts(stats.Difference(b - a, interval, p_value))
    return metrics


def _facts(found: stats.Difference) -> dict[str, Any]:
    return {
        "difference": found.value,
        "interval": list(found.interval),
        "p_value": found.p_value,
    }
