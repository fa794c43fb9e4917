"""Sections as Markdown, for a pull request or a model card.

Texts are escaped, so that nothing in them is a mention, a link or HTML. Rows and answers are left
out, since what holds the Markdown may be public.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from finery.util.text import in_line, shortened, visible
from finery.views.canvas import plot_as_text
from finery.views.parts import (
    MOST_PAIRS,
    Change,
    Facts,
    Finding,
    Hint,
    Matrix,
    Part,
    Plot,
    Record,
    Records,
    Remark,
    Section,
    Table,
    Text,
    Tiles,
    Tree,
    as_column,
    cell_text,
    fact_text,
    interval_text,
    is_number,
)

TITLE_LEVEL = 3
"""Level of the titles of sections."""
LONGEST_CELL = 300
"""Characters of a cell."""
MOST_ROWS = 200
"""Rows of a table."""
WIDTH, HEIGHT = 80, 16
"""Of a plot, in characters."""
_SYNTAX = re.compile(r"[\\`*\[\]<>|~&#]|(?<!\w)_|_(?!\w)|(?<!\w)@")


def render_markdown(sections: Iterable[Section]) -> str:
    """Sections with their titles."""
    parts = ["\n\n".join(_section(section, TITLE_LEVEL)) for section in sections]
    return "\n\n".join(filter(None, parts))


def _section(section: Section, level: int) -> Iterator[str]:
    parts = [text for part in section.parts for text in _part(part, level) if text]
    if not parts:
        return
    if section.is_folded:
        inner = "\n\n".join(parts)
        yield f"<details><summary>{escaped(section.title)}</summary>\n\n{inner}\n\n</details>"
        return
    if section.title:
        note = f" ({escaped(section.note)})" if section.note else ""
        yield f"{'#' * level} {escaped(section.title)}{note}"
    yield from parts


def _part(part: Part, level: int) -> Iterator[str]:
    match part:
        case Text():
            yield fenced(part.text) if part.is_code else escaped(part.text)
        case Facts():
            facts = [(name, fact_text(of)) for name, of in part.facts.items()]
            yield markdown_table(["", ""], facts) if facts else ""
        case Tiles():
            tiles = [(of.name, cell_text(of.value), of.note) for of in part.tiles]
            yield markdown_table(["", "", ""], tiles)
        case Table():
            yield from _table(part)
        case Matrix():
            pairs = part.pairs()
            if pairs:
                yield escaped(part.pairs_title(MOST_PAIRS))
                first = pairs[:MOST_PAIRS]
                rows = [(pair.right, pair.answered, f"{pair.rows:,}") for pair in first]
                yield markdown_table(["right", "answered", "rows"], rows, [False, False, True])
        case Plot():
            lines = plot_as_text(part, WIDTH, HEIGHT)
            if lines:
                yield escaped(part.title)
                yield fenced("\n".join(line.plain for line in lines))
        case Remark():
            yield escaped(part.paragraph)
        case Section():
            yield from _section(part, level + 1)
        case Record() | Records() | Tree() | Change() | Finding() | Hint():
            pass


def _table(part: Table) -> Iterator[str]:
    heads, columns, right = [], [], []
    for index, column in enumerate(map(as_column, part.columns)):
        cells = [row[index] for row in part.rows[:MOST_ROWS]]
        heads.append(column.title)
        columns.append([shortened(cell_text(cell), LONGEST_CELL) for cell in cells])
        right.append(index > 0 and all(map(is_number, cells)))
        if column.has_interval and any(map(interval_text, cells)):
            heads.append("95 % CI")
            columns.append([*map(interval_text, cells)])
            right.append(True)
    if part.title:
        yield escaped(part.title)
    yield markdown_table(heads, list(zip(*columns, strict=True)), right)
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
