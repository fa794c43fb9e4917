"""The paired tests of a page: of models that one evaluation judged, or that share rows."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from finery_eval import stats
from finery_eval.measure import between
from finery_eval.view.report.findings import compared
from finery_eval.view.report.roles import Judgement
from finery_eval.view.scores import headline

ORDER: Mapping[str, int] = {"baseline": 0, "base": 0, "variant": 0, "tuned": 1, "shipped": 2}


class Comparison(NamedTuple):
    """A difference in a metric, second minus first model. p_holm: adjusted for all of the page."""

    models: str
    metric: str
    rows: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_holm: float = 1.0


def comparisons_of(judged: Sequence[Judgement]) -> list[Comparison]:
    """The tests of each step from cheap or untrained to tuned to shipped, with adjusted p-values.

    Of models that one evaluation judged, all its metrics, also those that aren't shares. Of models
    in several evaluations the first metric, on the rows that both answered.
    """
    found = list(_tests(judged))
    adjusted = stats.holm([test.p_value for test in found])
    return [test._replace(p_holm=p) for test, p in zip(found, adjusted, strict=True)]


def _tests(judged: Sequence[Judgement]) -> Iterator[Comparison]:
    seen: set[tuple[str, str, str]] = set()
    pairs = [(a, b) for a in judged for b in judged if _is_step(a, b)]
    pairs.sort(key=lambda pair: pair[0].step != pair[1].step)  # within an evaluation first
    for first, second in pairs:
        for test in _of_pair(first, second):
            if (first.model, second.model, test.metric) not in seen:
                seen.add((first.model, second.model, test.metric))
                yield test


def _is_step(first: Judgement, second: Judgement) -> bool:
    if ORDER[second.role] <= ORDER[first.role]:
        return False
    return not (second.role == "shipped" and first.role == "tuned" and second.source != first.model)


def _of_pair(first: Judgement, second: Judgement) -> Iterator[Comparison]:
    models = f"{first.model} → {second.model}"
    if first.step == second.step:
        pairs: Sequence[Mapping[str, Any]] = first.report["details"].get("pairs", ())
        known = between(pairs, second.model, first.model)
        for metric in (m for m in headline(first.report) if m in known):
            test = known[metric]
            yield Comparison(models, metric, first.report["rows"], test.value, test.interval,
                       test.p_value)  # fmt: skip
        if known:
            return
    found = compared(first, second)
    if found is not None:
        rows, tested = found
        yield Comparison(models, second.metric, rows, tested.value, tested.interval, tested.p_value)
