"""What artifacts and live metrics look like: the contract of views, and the values they return.

Plugins import the names below from this package. `parts` has the values, `view` the base class and
what its methods take. `html` shows the values as a page, `terminal` and `markdown` as text;
`scales`, `canvas` and `svg` have the geometry of plots. In goes an output of a step, out comes
text, JSON values or a page.

Each build imports this package, so slow imports are inside the functions that need them.
"""

from finery.rows.report import Axis as Axis
from finery.rows.report import Plot as Plot
from finery.rows.report import Remark as Remark
from finery.rows.report import Series as Series
from finery.views.html import render_sections as render_sections
from finery.views.markdown import render_markdown as render_markdown
from finery.views.parts import Cell as Cell
from finery.views.parts import Change as Change
from finery.views.parts import Column as Column
from finery.views.parts import Facts as Facts
from finery.views.parts import Field as Field
from finery.views.parts import Finding as Finding
from finery.views.parts import Hint as Hint
from finery.views.parts import Matrix as Matrix
from finery.views.parts import Part as Part
from finery.views.parts import Quantity as Quantity
from finery.views.parts import Record as Record
from finery.views.parts import Records as Records
from finery.views.parts import Section as Section
from finery.views.parts import Table as Table
from finery.views.parts import Text as Text
from finery.views.parts import Tile as Tile
from finery.views.parts import Tiles as Tiles
from finery.views.parts import Verdict as Verdict
from finery.views.parts import counts_in_words as counts_in_words
from finery.views.parts import record_of as record_of
from finery.views.view import Context as Context
from finery.views.view import Detail as Detail
from finery.views.view import LiveMetric as LiveMetric
from finery.views.view import Output as Output
from finery.views.view import View as View
