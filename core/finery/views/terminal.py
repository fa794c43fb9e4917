"""Sections in a terminal, printed with `rich`."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from finery.rows.report import Plot, Remark, ReportTable
from finery.util.text import counted, in_line, shortened, visible
from finery.views import parts
from finery.views.canvas import plot_as_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text as Styled

STYLES: dict[parts.Tone, str] = {
    "": "", "good": "green", "bad": "red", "warning": "yellow", "soft": "dim", "strong": "bold",
}  # fmt: skip
LONGEST_FOLDED, LONGEST_EXAMPLE = 300, 100
"""Characters that are shown of a field that pages fold, and of an example."""
PLOT_WIDTH, PLOT_HEIGHT = 100, 18
"""Maximum size of a plot in characters, including axes and legend."""
LEAST, GAP = 16, 3
"""The narrowest column of texts, and the space between two columns, in characters."""
WIDEST_MATRIX = 120
"""Widest matrix in columns, also where there is more room. A list of pairs is easier to read."""
FEW_PAIRS, SMALL_MATRIX = 3, 6
"""Pairs that are listed below a matrix that is read at a glance, and the most classes of one."""


def print_sections(console: "Console", sections: Iterable[parts.Section]) -> None:
    """Print the parts of sections, without their titles: the caller said what they are about."""
    for section in sections:
        for part in section.parts:
            print_part(console, part)


def print_part(console: "Console", part: parts.Part) -> None:
    """Print a part."""
    match part:
        case parts.Text():
            is_soft = part.is_code and not console.is_terminal  # which wraps within words
            console.print(_styled(part.text, STYLES[part.tone]), soft_wrap=is_soft)
        case parts.Hint():
            is_soft = not console.is_terminal  # so that its commands can be copied
            console.print(visible(part.text), style="dim", markup=False, soft_wrap=is_soft)
        case parts.Facts():
            facts = {name: parts.fact_text(fact) for name, fact in part.facts.items()}
            _print_facts(console, facts)
        case parts.Tiles():
            texts = ((tile.name, parts.cell_text(tile.value), tile.note) for tile in part.tiles)
            facts = {name: f"{text}  {note}".strip() for name, text, note in texts}
            _print_facts(console, {n: shortened(t, parts.LONGEST_FACT) for n, t in facts.items()})
        case parts.Table() | ReportTable():
            print_table(console, parts.as_table(part))
        case parts.Matrix():
            _print_matrix(console, part)
        case Plot():
            _print_title(console, part.title)
            for line in plot_as_text(part, min(console.width, PLOT_WIDTH), PLOT_HEIGHT):
                console.print(line, no_wrap=True, overflow="crop")
        case parts.Record():
            console.print()
            print_fields(console, part.fields)
        case parts.Records():
            _print_records(console, part)
        case parts.Tree():
            console.print()
            console.print(_tree(part))
        case parts.Change():
            shown = part.as_part()
            _print_change(console, part) if shown is None else print_part(console, shown)
        case Remark():
            style = "yellow" if part.severity == "warning" else ""
            console.print(_styled(part.text, style))
            if part.advice:
                console.print(_styled(part.advice, style))
        case parts.Section():
            console.print()
            console.print(_assembled((part.title, "bold"), (f"  {part.note}", "dim")))
            for each in part.parts:
                print_part(console, each)
        case parts.Finding() | parts.Verdict():
            pass


def _assembled(*texts: tuple[str, str], overflow: Any = None) -> "Styled":
    """A line of (text, style)."""
    from rich.text import Text as Styled

    return Styled.assemble(*((visible(text), style) for text, style in texts), overflow=overflow)


def _styled(text: str, style: str = "") -> "Styled":
    return _assembled((text, style))


def _grid(rows: Iterable[Sequence[Any]], *columns: dict[str, Any], indent: int = 0) -> Any:
    """Rows without a head. columns: the options of `rich` for each."""
    from rich.padding import Padding
    from rich.table import Table as Grid

    grid = Grid.grid(padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(**({"overflow": "fold"} | column))
    for row in rows:
        grid.add_row(*row)
    return Padding(grid, (0, 0, 0, indent))


def _print_facts(console: "Console", facts: dict[str, str]) -> None:
    """Print names and values in two columns. A path that is too long for its column stays whole."""
    width = max([13, *map(len, facts)])
    for name, text in facts.items():
        if max(map(len, text.split()), default=0) > console.width - width - 4:
            console.print(_assembled((f"  {name:<{width}}  ", "cyan"), (text, "")), soft_wrap=True)
        else:
            names = {"width": width, "style": "cyan", "no_wrap": True}
            row = _styled(name), _styled(text)
            console.print(_grid([row], names, {"ratio": 1}, indent=2))


# -- rows and answers ------------------------------------------------------------------------------


def print_fields(console: "Console", fields: Iterable[parts.Field]) -> None:
    """Print labelled texts, each next to its label."""
    for field in fields:
        style = STYLES[field.tone] or ("cyan" if field.label == "user" else "yellow")
        label = {"width": max(9, min(16, len(field.label))), "style": style, "no_wrap": True}
        text = shortened(field.text, LONGEST_FOLDED) if field.is_folded else field.text
        row = _styled(field.label), _styled(text, "dim" if field.tone == "soft" else "")
        console.print(_grid([row], label, {"ratio": 1}))


def _print_records(console: "Console", part: parts.Records) -> None:
    """Print the first records; of answers, the wrong ones of the side that is looked at."""
    records = (r for r in part.records if not part.side or r.verdicts.get(part.side) is False)
    first = list(islice(records, part.shown))
    if part.title and first:
        console.print()
        console.print(_styled(f"{part.title}, {len(first):,} of {part.total:,}:", "dim"))
    for record in first:
        if not part.title:
            console.print()
        print_fields(console, (f for f in record.fields if f.side in ("", part.side)))
    left = part.total - len(first)
    if left > 0 and not part.title:
        more = f" ({part.more})" if part.more else ""
        console.print(f"\n… and {left:,} more{more}", style="dim", markup=False)
    elif part.more and first:
        print_part(console, parts.Hint(part.more))


def _tree(part: parts.Tree) -> Any:
    from rich.tree import Tree as Drawn

    tree = Drawn(_styled("  ").join(map(_styled_cell, part.texts)), guide_style="dim")
    tree.children += map(_tree, part.branches)
    return tree


def _print_change(console: "Console", part: parts.Change) -> None:
    """Print the beginning of a row that was added or removed; of a changed one, what differs."""
    old, new = part.records
    before, after = ({f.label: f.text for f in of.fields} if of else {} for of in (old, new))
    mark, style = ("~", "yellow") if before and after else ("+", "green") if after else ("−", "red")
    record = new or old or parts.Record([])
    others = (text for label, text in (after or before).items() if label != "id")
    title = shortened(in_line(record.title or next(others, "")), LONGEST_EXAMPLE)
    name = (after or before).get("id", "")
    head = _assembled((f"  {mark} ", style), (f"{name}  ", "dim"), (title, ""), overflow="ellipsis")
    console.print(head, no_wrap=True)
    for label in dict.fromkeys([*before, *after]) if before and after else ():
        if label == "id" or before.get(label) == after.get(label):
            continue
        for sign, colour, fields in (("−", "red", before), ("+", "green", after)):
            if label in fields:
                texts = (f"      {sign} ", colour), (f"{label}  ", "cyan")
                line = _assembled(*texts, (in_line(fields[label]), ""), overflow="ellipsis")
                console.print(line, no_wrap=True)


# -- tables ----------------------------------------------------------------------------------------


class PrintedColumn(NamedTuple):
    """A column as styled text. is_number: whether no cell may wrap."""

    title: str
    cells: "list[Styled]"
    is_number: bool
    priority: int = 1

    @property
    def widest(self) -> int:
        """The width of its cells."""
        return max(map(len, self.cells), default=0)

    @property
    def least(self) -> int:
        """The narrowest that it can be: only its title, and cells of text, wrap at words."""
        cell = self.widest if self.is_number else min(LEAST, self.widest)
        return max([cell, *map(len, self.title.split())])

    @property
    def most(self) -> int:
        """The width in which nothing wraps."""
        return max(len(self.title), self.widest)


def print_table(console: "Console", part: parts.Table) -> None:
    """Print a table.

    Where it is too wide, columns that may be left out are, and titles wrap at words. A table with
    fewer rows than columns is turned. Otherwise it is printed in parts with the same first column,
    so that no number wraps.
    """
    columns = printed_columns(part)
    left_out: list[str] = []
    for priority in sorted({column.priority for column in columns if column.priority > 1})[::-1]:
        if _width(columns) <= console.width:
            break
        left_out = [column.title for column in columns if column.priority >= priority] + left_out
        columns = [column for column in columns if column.priority < priority]
    if not any(column.title for column in columns):
        _print_title(console, part.title)
        justified = ({"justify": "right" if column.is_number else "left"} for column in columns)
        rows = zip(*(column.cells for column in columns), strict=True)
        console.print(_grid(rows, *justified, indent=2))
    else:
        turned = None if _width(columns) <= console.width else _turned(columns)
        fits = turned and len(turned) < len(columns) and _width(turned) <= console.width
        columns, styles = (turned, []) if turned and fits else (columns, part.tones)
        _print_title(console, part.title)
        for group in _groups(columns, console.width):
            console.print(_rich_table(group, _widths(group, console.width), styles))
    if left_out:
        console.print(_styled(f"no room for: {', '.join(left_out)}", "dim"))
    if part.note:
        console.print(_styled(part.note, "dim"))


def printed_columns(part: parts.Table) -> list[PrintedColumn]:
    """The columns as text, each with one of its intervals if it has some."""
    return [
        PrintedColumn(in_line(of.title), [*map(_styled_cell, cells)], is_numeric, of.priority)
        for of, cells, is_numeric in parts.columns_with_intervals(part)
    ]


def _styled_cell(cell: parts.Cell) -> "Styled":
    text = parts.Text(parts.cell_text(cell), parts.cell_tone(cell))
    texts = cell if isinstance(cell, list) else [text]
    return _assembled(*((" ".join(text.splitlines()), STYLES[tone]) for text, tone, _ in texts))


def _groups(columns: Sequence[PrintedColumn], width: int) -> Iterator[list[PrintedColumn]]:
    """The columns in as many parts as are necessary, each with the first column."""
    first, *others = columns
    group = [first]
    for column in others:
        if len(group) > 1 and _width([*group, column]) > width:
            yield group
            group = [first]
        group.append(column)
    yield group


def _width(columns: Sequence[PrintedColumn], *, wraps: bool = True) -> int:
    widths = (column.least if wraps else column.most for column in columns)
    return sum(widths) + GAP * len(columns)


def _widths(columns: Sequence[PrintedColumn], width: int) -> list[int]:
    """The width of each column: what is left goes to cells first, then to titles."""
    widths = [column.least for column in columns]
    room = width - _width(columns)
    for wanted in ([c.widest for c in columns], [c.most for c in columns]):
        for index, most in enumerate(wanted):
            more = max(0, min(most - widths[index], room))
            widths[index] += more
            room -= more
    return widths


def _print_title(console: "Console", title: str) -> None:
    if title:
        console.print(_styled(title, "dim"))


def _rich_table(
    columns: Sequence[PrintedColumn], widths: Sequence[int], tones: Sequence[parts.Tone] = ()
) -> Any:
    from rich import box
    from rich.table import Table as Grid

    table = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify: Any = "right" if index and column.is_number else "left"
        title = _styled(column.title)
        table.add_column(title, justify=justify, width=width, overflow="fold")
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*row, style=STYLES[tones[number]] if tones else None)
    return table


def _turned(columns: Sequence[PrintedColumn]) -> list[PrintedColumn]:
    """A row for each column but the first, whose cells become titles."""
    names, *others = columns
    turned = [PrintedColumn("", [_styled(column.title) for column in others], True)]
    is_numeric = any(column.is_number for column in others)  # on the right, like their titles
    for index, name in enumerate(names.cells):
        cells = [column.cells[index] for column in others]
        turned.append(PrintedColumn(name.plain, cells, is_numeric))
    return turned


# -- matrices --------------------------------------------------------------------------------------


def _print_matrix(console: "Console", part: parts.Matrix) -> None:
    """Print the matrix, with numbers for labels in little room, and the most frequent pairs."""
    tables = (_matrix(part, is_numbered=numbered) for numbered in (False, True))
    room = min(console.width, WIDEST_MATRIX)
    fits = (columns for columns in tables if _width(columns, wraps=False) <= room)
    columns = next(fits, None)
    if columns is not None:
        _print_title(console, f"{part.title} (right ↓, answered →)")
        console.print(_rich_table(columns, [column.most for column in columns]))
    pairs = part.pairs()
    if not pairs:
        return
    most = parts.MOST_PAIRS if columns is None or len(part.labels) > SMALL_MATRIX else FEW_PAIRS
    console.print(_styled(part.pairs_title(most), "dim"))
    lines: list[tuple[Any, Any]] = []
    for pair in pairs[:most]:
        words = (in_line(pair.right), ""), (" answered as ", "dim"), (in_line(pair.answered), "")
        lines.append((str(pair.rows), _assembled(*words)))
        if example := part.examples.get((pair.right, pair.answered)):
            lines.append(("", _styled(shortened(in_line(example), LONGEST_EXAMPLE), "dim")))
    console.print(_grid(lines, {"justify": "right", "min_width": 5, "style": "red"}, {}))
    rows = sum(pair.rows for pair in pairs[most:])
    if rows:
        console.print(f"       {counted(rows, 'row')} more in other pairs", style="dim")


def _matrix(part: parts.Matrix, *, is_numbered: bool) -> list[PrintedColumn]:
    labels = [in_line(label) for label in part.labels]
    titles = [str(number) for number in range(1, len(labels) + 1)] if is_numbered else labels
    names = [
        f"{title:>3}  {label}" if is_numbered else label
        for title, label in zip(titles, labels, strict=True)
    ]
    columns = [PrintedColumn("", [*map(_styled, names)], True)]
    for index, title in enumerate(titles):
        colours = ["green" if row == index else "red" for row in range(len(labels))]
        cells = [
            _styled(str(line[index]), colour) if line[index] else _styled("·", "dim")
            for line, colour in zip(part.counts, colours, strict=True)
        ]
        columns.append(PrintedColumn(title, cells, True))
    return columns
