"""What artifacts and live metrics look like: the contract of views, and what they draw with.

Plugins import the names below from this package. `view` has the base class and what its methods
take, `section` the parts of a report, `metrics` how a running step's metrics are shown, `display`
prints, `curves` draws them in a terminal, `axis` scales them there and on pages, `html` renders
pages. In goes an output of a step, out comes text, JSON values or a page.

Each build imports this package, so slow imports are inside the functions that need them.
"""

from finery.views.axis import Axis, Span, round_steps, spreads
from finery.views.curves import Line, plot
from finery.views.display import (
    counts_in_words,
    print_facts,
    print_labelled,
    print_row,
    print_turns,
)
from finery.views.html import render_page, templates_digest
from finery.views.metrics import LiveMetric
from finery.views.section import Finding, PageSection, render_sections
from finery.views.view import Detail, Output, Page, PageContext, Remark, View

__all__ = [
    "Axis",
    "Detail",
    "Finding",
    "Line",
    "LiveMetric",
    "Output",
    "Page",
    "PageContext",
    "PageSection",
    "Remark",
    "Span",
    "View",
    "counts_in_words",
    "plot",
    "print_facts",
    "print_labelled",
    "print_row",
    "print_turns",
    "render_page",
    "render_sections",
    "round_steps",
    "spreads",
    "templates_digest",
]
