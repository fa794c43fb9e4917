"""What artifacts and live metrics look like: the contract of views, and the values they return.

Plugins import the names below from this package. `parts` has the values, `view` the base class and
what its methods take. `html` shows the values as a page, `terminal` and `markdown` as text;
`scales`, `canvas` and `svg` have the geometry of plots. In goes an output of a step, out comes
text, JSON values or a page.

Each build imports this package, so slow imports are inside the functions that need them.
"""

from finery.views.html import render_sections
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
    counts_in_words,
    plot_of,
    record_of,
)
from finery.views.view import Context, Detail, LiveMetric, Output, View, changed_facts

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
    "LiveMetric",
    "Matrix",
    "Output",
    "Part",
    "Plot",
    "Quantity",
    "Record",
    "Records",
    "Remark",
    "Section",
    "Series",
    "Table",
    "Text",
    "Tile",
    "Tiles",
    "View",
    "changed_facts",
    "counts_in_words",
    "plot_of",
    "record_of",
    "render_sections",
]
