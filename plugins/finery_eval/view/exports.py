"""Exported files next to the trained model, and the best model next to cheap baselines."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from finery.util.text import in_points, percent, range_in_points, size
from finery.views import Remark
from finery_eval.evaluation import SPEED
from finery_eval.tables import BETTER, WORSE, against
from finery_eval.view.tables import Column, Report, headline, p_text, print_columns

if TYPE_CHECKING:
    from rich.console import Console

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
    rows, missing = [], []
    for export in exports:
        name, difference = export["model"], (UNKNOWN, "", "")
        if "interval" in export:
            points = f"{in_points(export['difference'])} ({export['baseline']})"
            difference = points, range_in_points(export["interval"]), p_text(export["p_value"])
        else:
            missing.append(name)
        score, speed = report["scores"][name].get(metric), runtime.get(SPEED, {}).get(name)
        speed_text = UNKNOWN if speed is None else f"{speed:,.0f}"
        score_text = UNKNOWN if score is None else percent(score)
        rows.append((name, size(export["size"]), speed_text, score_text, *difference))
    heads = ("model", "size", "tokens/s", metric, "to the trained model", "95 % CI", "p")
    columns = [
        Column(head, list(cells), is_number=head != "model")
        for head, cells in zip(heads, zip(*rows, strict=True), strict=True)
    ]
    styles = ["yellow" if is_worse(export) else "" for export in exports]
    print_columns(console, "Exported files", columns, styles)
    if len(missing) < len(exports):
        text = "to the trained model: points of the same rows, paired"
        console.print(text, style="dim", markup=False)
    if missing:
        text = f"To compare {', '.join(missing)} with the trained model, add that to `models`: its "
        console.print(f"{text}answers to these rows are cached", style="dim", markup=False)
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


def baseline_remarks(report: Report) -> Iterator[Remark]:
    """A warning for each baseline that the best other model doesn't beat, with the metrics."""
    baselines = report["details"].get("baselines", [])
    others = [name for name in report["scores"] if name not in baselines]
    if not others:
        return
    first, *_ = metrics = headline(report)
    best = max(reversed(others), key=lambda name: report["scores"][name].get(first, 0.0))
    for baseline in baselines:
        compared = against(report["details"], metrics, best, baseline)
        worse = [each for each in compared if each.verdict == WORSE]
        if worse:
            points = ", ".join(f"{m} ({in_points(d.value)} points)" for m, d, *_ in worse)
            yield Remark(
                f"{best} is significantly worse than the baseline {baseline} in {points}",
                "Train longer or on more rows, or ship the baseline.",
                "warning",
            )
        elif compared and compared[0].verdict != BETTER:
            value, interval, *_ = compared[0].difference
            yield Remark(
                f"{best} isn't shown to beat the baseline {baseline}: "
                f"{in_points(value)} points (95 % CI {range_in_points(interval)})",
                "Judge more rows, or train longer or on more rows.",
                "warning",
            )
