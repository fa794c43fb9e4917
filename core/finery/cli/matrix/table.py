"""The table of a matrix: a row for each variant, best first."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery.artifact.manifest import Result
from finery.cli.console import print_json
from finery.cli.matrix.scores import Line, Score, choice_of, columns_of, lines_of
from finery.recipe.matrix.axes import sizes
from finery.util.text import counted, percent

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from finery.recipe.graph import Graph
    from finery.store.database import Store

MOST_SCORES = 3
"""Scores of a variant that are shown; `--json` has all."""


def title_of(graph: "Graph") -> str:
    """`12 variants: 3 learning_rate × 2 r × 2 rows`."""
    assert graph.matrix is not None
    variants = counted(len(graph.matrix.variants), "variant")
    of = sizes(graph.matrix.axes)
    return f"{variants}: {of}" if of else variants


def _caption(graph: "Graph") -> str:
    """The title, and the rows that the scores are on."""
    select = graph.select_by
    on = f", judged on {select.rows}" if select is not None else ""
    return f"{title_of(graph)}{on}"


def print_matrix(
    console: "Console",
    graph: "Graph",
    store: "Store",
    results: "Mapping[str, Result | None]",
    failed: Mapping[str, str] | None = None,
) -> None:
    """Print the table. failed: step → `failed` or `blocked`, in a build."""
    lines = lines_of(graph, store, results, failed or {})
    console.print(_caption(graph), style="dim", highlight=False)
    console.print(_table(lines))
    for text in _remarks(lines):
        console.print(text, style="dim", highlight=False)
    choice = choice_of(graph, results)
    if choice is not None:
        named = {name: graph.variant_named(name) for name in choice["ranking"]}
        console.print(_choice_in_words(choice, named), highlight=False)


def print_matrix_data(
    graph: "Graph", store: "Store", results: "Mapping[str, Result | None]"
) -> None:
    """Print a JSON line for each variant, best first."""
    for line in lines_of(graph, store, results, {}):
        scores = {name: score.data() for name, score in line.scores.items()}
        print_json({
            "variant": line.name, "axes": line.axes, "scores": scores, "chosen": line.chosen,
            **({} if line.trained is None else {"trained": line.trained}),
        })  # fmt: skip


def _choice_in_words(choice: Mapping[str, Any], named: Mapping[str, str]) -> str:
    """What was chosen and how far it is ahead. named: candidate → its variant."""
    text, margin = f"chosen: {named[choice['chosen']]}", choice["margin"]
    if margin is None:
        return text
    ahead = f"{margin['difference']:+.3f}"
    if margin["interval"]:
        low, high = margin["interval"]
        ahead += f", 95 % CI {low:+.3f} to {high:+.3f}"
        if low <= 0 <= high:
            ahead += ": too close to call"
    return f"{text}; ahead of {named.get(margin['over'], margin['over'])} by {ahead}"


def _table(lines: Sequence[Line]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    axes = list(dict.fromkeys(axis for line in lines for axis in line.axes))
    named = any(not line.axes for line in lines)
    columns = columns_of(lines)[:MOST_SCORES]
    table.add_column("", width=1)
    if named:
        table.add_column("variant", no_wrap=True)
    for axis in axes:
        table.add_column(axis, no_wrap=True)
    halved = any(line.trained is not None for line in lines)
    if halved:
        table.add_column("trained", justify="right")
    for name in columns:
        table.add_column(name, justify="right")
        table.add_column("95 % CI", justify="right", style="dim", no_wrap=True)
        if any(_repeated(line, name) for line in lines):
            table.add_column("± sd (seeds)", justify="right", style="dim", no_wrap=True)
    for line in lines:
        cells = ["[green]✓[/]" if line.chosen else ""]
        cells += [line.name if not line.axes else ""] if named else []
        cells += [line.axes.get(axis, "") for axis in axes]
        cells += [percent(line.trained) if line.trained is not None else ""] if halved else []
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
    shares = _are_shares(lines, name)
    cells = [_number(mean, shares), _interval(score, shares)]
    if spread:
        cells.append(f"± {_number(deviation, shares)} ({count})" if deviation is not None else "")
    return cells


def _are_shares(lines: Sequence[Line], name: str) -> bool:
    values = [v for line in lines if name in line.scores for v in line.scores[name].values]
    return all(0 <= value <= 1 for value in values)


def _number(value: float, shares: bool) -> str:
    return percent(value) if shares else f"{value:.4g}"


def _interval(score: Score, shares: bool) -> str:
    if score.interval is None:
        return ""
    low, high = score.interval
    if not shares:
        return f"{low:.4g} – {high:.4g}"
    return f"{100 * max(0.0, low):.1f} – {100 * min(1.0, high):.1f}"


def _remarks(lines: Sequence[Line]) -> list[str]:
    """What the intervals cover."""
    scores = [score for line in lines for score in line.scores.values()]
    if any(len(score.values) > 1 for score in scores):
        return ["95 % CI: Student's interval of the mean over seeds, on the same rows"]
    if any(score.interval for score in scores):
        return ["95 % CI: covers the choice of rows only, not the seed of a training"]
    return []
