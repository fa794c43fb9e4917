"""Compares the curves of two trainings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finery_trl.view.curves import Point, label, metrics, series

if TYPE_CHECKING:
    from rich.console import Console

WIDTH, HEIGHT = 100, 14
"""Maximum size of the plot in characters."""
FEWEST = 2
"""Values that a curve has at least, to be drawn."""
COLOURS = ("cyan", "yellow")
"""Of A and B."""


def difference_of(before: Sequence[Point], after: Sequence[Point]) -> dict[str, Any]:
    """Name of a series → its last and its lowest value on both sides, and the series, as JSON."""
    names = ["loss", "eval_loss", *dict.fromkeys([*metrics(before), *metrics(after)])]
    found = {}
    for name in names:
        both = series(before, name), series(after, name)
        if any(both):
            found[name] = {
                "last": [of[-1][1] if of else None for of in both],
                "lowest": [min(value for _, value in of) if of else None for of in both],
                "series": [[list(point) for point in of] for of in both],
            }
    return found


def print_difference(console: "Console", data: Mapping[str, Any]) -> None:
    """Print the validation loss of both trainings, else the training loss, in one plot."""
    from finery.views import Line, plot

    for name in ("eval_loss", "loss"):
        both = data.get(name, {}).get("series", [])
        if len(both) == 2 and all(len(of) >= FEWEST for of in both):
            drawn = [
                Line(f"{label(name)} of {side}", [(int(s), v) for s, v in of], colour, mark)
                for side, of, colour, mark in zip("AB", both, COLOURS, "●○", strict=True)
            ]
            for line in plot(drawn, min(console.width, WIDTH), HEIGHT, None):
                console.print(line)
            break
    for text in _lines(data):
        console.print(f"  {text}", markup=False)


def _lines(data: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in data.items():
        (last_a, last_b), (low_a, low_b) = facts["last"], facts["lowest"]
        lowest = f", lowest {_number(low_a)} → {_number(low_b)}" if name == "eval_loss" else ""
        yield f"{label(name)}: at the end {_number(last_a)} → {_number(last_b)}{lowest}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
