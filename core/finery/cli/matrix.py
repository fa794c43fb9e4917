"""The table of a matrix: a row for each variant, best first."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from finery.artifact.manifest import Result
from finery.cli.console import print_json
from finery.compare.variants import (
    Line,
    are_shares,
    choice_in_words,
    choice_of,
    columns_of,
    head_of,
    interval_of,
    lines_of,
    number,
    remarks_on,
    title_of,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from finery.recipe.graph import Graph
    from finery.store.database import Store

WIDEST = 10_000
"""A terminal width that any table fits in."""
MOST_SCORES = 3
"""Scores of a variant that are shown; `--json` has all."""


def print_matrix(
    console: "Console",
    graph: "Graph",
    store: "Store",
    results: "Mapping[str, Result | None]",
    failed: Mapping[str, str] | None = None,
) -> None:
    """Print the table. failed: step → `failed` or `blocked`, in a build."""
    lines = lines_of(graph, store, results, failed or {})
    console.print(title_of(graph), style="dim", highlight=False)
    shown = fitting_scores(console, graph, lines)
    console.print(_table(graph, lines, shown))
    if len(shown) < len(columns_of(lines)):
        more = ", ".join(columns_of(lines)[len(shown) :])
        console.print(f"also, with --json: {more}", style="dim", highlight=False)
    for text in remarks_on(lines):
        console.print(text, style="dim", highlight=False)
    choice = choice_of(graph, results)
    if choice is not None:
        console.print(choice_in_words(choice), highlight=False)


def print_matrix_data(
    graph: "Graph", store: "Store", results: "Mapping[str, Result | None]"
) -> None:
    """Print a JSON line for each variant, best first."""
    for line in lines_of(graph, store, results, {}):
        scores = {name: score.data() for name, score in line.scores.items()}
        print_json({
            "variant": line.name, "axes": line.axes, "scores": scores, "chosen": line.chosen,
        })  # fmt: skip


def fitting_scores(console: "Console", graph: "Graph", lines: Sequence[Line]) -> list[str]:
    """The first scores that have room in the terminal, at least one."""
    shown = columns_of(lines)[:MOST_SCORES]
    unlimited = console.options.update(max_width=WIDEST)
    while len(shown) > 1:
        width = console.measure(_table(graph, lines, shown), options=unlimited).maximum
        if width <= console.width:
            break
        shown.pop()
    return shown


def _table(graph: "Graph", lines: Sequence[Line], columns: Sequence[str]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    axes = list(dict.fromkeys(axis for line in lines for axis in line.axes))
    named = any(not line.axes for line in lines)
    table.add_column("", width=1)
    if named:
        table.add_column("variant", no_wrap=True)
    for axis in axes:
        table.add_column(axis, no_wrap=True)
    for name in columns:
        table.add_column(head_of(graph, name), justify="right")
        table.add_column("95 % CI", justify="right", style="dim", no_wrap=True)
        if any(_repeated(line, name) for line in lines):
            table.add_column("± sd (seeds)", justify="right", style="dim", no_wrap=True)
    for line in lines:
        cells = ["[green]✓[/]" if line.chosen else ""]
        cells += [line.name if not line.axes else ""] if named else []
        cells += [line.axes.get(axis, "") for axis in axes]
        for name in columns:
            cells += _cells(lines, line, name)
        table.add_row(*cells, style="bold" if line.chosen else None)
    return table


def _repeated(line: Line, name: str) -> bool:
    return name in line.scores and len(line.scores[name].values) > 1


def _cells(lines: Sequence[Line], line: Line, name: str) -> list[str]:
    """The score of a variant, its interval, and its spread where some are repeated."""
    spread = any(_repeated(each, name) for each in lines)
    score = line.scores.get(name)
    if score is None:
        state = next(iter(line.states), "—")
        return [f"[red]{state}[/]" if state == "failed" else state, "", *([""] if spread else [])]
    mean, deviation, _, count = score.repeats
    shares = are_shares(lines, name)
    cells = [number(mean, shares), interval_of(score, shares)]
    if spread:
        cells.append(f"± {number(deviation, shares)} ({count})" if deviation is not None else "")
    return cells
