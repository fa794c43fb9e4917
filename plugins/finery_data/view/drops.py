"""Shows what a step dropped, and the problems that it found in rows that it kept."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from finery import Dataset
from finery.rows import snippet
from finery.rows.dropped import dropped, findings
from finery.util.text import visible

if TYPE_CHECKING:
    from rich.console import Console

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


def print_drops(console: "Console", dataset: Dataset, *, every: bool) -> None:
    """Print the dropped rows and the findings, if any.

    every: all of them in their order; otherwise the first few by reason.
    """
    for name, lines, key in _lists(dataset):
        counts = dataset.meta.get(name) or {}
        what = "dropped" if name == "dropped" else "found"
        if every:
            for line in lines:
                _print_line(console, line, f"{what}: {line[key]}")
            continue
        by_reason = defaultdict[str, list[dict[str, Any]]](list)
        for line in _first(lines, key, every=False):
            by_reason[line[key]].append(line)
        for reason, first in by_reason.items():
            _print_reason(console, f"{what}: {reason}", first, counts.get(reason, len(first)))


def _print_reason(console: "Console", title: str, first: list[dict[str, Any]], count: int) -> None:
    from rich.text import Text

    console.print(Text.assemble("\n", (visible(title), "yellow"), (f" {count:,}", "dim")))
    for line in first:
        _print_line(console, line)
    if count > len(first):
        console.print(f"  … and {count - len(first):,} more (--dropped)", style="dim")


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


def _print_line(console: "Console", line: dict[str, Any], title: str = "") -> None:
    from rich.text import Text

    number = f"row {line['row']} " if isinstance(line.get("row"), int) else ""
    head = (f"{visible(title)}  ", "yellow") if title else "  "
    detail = visible(f"  {line['detail']}")
    console.print(Text.assemble(head, (f"{number}{line['id']}", "dim"), detail))
    if isinstance(line.get("row"), dict):
        console.print(
            Text(visible(f"    {snippet(line['row'], SNIPPET)}"), style="dim"), no_wrap=True
        )
    answer = (line.get("made") or {}).get("answer")
    if answer:
        text = " ".join(answer.split())[:SNIPPET]
        console.print(Text(visible(f"    answer: {text}"), style="dim"), no_wrap=True)
