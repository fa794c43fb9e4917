"""What artifacts and live metrics look like: the contract of views, and the values they return.

Plugins import the names below from this package. `parts` has the values, `view` the base class and
what its methods take. `terminal`, `html` and `markdown` show the values; `scales`, `canvas` and
`svg` have the geometry of plots. In goes an output of a step, out comes text, JSON values or a
page.

Each build imports this package, so slow imports are inside the functions that need them.
"""

from finery.views.curves import Axis as OldAxis
from finery.views.curves import Line, Span, plot, round_steps, spreads
from finery.views.display import (
    print_facts,
    print_labelled,
    print_row,
    print_turns,
)
from finery.views.html import PageSection, render_page, render_sections, templates_digest
from finery.views.parts import (
    Axis,
    Cell,
    Change,
    Column,
    Facts,
    Field,
    Finding,
    Hint,
    Matrix,
    Part,
    Plot,
    Quantity,
    Record,
    Records,
    Remark,
    Section,
    Series,
    Table,
    Text,
    Tile,
    Tiles,
    as_text,
    counts_in_words,
    plot_of,
    record_of,
)
from finery.views.view import (
    Context,
    Detail,
    LiveMetric,
    Output,
    Page,
    PageContext,
    View,
    changed_facts,
)

__all__ = [
    "Axis",
    "Cell",
    "Change",
    "Column",
    "Context",
    "Detail",
    "Facts",
    "Field",
    "Finding",
    "Hint",
    "Line",
    "LiveMetric",
    "Matrix",
    "OldAxis",
    "Output",
    "Page",
    "PageContext",
    "PageSection",
    "Part",
    "Plot",
    "Quantity",
    "Record",
    "Records",
    "Remark",
    "Section",
    "Series",
    "Span",
    "Table",
    "Text",
    "Tile",
    "Tiles",
    "View",
    "as_text",
    "changed_facts",
    "counts_in_words",
    "plot",
    "plot_of",
    "print_facts",
    "print_labelled",
    "print_row",
    "print_turns",
    "record_of",
    "render_page",
    "render_sections",
    "round_steps",
    "spreads",
    "templates_digest",
]
