"""The display of data sets."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from finery import Dataset
from finery.advanced import Manifest, counted
from finery.rows import Row
from finery.views import (
    Context,
    Detail,
    Facts,
    Output,
    Part,
    Record,
    Records,
    Section,
    View,
    counts_in_words,
    record_of,
)
from finery_data.report.facts import lengths_and_classes
from finery_data.report.page import drop_parts, drops_data

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
