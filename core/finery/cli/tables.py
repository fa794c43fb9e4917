"""Tables of scores, for the end of a build and for `finery show`."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finery.artifact.kinds import Metrics
from finery.artifact.manifest import Manifest
from finery.store.links import open_artifact


def print_scores(root: Path, outputs: Mapping[str, Mapping[str, Manifest]]) -> None:
    """A table of all models that the recipe's evaluators judged; several where metrics differ."""
    console = stdout()
    for reports in comparable(_reports(root, outputs)):
        rows = next(iter(reports.values()))["rows"]
        console.print(scores_table(reports, f"{rows} rows"))


def comparable(reports: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Step → report, in groups: those with the same metrics on equally many rows."""
    grouped: dict[Any, dict[str, Any]] = {}
    for step, report in reports.items():
        grouped.setdefault((report["rows"], tuple(headline(report))), {})[step] = report
    return list(grouped.values())


def _reports(
    root: Path, outputs: Mapping[str, Mapping[str, Manifest]]
) -> dict[str, dict[str, Any]]:
    """Step → the report of its metrics."""
    found = {}
    for name, made in outputs.items():
        for manifest in made.values():
            if manifest.kind == Metrics.kind:
                artifact = open_artifact(root, manifest)
                assert isinstance(artifact, Metrics)
                found[name] = artifact.report()
    return found


def headline(report: Mapping[str, Any]) -> list[str]:
    """The metrics to show, in order: what the evaluator names, else all."""
    named = report["details"].get("headline")
    return list(named or next(iter(report["scores"].values()), {}))


def scores_table(reports: Mapping[str, Mapping[str, Any]], title: str) -> Any:
    """Models as rows, metrics as columns; the first metric with its 95 % interval."""
    from rich.table import Table

    metrics = headline(next(iter(reports.values())))
    table = Table(title=title, title_justify="left", title_style="dim", box=_box(), pad_edge=False)
    table.add_column("model", no_wrap=True)
    table.add_column("judged by", style="dim", no_wrap=True)
    for index, metric in enumerate(metrics):
        table.add_column(metric, justify="right", no_wrap=True)
        if index == 0:
            table.add_column("95 % CI", justify="right", style="dim", no_wrap=True)
    for step, report in reports.items():
        for model, scores in report["scores"].items():
            table.add_row(model, step, *_cells(report, model, scores, metrics))
    return table


def _cells(
    report: Mapping[str, Any], model: str, scores: Mapping[str, float], metrics: list[str]
) -> list[str]:
    cells = []
    for index, metric in enumerate(metrics):
        cells.append(percent(scores[metric]) if metric in scores else "—")
        if index == 0:
            interval = report["intervals"].get(model, {}).get(metric)
            cells.append(f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}" if interval else "")
    return cells


def percent(value: float) -> str:
    """A share as a percentage: `91.7 %`."""
    return f"{100 * value:.1f} %"


def stdout() -> Any:
    """A console on stdout that doesn't wrap where there is no terminal."""
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 140)


def _box() -> Any:
    from rich import box

    return box.SIMPLE_HEAD
