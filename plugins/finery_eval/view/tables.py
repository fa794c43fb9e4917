"""The tables that an evaluator keeps in `details["tables"]`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finery import in_points, percent, visible
from finery_eval.view.scores import new_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

LOW, HIGH = "95 % CI low", "95 % CI high"
"""The columns that evaluators write the ends of an interval in."""
LEAST, GAP = 16, 3
"""The narrowest column of texts, and the space between two columns, in characters."""
SMALLEST_P = 0.001
"""Smaller p-values are shown as `< 0.001`."""


class Column(NamedTuple):
    """A column as text. is_number: whether no cell may wrap."""

    head: str
    cells: list[str]
    is_number: bool

    @property
    def least(self) -> int:
        """The narrowest that it can be: only its head, and cells of text, wrap at words."""
        parts = [*self.head.split(), *(self.cells if self.is_number else [])]
        longest = max((len(cell) for cell in self.cells), default=0)
        return max([min(LEAST, longest), *map(len, parts)])


def print_table(console: "Console", data: Mapping[str, Any]) -> None:
    """Print a table of text, numbers and None, see `finery_eval.evaluator.table`."""
    print_columns(console, data["title"], _columns(data))


def print_columns(
    console: "Console", title: str, columns: Sequence[Column], styles: Sequence[str] = ()
) -> None:
    """Print columns as a table. styles: of its rows.

    Where it is too wide, heads wrap at words; then it is printed in parts with the same first
    column, so that no number wraps.
    """
    for part in _parts(columns, console.width):
        console.print(_table(title, part, _widths(part, console.width), styles))
        title = ""


def _columns(data: Mapping[str, Any]) -> list[Column]:
    """The columns, with both ends of an interval in one."""
    units, columns = data.get("units", {}), []
    heads: list[str] = list(data["columns"])
    for index, head in enumerate(heads):
        values, unit = [row[index] for row in data["rows"]], units.get(head)
        if head == HIGH and heads[index - 1] == LOW:
            continue
        if head == LOW and heads[index + 1 : index + 2] == [HIGH]:
            ends = [(row[index], row[index + 1]) for row in data["rows"]]
            columns.append(Column("95 % CI", [_interval(*of, unit) for of in ends], True))
            continue
        is_number = not any(isinstance(value, str) for value in values)
        cells = [visible(cell_text(value, unit)) for value in values]
        columns.append(Column(visible(head), cells, is_number))
    return columns


def _interval(low: Any, high: Any, unit: str | None) -> str:
    if low is None or high is None:
        return cell_text(None, unit)
    ends = [cell_text(end, unit).removesuffix(" %") for end in (low, high)]
    return (" to " if unit == "difference" else " – ").join(ends)


def _parts(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """The columns in as many parts as are necessary, each with the first column."""
    first, *others = columns
    part = [first]
    for column in others:
        if len(part) > 1 and _width([*part, column]) > width:
            yield part
            part = [first]
        part.append(column)
    yield part


def _width(columns: Sequence[Column]) -> int:
    return sum(column.least for column in columns) + GAP * len(columns)


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """The width of each column: what is left goes to cells first, then to heads."""
    widths = [column.least for column in columns]
    room = width - _width(columns)
    for wanted in ([max(map(len, c.cells), default=0) for c in columns],
                   [len(c.head) for c in columns]):  # fmt: skip
        for index, most in enumerate(wanted):
            more = max(0, min(most - widths[index], room))
            widths[index] += more
            room -= more
    return widths


def _table(
    title: str, columns: Sequence[Column], widths: Sequence[int], styles: Sequence[str]
) -> "Table":
    table = new_table(title)
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(plain(column.head), justify=justify, width=width, overflow="fold")
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        table.add_row(*map(plain, row), style=styles[number] if styles else None)
    return table


def plain(text: str) -> "Text":
    """Text from rows or models, without rich's markup."""
    from rich.text import Text

    return Text(visible(text))


def cell_text(value: Any, unit: str | None) -> str:
    """A cell as text. unit: what its numbers are, None where they are plain."""
    if value is None:
        return "–"
    if isinstance(value, int | float) and unit:
        return _FORMATS[unit](value)
    return f"{value:z.3f}" if isinstance(value, float) else str(value)


def _p_value(value: float) -> str:
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


_FORMATS = {
    "share": percent,
    "difference": in_points,
    "p": _p_value,
}
