"""Tables of scores: a row for each model or, in a narrow terminal, for each metric."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery import percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDEST = 10_000
"""A terminal width that any table fits in."""
Report = Mapping[str, Any]
"""What `metrics.json` holds, see `finery.Metrics`."""


def comparable(reports: Mapping[str, Report]) -> list[dict[str, Report]]:
    """Step → report, in groups: those with the same metrics on equally many rows."""
    groups: dict[Any, dict[str, Report]] = {}
    for step, report in reports.items():
        groups.setdefault((report["rows"], tuple(headline(report))), {})[step] = report
    return list(groups.values())


def headline(report: Report) -> list[str]:
    """The metrics to show, in order: what the evaluator names, else all."""
    named = report["details"].get("headline")
    return list(named or next(iter(report["scores"].values()), {}))


def own_words(report: Report) -> Iterator[str]:
    """What the evaluator itself says of its result, sentence by sentence."""
    details = report["details"]
    yield from details.get("words", ())
    yield from details.get("curve", {}).get("words", ())


def print_scores(console: "Console", reports: Mapping[str, Report]) -> None:
    """Print the scores of some reports with the same metrics, by the step that judged.

    The first metric comes with its 95 % interval.
    """
    report = next(iter(reports.values()))
    title, metrics = f"{report['rows']} rows", headline(report)
    models = [
        (model, step, _cells(of, model, metrics))
        for step, of in reports.items()
        for model in of["scores"]
    ]
    names = [*metrics[:1], *(["95 % CI"] if metrics else []), *metrics[1:]]
    table = _by_model(title, names, models, judged="" not in reports)
    unlimited = console.options.update(max_width=WIDEST)
    if console.measure(table, options=unlimited).maximum > console.width:
        table = _by_metric(title, names, models, judged="" not in reports)
    console.print(table)


def print_interval_note(console: "Console", reports: Mapping[str, Report]) -> None:
    """Print what the intervals cover, where there are any."""
    with_intervals = [report for report in reports.values() if report["intervals"]]
    what = "the choice of test rows only, not the seed of a training"
    for text in dict.fromkeys(r["details"].get("intervals_cover", what) for r in with_intervals):
        console.print(f"95 % CI: covers {text}", style="dim")


def _cells(report: Report, model: str, metrics: Sequence[str]) -> list[str]:
    scores = report["scores"][model]
    cells = [
        score_text(report, metric, scores[metric]) if metric in scores else "—"
        for metric in metrics
    ]
    interval = report["intervals"].get(model, {}).get(metrics[0]) if metrics else None
    bounds = interval_text(report, metrics[0], interval) if interval else ""
    return [*cells[:1], *([bounds] if cells else []), *cells[1:]]


def score_text(report: Report, metric: str, value: float) -> str:
    """A score in percent, or as a number if its metric is no share."""
    return f"{value:.4g}" if _is_unbounded(report, metric) else percent(value)


def interval_text(report: Report, metric: str, interval: Sequence[float]) -> str:
    """The ends of a score's interval, in the unit of the score."""
    low, high = interval
    if _is_unbounded(report, metric):
        return f"{low:.4g} – {high:.4g}"
    return f"{100 * low:.1f} – {100 * high:.1f}"


def _is_unbounded(report: Report, metric: str) -> bool:
    return metric in report.get("details", {}).get("unbounded", ())


def _by_model(
    title: str, names: Sequence[str], models: Sequence[tuple[str, str, list[str]]], *, judged: bool
) -> "Table":
    """A row for each model."""
    table = new_table(title)
    table.add_column("model", no_wrap=True)
    if judged:
        table.add_column("judged by", style="dim", no_wrap=True)
    for index, name in enumerate(names):
        table.add_column(name, justify="right", style="dim" if index == 1 else None, no_wrap=True)
    for model, step, cells in models:
        table.add_row(model, *([step] if judged else []), *cells)
    return table


def _by_metric(
    title: str, names: Sequence[str], models: Sequence[tuple[str, str, list[str]]], *, judged: bool
) -> "Table":
    """A row for each metric."""
    table = new_table(title)
    table.add_column("", no_wrap=True)
    for model, *_ in models:
        table.add_column(model, justify="right")
    if judged:
        table.add_row("judged by", *(step for _, step, _ in models), style="dim")
    for index, name in enumerate(names):
        table.add_row(name, *(of[index] for *_, of in models), style="dim" if index == 1 else None)
    return table


def new_table(title: str) -> "Table":
    """An empty table in the style of all these."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", title_style="dim", box=box.SIMPLE_HEAD, pad_edge=False
    )
