"""Shows what a step dropped, and the problems that it found in rows that it kept."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery import Dataset, Manifest
from finery.rows import Row, snippet
from finery.rows.dropped import read_dropped, read_findings
from finery.util.text import counted, visible
from finery.views import (
    Detail,
    Output,
    Page,
    PageContext,
    PageSection,
    View,
    counts_in_words,
    print_facts,
    print_row,
)
from finery_data.report.rowfacts import lengths_and_classes

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
    yield "dropped", read_dropped(dataset), "reason"
    yield "findings", read_findings(dataset), "check"


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


COUNTED = 100_000
"""Rows of a data set that are read for its lengths and classes."""


class DatasetView(View):
    """The view of data sets."""

    side_by_side = True

    def brief(self, manifest: Manifest) -> str:
        """The number of rows."""
        return counted(manifest.meta["rows"], "row")

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The first rows, and what was dropped or found fault with."""
        dataset = _dataset_of(output)
        rows = list(itertools.islice(dataset, detail.rows))
        return {"rows": rows, **drops_data(dataset, every=detail.dropped)}

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, and lengths and classes of the rows in a line each."""
        return {**output.manifest.meta, **row_facts(_dataset_of(output))}

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print facts, the first rows, and what was dropped or found fault with."""
        dataset = _dataset_of(output)
        print_facts(console, self.facts(output))
        for row in itertools.islice(dataset, detail.rows):
            console.print()
            self.print_row(console, row)
        left = len(dataset) - detail.rows
        if left > 0:
            console.print(f"\n… and {left:,} more (--rows N)", style="dim")
        print_drops(console, dataset, every=detail.dropped)

    def print_row(self, console: "Console", row: Row) -> None:
        """Print one of the first rows."""
        print_row(console, row)

    def section(self, outputs: Sequence[Output], context: PageContext) -> PageSection:
        """Counts, lengths, classes and drops, and training rows that copy test rows."""
        from finery_data.view.page import section_of

        return section_of(outputs, context)

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """The rows that were added, removed and changed."""
        from finery_data.view.difference import difference_of

        return difference_of(_dataset_of(before), _dataset_of(after))

    def print_difference(
        self, console: "Console", before: Output, after: Output, data: Mapping[str, Any], most: int
    ) -> None:
        """Print how many rows differ, and the first of each kind."""
        from finery_data.view.difference import print_difference

        print_difference(console, data, most)

    def page(self, outputs: Sequence[Output], context: PageContext) -> Page:
        """A report on the data sets, side by side."""
        from finery_data.view.page import report_on

        datasets = {output.title: _dataset_of(output) for output in outputs}
        return Page(report_on(datasets, context), "-report")


def _dataset_of(output: Output) -> Dataset:
    assert isinstance(output.artifact, Dataset)
    return output.artifact


def row_facts(dataset: Dataset) -> dict[str, str]:
    """Lengths and classes of the rows, in a line each."""
    lengths, classes = lengths_and_classes(itertools.islice(dataset, COUNTED))
    first = f", of the first {COUNTED:,} rows" if len(dataset) > COUNTED else ""
    facts = {
        part: f"{of.at(0):,} to {of.at(1):,} characters, median {of.at(0.5):,}{first}"
        for part, of in lengths.items()
    }
    return facts | {f"by {n}": counts_in_words(of) for n, of in classes.items()}
