"""What a cheap baseline says about the best of the other models, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from finery import Remark, in_points, range_in_points
from finery_eval import stats
from finery_eval.measure import between
from finery_eval.tables import WORSE, verdict
from finery_eval.view.scores import headline

Report = Mapping[str, Any]


def remarks_on(report: Report) -> Iterator[Remark]:
    """A warning for each baseline that the best other model doesn't beat, and where it loses."""
    baselines = report["details"].get("baselines", [])
    others = [name for name in report["scores"] if name not in baselines]
    if not others:
        return
    first, *_ = metrics = headline(report)
    best = max(reversed(others), key=lambda name: report["scores"][name].get(first, 0.0))
    for baseline in baselines:
        found = between(report["details"]["pairs"], best, baseline)
        shown = {metric: found[metric] for metric in metrics if metric in found}
        adjusted = stats.holm([d.p_value for d in shown.values()])
        verdicts = {
            metric: verdict(d, p) for (metric, d), p in zip(shown.items(), adjusted, strict=True)
        }
        yield from _remarks(best, baseline, shown, verdicts)


def _remarks(
    model: str,
    baseline: str,
    differences: Mapping[str, stats.Difference],
    verdicts: Mapping[str, str],
) -> Iterator[Remark]:
    worse = [metric for metric, said in verdicts.items() if said == WORSE]
    if worse:
        points = ", ".join(f"{m} ({in_points(differences[m].value)} points)" for m in worse)
        yield Remark(
            f"{model} is significantly worse than the baseline {baseline} in {points}",
            "Train longer or on more rows, or ship the baseline.",
            "warning",
        )
    elif (first := next(iter(verdicts), "")) and verdicts[first] != "better":
        value, interval = differences[first].value, differences[first].interval
        yield Remark(
            f"{model} isn't shown to beat the baseline {baseline}: "
            f"{in_points(value)} points (95 % CI {range_in_points(interval)})",
            "Judge more rows, or train longer or on more rows.",
            "warning",
        )
