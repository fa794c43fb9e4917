"""The graph of a recipe as SVG: boxes in layers from left to right, each after what it needs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finery.report.steps import Group

WIDTH, HEIGHT = 156, 50
"""Size of a box, in pixels."""
ACROSS, DOWN = 44, 18
"""Space between boxes."""
NAME = 20
"""Maximum characters of a name or a step type that fit into a box."""


class Box(NamedTuple):
    """The box of a step or of all its variants; its top left corner in pixels."""

    group: Group
    x: int
    y: int

    @property
    def name(self) -> str:
        """The step's name, shortened."""
        return _cut(self.group.name)

    @property
    def use(self) -> str:
        """The number of its variants, or else its step type, shortened."""
        return _cut(self.group.variants or self.group.use)


class Picture(NamedTuple):
    """Boxes, curves between them (path data), and the size of all."""

    boxes: Sequence[Box]
    lines: Sequence[str]
    width: int
    height: int


def picture_of(groups: Sequence[Group]) -> Picture:
    """Place every box one layer after the last that it waits for, near those it waits for."""
    named = {group.title: group for group in groups}  # in the order of the graph
    layers: dict[str, int] = {}
    for name, group in named.items():
        layers[name] = max((layers[up] + 1 for up in group.upstream if up in layers), default=0)
    rows: dict[str, int] = {}
    for layer in range(max(layers.values(), default=0) + 1):
        members = [name for name in named if layers[name] == layer]
        members.sort(key=lambda name: _middle(named[name], rows))
        rows |= {name: row for row, name in enumerate(members)}
    boxes = {
        name: Box(group, layers[name] * (WIDTH + ACROSS) + 2, rows[name] * (HEIGHT + DOWN) + 2)
        for name, group in named.items()
    }
    lines = [
        _line(boxes[up], boxes[name])
        for name, group in named.items()
        for up in group.upstream
        if up in boxes
    ]
    width = max((box.x for box in boxes.values()), default=0) + WIDTH + 8
    height = max((box.y for box in boxes.values()), default=0) + HEIGHT + 8
    return Picture(list(boxes.values()), lines, width, height)


def _middle(group: Group, rows: Mapping[str, int]) -> float:
    above = [rows[up] for up in group.upstream if up in rows]
    return sum(above) / len(above) if above else 0.0


def _line(start: Box, end: Box) -> str:
    x, y = start.x + WIDTH, start.y + HEIGHT / 2
    to_x, to_y = end.x, end.y + HEIGHT / 2
    half = ACROSS / 2
    return f"M{x} {y:.0f}C{x + half:.0f} {y:.0f} {to_x - half:.0f} {to_y:.0f} {to_x} {to_y:.0f}"


def _cut(text: str) -> str:
    return text if len(text) <= NAME else f"{text[: NAME - 1]}…"
