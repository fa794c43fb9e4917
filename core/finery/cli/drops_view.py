"""What a step dropped, and what it found wrong with rows that it kept."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from finery.artifact.kinds import Dataset
from finery.cli.console import visible
from finery.rows import snippet
from finery.rows.dropped import dropped, findings

SHOWN = 3
"""Rows of each reason that are shown unless all are."""
SNIPPET = 160
"""Characters of a dropped row that are shown."""


def drops_data(dataset: Dataset, *, every: bool) -> dict[str, Any]:
    """The dropped rows and the findings, the first few of each reason or all, for `--json`."""
    return {
        name: list(_first(lines, key, every=every))
        for name, lines, key in _lists(dataset)
        if name in dataset.meta
    }


def show_drops(console: Any, dataset: Dataset, *, every: bool) -> None:
    """Print the dropped rows and the findings; nothing where there are none.

    every: all of them in their order, else the first few by reason.
    """
    for name, lines, key in _lists(dataset):
        counts = dataset.meta.get(name) or {}
        what = "dropped" if name == "dropped" else "found"
        if every:
            for line in lines:
                _show(console, line, f"{what}: {line[key]}")
            continue
        by_reason = defaultdict[str, list[dict[str, Any]]](list)
        for line in _first(lines, key, every=False):
            by_reason[line[key]].append(line)
        for reason, shown in by_reason.items():
            _show_reason(console, f"{what}: {reason}", shown, counts.get(reason, len(shown)))


def _show_reason(console: Any, title: str, shown: list[dict[str, Any]], count: int) -> None:
    console.print(f"\n[yellow]{title}[/] [dim]{count:,}[/]")
    for line in shown:
        _show(console, line)
    if count > len(shown):
        console.print(f"  [dim]… and {count - len(shown):,} more (--dropped)[/]")


def _lists(dataset: Dataset) -> Iterator[tuple[str, Iterable[dict[str, Any]], str]]:
    """(what they are in `meta`, lines, what they are counted by)."""
    yield "dropped", dropped(dataset), "reason"
    yield "findings", findings(dataset), "check"


def _first(lines: Iterable[dict[str, Any]], key: str, *, every: bool) -> Iterator[dict[str, Any]]:
    seen = defaultdict[str, int](int)
    for line in lines:
        seen[line[key]] += 1
        if every or seen[line[key]] <= SHOWN:
            yield line


def _show(console: Any, line: dict[str, Any], title: str = "") -> None:
    from rich.text import Text

    number = f"row {line['row']} " if isinstance(line.get("row"), int) else ""
    head = (f"{title}  ", "yellow") if title else "  "
    detail = visible(f"  {line['detail']}")
    console.print(Text.assemble(head, (f"{number}{line['id']}", "dim"), detail))
    if isinstance(line.get("row"), dict):
        console.print(
            Text(visible(f"    {snippet(line['row'], SNIPPET)}"), style="dim"), no_wrap=True
        )
    said = (line.get("made") or {}).get("answer")
    if said:
        text = " ".join(said.split())[:SNIPPET]
        console.print(Text(visible(f"    answer: {text}"), style="dim"), no_wrap=True)
