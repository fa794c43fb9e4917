"""Sections as Markdown, for a pull request or a model card.

Texts are escaped, so that nothing in them is a mention, a link or HTML. Rows, answers and tables
with texts of them are left out, since what holds the Markdown may be public.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from finery.rows.report import Plot, Remark, ReportTable
from finery.util.text import in_line, shortened, visible
from finery.views import parts
from finery.views.canvas import plot_as_text

TITLE_LEVEL = 3
"""Level of the titles of sections."""
LONGEST_CELL = 300
"""Characters of a cell."""
MOST_ROWS = 200
"""Rows of a table."""
WIDTH, HEIGHT = 80, 16
"""Of a plot, in characters."""
_SYNTAX = re.compile(r"[\\`*\[\]<>|~&#]|(?<!\w)_|_(?!\w)|(?<!\w)@")


def render_markdown(sections: Iterable[parts.Section]) -> str:
    """Sections with their titles."""
    texts = ["\n\n".join(_section(section, TITLE_LEVEL)) for section in sections]
    return "\n\n".join(filter(None, texts))


def _section(section: parts.Section, level: int) -> Iterator[str]:
    texts = [text for part in section.parts for text in _part(part, level) if text]
    if not texts:
        return
    if section.is_folded:
        inner = "\n\n".join(texts)
        yield f"<details><summary>{escaped(section.title)}</summary>\n\n{inner}\n\n</details>"
        return
    if section.title:
        note = f" ({escaped(section.note)})" if section.note else ""
        yield f"{'#' * level} {escaped(section.title)}{note}"
    yield from texts


def _part(part: parts.Part, level: int) -> Iterator[str]:
    """A part; none for rows and answers, for findings and for hints."""
    match part:
        case parts.Text():
            yield fenced(part.text) if part.is_code else escaped(part.text)
        case parts.Facts():
            facts = [(name, parts.fact_text(of)) for name, of in part.facts.items()]
            yield markdown_table(["", ""], facts) if facts else ""
        case parts.Tiles():
            tiles = [(of.name, parts.cell_text(of.value), of.note) for of in part.tiles]
            yield markdown_table(["", "", ""], tiles)
        case ReportTable(is_private=True):
            pass
        case parts.Table() | ReportTable():
            yield from _table(parts.as_table(part))
        case parts.Matrix():
            pairs = part.pairs()
            if pairs:
                yield escaped(part.pairs_title(parts.MOST_PAIRS))
                first = pairs[: parts.MOST_PAIRS]
                rows = [(pair.right, pair.answered, f"{pair.rows:,}") for pair in first]
                yield markdown_table(["right", "answered", "rows"], rows, [False, False, True])
        case Plot():
            lines = plot_as_text(part, WIDTH, HEIGHT)
            if lines:
                yield escaped(part.title)
                yield fenced("\n".join(line.plain for line in lines))
        case Remark():
            yield escaped(part.paragraph)
        case parts.Section():
            yield from _section(part, level + 1)
        case parts.Change():
            shown = part.as_part()
            yield from _part(shown, level) if shown is not None else ()


def _table(part: parts.Table) -> Iterator[str]:
    shown = part._replace(rows=part.rows[:MOST_ROWS])
    columns, cells, are_numbers = zip(*parts.columns_with_intervals(shown), strict=True)
    heads = [column.title for column in columns]
    texts = [[shortened(parts.cell_text(cell), LONGEST_CELL) for cell in of] for of in cells]
    right = [index > 0 and is_number for index, is_number in enumerate(are_numbers)]
    if part.title:
        yield escaped(part.title)
    yield markdown_table(heads, list(zip(*texts, strict=True)), right)
    if len(part.rows) > MOST_ROWS:
        yield f"… and {len(part.rows) - MOST_ROWS:,} more rows"
    if part.note:
        yield escaped(part.note)


def markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()
) -> str:
    """A table of texts. right: which columns are numbers."""
    marks = ["---:" if each else "---" for each in right or [False] * len(heads)]
    cells = [[*map(escaped, heads)], marks, *([*map(escaped, row)] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def fenced(text: str) -> str:
    """A text in a block of code, which it can't end."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{visible(text).rstrip()}\n{fence}"


def escaped(text: str) -> str:
    """Text in a line of Markdown. A zero-width space keeps @names from being notified."""
    return _SYNTAX.sub(lambda m: "@\u200b" if m[0] == "@" else f"\\{m[0]}", in_line(text))
