"""The section of rows on the report of a build: counts, lengths, classes, drops, contamination."""

import itertools
from collections.abc import Sequence

from finery import Dataset
from finery.views import Output, PageContext, PageSection, counts_in_words, render_page
from finery_data.report.contamination import contaminations, finding
from finery_data.report.rowfacts import Classes, Lengths, text_parts

TEMPLATE = "finery_data.view/section.html.jinja"
COUNTED = 20_000
"""Rows of a data set that are read for its lengths and classes."""


def section_of(outputs: Sequence[Output], context: PageContext) -> PageSection:
    """The section about all data sets of a build."""
    found = list(contaminations(context))
    html = render_page(
        TEMPLATE,
        datasets=[_dataset(output) for output in outputs],
        drops=[
            (output.title, name, counts)
            for output in outputs
            for name in ("dropped", "findings")
            if (counts := output.manifest.meta.get(name))
        ],
        contaminations=found,
    )
    return PageSection("Rows", html, rank=20, findings=[finding(found)])


def _dataset(output: Output) -> tuple[str, str, list[tuple[str, str]], list[tuple[str, str]]]:
    """(name, rows, median and longest of each part in characters, classes)."""
    dataset = output.artifact
    assert isinstance(dataset, Dataset)
    lengths: dict[str, Lengths] = {}
    classes = Classes()
    for row in itertools.islice(dataset, COUNTED):
        classes.add(row)
        for part, text in text_parts(row).items():
            lengths.setdefault(part, Lengths()).add(len(text))
    spans = [(part, f"{of.at(0.5):,} / {of.at(1):,}") for part, of in lengths.items()]
    named = [(name, counts_in_words(of)) for name, of in classes.found().items()]
    return output.title, f"{len(dataset):,}", spans, named
