"""The tables that an evaluator keeps in `details["tables"]`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from finery import percent, visible
from finery_eval.view.scores import new_table

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

SMALLEST_P = 0.001
"""Smaller p-values are shown as `< 0.001`."""


def plain_table(data: Mapping[str, Any]) -> "Table":
    """A table of text, numbers and None, see `finery_eval.evaluator.table`."""
    table = new_table(data["title"])
    units = data.get("units", {})
    for index, column in enumerate(data["columns"]):
        justify: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(plain(column), justify=justify, overflow="fold")
    for row in data["rows"]:
        cells = zip(data["columns"], row, strict=True)
        table.add_row(*(plain(cell_text(value, units.get(column))) for column, value in cells))
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
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _p_value(value: float) -> str:
    return f"< {SMALLEST_P}" if value < SMALLEST_P else f"{value:.3f}"


_FORMATS = {
    "share": percent,
    "difference": lambda value: f"{100 * value:+.1f}",
    "p": _p_value,
}
