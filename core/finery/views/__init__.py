"""What artifacts and live metrics look like: the contract of views, and what they draw with.

Plugins import the names below from this package. `view` has the base class, what its methods
take, and how a running step's metrics are shown. `display` prints, `curves` draws them in a
terminal, `html` renders pages and their sections. In goes an output of a step, out comes text, JSON
values or a page.

Each build imports this package, so slow imports are inside the functions that need them.
"""

from finery.views.curves import Axis, Line, Span, plot, round_steps, spreads
from finery.views.display import (
    counts_in_words,
    print_facts,
    print_labelled,
    print_row,
    print_turns,
)
from finery.views.html import Finding, PageSection, render_page, render_sections, templates_digest
from finery.views.view import Detail, LiveMetric, Output, Page, PageContext, Remark, View

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
