"""Shows what a step dropped, and the problems that it found in rows that it kept."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from finery import Dataset
from finery.advanced import Manifest
from finery.rows import Row, snippet
from finery.rows.dropped import read_dropped, read_findings
from finery.util.text import counted, in_line, shortened
from finery.views import (
    Context,
    Detail,
    Facts,
    Field,
    Hint,
    Output,
    Part,
    Record,
    Records,
    Section,
    Text,
    View,
    counts_in_words,
    record_of,
)
from finery_data.report.rowfacts import lengths_and_classes

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


def drop_parts(dataset: Dataset, *, every: bool) -> Iterator[Part]:
    """The dropped rows and the findings, if any.

    every: all of them in their order; otherwise the first few by reason.
    """
    for name, lines, key in _lists(dataset):
        counts: Mapping[str, int] = dataset.meta.get(name) or {}
        kind = "dropped" if name == "dropped" else "found"
        if every:
            records = map(partial(_record, kind=kind, key=key), lines)
            total = sum(counts.values())
            yield Records(records, total, kind, shown=total)
            continue
        by_reason = defaultdict[str, list[dict[str, Any]]](list)
        for line in _first(lines, key, every=False):
            by_reason[line[key]].append(line)
        for reason, first in by_reason.items():
            count = counts.get(reason, len(first))
            parts: list[Part] = [text for line in first for text in _lines(line)]
            if count > len(first):
                parts.append(Hint(f"  … and {count - len(first):,} more (--dropped)"))
            yield Section(f"{kind}: {reason} {count:,}", parts)


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


def _lines(line: Mapping[str, Any]) -> Iterator[Text]:
    """The id of a row with the detail, and below it texts of the row."""
    yield Text(f"  {_name(line)}  {line['detail']}")
    yield from (Text(f"    {text}", "soft") for text in _texts(line))


def _record(line: Mapping[str, Any], kind: str, key: str) -> Record:
    head = Field(kind, f"{line[key]}  {_name(line)}  {line['detail']}", "warning")
    return Record([head, *(Field("", text, "soft") for text in _texts(line))])


def _name(line: Mapping[str, Any]) -> str:
    number = f"row {line['row']} " if isinstance(line.get("row"), int) else ""
    return f"{number}{line['id']}"


def _texts(line: Mapping[str, Any]) -> Iterator[str]:
    """The beginning of the row, and of the answer that was made for it."""
    if isinstance(line.get("row"), dict):
        yield snippet(line["row"], SNIPPET)
    if answer := (line.get("made") or {}).get("answer"):
        yield f"answer: {shortened(in_line(answer), SNIPPET)}"


COUNTED = 100_000
"""Rows of a data set that are read for its lengths and classes."""


class DatasetView(View):
    """The view of data sets."""

    side_by_side = True
    page_suffix = "-report"

    def brief(self, manifest: Manifest) -> str:
        """The number of rows."""
        return counted(manifest.meta["rows"], "row")

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The first rows, and what was dropped or found fault with."""
        dataset = _dataset_of(output)
        rows = list(islice(dataset, detail.rows))
        return {"rows": rows, **drops_data(dataset, every=detail.dropped)}

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta`, and lengths and classes of the rows in a line each."""
        return {**output.manifest.meta, **row_facts(_dataset_of(output))}

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """Facts, the first rows, and what was dropped or found fault with.

        On a page, a report on all of them, which is too slow and too long for a terminal. Of a
        build, a table and the training rows that copy test rows.
        """
        from finery_data.view.page import report_on, rows_section

        if context.scope == "build":
            yield rows_section(outputs, context)
        elif context.scope == "output" and context.medium == "page":
            yield from report_on({o.title: _dataset_of(o) for o in outputs}, context)
        elif context.scope == "output":
            yield from (Section(o.title, self._parts(o, context.detail)) for o in outputs)

    def _parts(self, output: Output, detail: Detail) -> Iterator[Part]:
        dataset = _dataset_of(output)
        yield Facts(self.facts(output))
        rows = map(self.record, islice(dataset, detail.rows))
        yield Records(rows, len(dataset), shown=detail.rows, more="--rows N")
        yield from drop_parts(dataset, every=detail.dropped)

    def record(self, row: Row) -> Record:
        """What is shown of one of the first rows."""
        return record_of(row)

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """The rows that were added, removed and changed."""
        from finery_data.view.difference import difference_of

        return difference_of(_dataset_of(before), _dataset_of(after))

    def compare(self, before: Output, after: Output, context: Context) -> Iterator[Section]:
        """How many rows differ, and the first of each kind."""
        from finery_data.view.difference import difference_parts

        data = self.difference(before, after)
        yield Section(after.title, difference_parts(data, context.detail.rows))


def _dataset_of(output: Output) -> Dataset:
    assert isinstance(output.artifact, Dataset)
    return output.artifact


def row_facts(dataset: Dataset) -> dict[str, str]:
    """Lengths and classes of the rows, in a line each."""
    lengths, classes = lengths_and_classes(islice(dataset, COUNTED))
    first = f", of the first {COUNTED:,} rows" if len(dataset) > COUNTED else ""
    facts = {
        part: f"{of.at(0):,} to {of.at(1):,} characters, median {of.at(0.5):,}{first}"
        for part, of in lengths.items()
    }
    return facts | {f"by {n}": counts_in_words(of) for n, of in classes.items()}
