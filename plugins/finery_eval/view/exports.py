"""Exported files next to the trained model, and the best model next to cheap baselines."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finery.util.text import in_points, percent, range_in_points, size
from finery.views import Remark
from finery_eval.evaluation import SPEED
from finery_eval.view.tables import Column, Report, headline, print_columns

if TYPE_CHECKING:
    from rich.console import Console

from finery_eval import stats
from finery_eval.measure import between
from finery_eval.tables import WORSE, verdict

UNKNOWN = "–"


def is_worse(export: Mapping[str, Any]) -> bool:
    """Whether a file is significantly worse: the interval of the difference is below 0."""
    return "interval" in export and export["interval"][1] < 0


def print_exports(console: "Console", report: Report, runtime: Mapping[str, Any]) -> None:
    """Print a row for each exported file, and what to know about the differences.

    runtime: that of the metrics, with the measured speeds.
    """
    exports = report["details"].get("exports", [])
    if not exports:
        return
    metric, *_ = headline(report)
    speeds = runtime.get(SPEED, {})
    rows = []
    for export in exports:
        score = report["scores"][export["model"]].get(metric)
        speed = speeds.get(export["model"])
        rows.append((
            export["model"],
            size(export["size"]),
            UNKNOWN if speed is None else f"{speed:,.0f}",
            UNKNOWN if score is None else percent(score),
            *_difference(export),
        ))  # fmt: skip
    heads = ("model", "size", "tokens/s", metric, "to the trained model", "95 % CI", "p")
    columns = [
        Column(head, list(cells), is_number=head != "model")
        for head, cells in zip(heads, zip(*rows, strict=True), strict=True)
    ]
    styles = ["yellow" if is_worse(export) else "" for export in exports]
    print_columns(console, "Exported files", columns, styles)
    for text in _notes(exports):
        console.print(text, style="dim", markup=False)
    for remark in remarks_on(report):
        console.print(f"{remark.text}. {remark.advice}", style="yellow", markup=False)


def remarks_on(report: Report) -> Iterator[Remark]:
    """A warning for each file that is significantly worse than the model it was exported from."""
    for export in report["details"].get("exports", []):
        if is_worse(export):
            yield Remark(
                f"{export['model']} is significantly worse than {export['baseline']}: "
                f"{in_points(export['difference'])} points (95 % CI "
                f"{range_in_points(export['interval'])})",
                "Ship a file with more bits.",
                "warning",
            )


def _difference(export: Mapping[str, Any]) -> tuple[str, str, str]:
    """The difference in points to the trained model, its interval, and the p-value."""
    if "interval" not in export:
        return UNKNOWN, "", ""
    p = export["p_value"]
    return (
        f"{in_points(export['difference'])} ({export['baseline']})",
        range_in_points(export["interval"]),
        "< 0.001" if p < 0.001 else f"{p:.3f}",
    )


def _notes(exports: list[dict[str, Any]]) -> Iterator[str]:
    if any("interval" in export for export in exports):
        yield "to the trained model: points of the same rows, paired"
    if missing := [export["model"] for export in exports if "interval" not in export]:
        yield (
            f"To compare {', '.join(missing)} with the trained model, add that to `models`: its "
            "answers to these rows are cached"
        )


def baseline_remarks(report: Report) -> Iterator[Remark]:
    """A warning for each baseline that the best other model doesn't beat, with the metrics."""
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
        yield from _of_baseline(best, baseline, shown, verdicts)


def _of_baseline(
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
