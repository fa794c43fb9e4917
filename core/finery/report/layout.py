"""The graph of a recipe as SVG: boxes in layers from left to right, each after what it needs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from finery.recipe.graph import Node

WIDTH, HEIGHT = 156, 50
"""Of a box, in pixels."""
ACROSS, DOWN = 44, 18
"""Space between boxes."""
NAME = 20
"""Characters of a name or a step type that fit into a box."""


class Box(NamedTuple):
    """A step's box; its top left corner in pixels."""

    node: Node
    x: int
    y: int

    @property
    def name(self) -> str:
        """The step's name, shortened."""
        return _cut(self.node.name)

    @property
    def use(self) -> str:
        """Its step type, shortened."""
        return _cut(self.node.use)


class Picture(NamedTuple):
    """Boxes, curves between them (path data), and the size of all."""

    boxes: Sequence[Box]
    lines: Sequence[str]
    width: int
    height: int


def picture_of(nodes: Mapping[str, Node]) -> Picture:
    """Place every step one layer after the last that it waits for, near those it waits for."""
    layers: dict[str, int] = {}
    for name, node in nodes.items():  # in the order of the graph
        layers[name] = max((layers[up] + 1 for up in node.upstream() if up in layers), default=0)
    rows: dict[str, int] = {}
    for layer in range(max(layers.values(), default=0) + 1):
        members = [name for name in nodes if layers[name] == layer]
        members.sort(key=lambda name: _middle(nodes[name], rows))
        rows |= {name: row for row, name in enumerate(members)}
    boxes = {
        name: Box(node, layers[name] * (WIDTH + ACROSS) + 2, rows[name] * (HEIGHT + DOWN) + 2)
        for name, node in nodes.items()
    }
    lines = [
        _line(boxes[up], boxes[name])
        for name, node in nodes.items()
        for up in node.upstream()
        if up in boxes
    ]
    width = max((box.x for box in boxes.values()), default=0) + WIDTH + 4
    height = max((box.y for box in boxes.values()), default=0) + HEIGHT + 4
    return Picture(list(boxes.values()), lines, width, height)


def _middle(node: Node, rows: Mapping[str, int]) -> float:
    above = [rows[up] for up in node.upstream() if up in rows]
    return sum(above) / len(above) if above else 0.0


def _line(start: Box, end: Box) -> str:
    x, y = start.x + WIDTH, start.y + HEIGHT / 2
    to_x, to_y = end.x, end.y + HEIGHT / 2
    half = ACROSS / 2
    return f"M{x} {y:.0f}C{x + half:.0f} {y:.0f} {to_x - half:.0f} {to_y:.0f} {to_x} {to_y:.0f}"


def _cut(text: str) -> str:
    return text if len(text) <= NAME else f"{text[: NAME - 1]}…"
