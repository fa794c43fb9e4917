"""The steps of a report: their state, time and outputs, now or in a run; and their graph as SVG.

All variants of a step are one group, which is one line and one box.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from finery.artifact.manifest import Result
from finery.builder.checks import blocked_by, failed_gates
from finery.builder.plan import LOST, Planner, make_plan
from finery.builder.runs import Run, progress_of
from finery.compare.outputs import folded, title_of
from finery.recipe.graph import Graph, Node
from finery.store.database import Store
from finery.util.text import counted, duration, shortened

State = Literal["built", "failed", "running", "blocked", "not built"]
ORDER: Sequence[State] = ("failed", "running", "blocked", "not built", "built")
"""States, in the order in which they need attention."""


class ReportedStep(NamedTuple):
    """A step. detail: why it isn't built. result: None if it has none, or its files are gone.

    dollars: the cost of the answers in it.
    """

    node: Node
    state: State
    detail: str = ""
    result: Result | None = None
    dollars: float = 0.0

    @property
    def time(self) -> str:
        """The time that it took; empty if unknown."""
        return duration(self.result.seconds) if self.result else ""


def steps_now(graph: Graph, store: Store, run: Run | None) -> list[ReportedStep]:
    """The steps as the recipe is now. run: its last run, which says what failed or goes on."""
    records = run.steps if run else {}
    progress = progress_of(store.root, run) if run else {}
    goes_on = run is not None and run.ending == "running"
    plans = list(make_plan(Planner(graph, store), without_files=True))
    failed = failed_gates(graph, store, {plan.node.name: plan.result for plan in plans})
    blocked = blocked_by(graph, failed)
    found = []
    for plan in plans:
        name, record = plan.node.name, records.get(plan.node.name)
        # What another recipe built isn't part of this build if a gate before it fails.
        result = None if name in blocked else plan.result
        state: State = "not built" if result is None else "built"
        detail = plan.reason if result is None else ""
        if record and record.state == "failed" and (result is None or record.key == plan.key):
            state, detail = "failed", str(record.error.get("what", ""))
        elif name in blocked:
            state, detail = "blocked", f"waits for {', '.join(blocked[name])}, which failed"
        elif record and record.state == "blocked" and result is None:
            state, detail = "blocked", f"waits for {record.by}, which failed"
        elif record and record.state == "running" and result is None and goes_on:
            state, detail = "running", progress.get(record.name, "")
        found.append(ReportedStep(plan.node, state, detail, result))
    return [_completed(step, store) for step in found]


def steps_of_run(graph: Graph, store: Store, run: Run) -> list[ReportedStep]:
    """The steps in the state in which a run left them, without those no longer in the recipe."""
    results = {
        name: store.lookup(record.key) if record.key else None for name, record in run.steps.items()
    }
    for name, node in [*graph.nodes.items()]:  # let steps be of the variants that were chosen
        choice = graph.choice_for(node, results)
        if choice is not None and choice in node.candidates:
            graph.settle(name, choice)
    found = []
    for name, record in run.steps.items():
        if name not in graph.nodes:
            continue
        result = results[name]
        detail = str(record.error.get("what", ""))
        states: Mapping[str, State] = {
            "cached": "built", "ran": "built", "failed": "failed", "blocked": "blocked",
            "running": "running",
        }  # fmt: skip
        state = states.get(record.state, "not built")
        if state == "built" and result is None:
            state, detail = "not built", "its outputs are no longer in the store"
        found.append(ReportedStep(graph.nodes[name], state, detail, result))
    return [_completed(step, store) for step in found]


def _completed(step: ReportedStep, store: Store) -> ReportedStep:
    """With its cost; without a result whose files can't be had from a shared store."""
    if step.result is None:
        return step
    if not store.shared.reach(step.result.outputs.values()):
        return step._replace(state="not built", detail=f"its files {LOST}", result=None)
    return step._replace(dollars=store.dollars_spent([step.result.key]))


def counts(steps: Sequence[ReportedStep]) -> Iterator[str]:
    """How many steps are in each state: `7 built`, `1 failed`."""
    found = Counter(step.state for step in steps)
    yield from (f"{found[state]} {state}" for state in get_args(State) if found[state])


class Group(NamedTuple):
    """A step, or all variants of one. upstream: titles of the groups that it waits for."""

    title: str
    steps: Sequence[ReportedStep]
    upstream: Sequence[str]

    @property
    def name(self) -> str:
        """The step's name; of variants the one that they share."""
        node = self.steps[0].node
        return node.origin if len(self.steps) > 1 else node.name

    @property
    def variants(self) -> str:
        """`12 variants`; empty of a step without variants."""
        return counted(len(self.steps), "variant") if len(self.steps) > 1 else ""

    @property
    def use(self) -> str:
        """The step type."""
        return self.steps[0].node.use

    @property
    def state(self) -> State:
        """The step's state; of variants the one that deserves a look first."""
        return min((step.state for step in self.steps), key=ORDER.index)

    @property
    def detail(self) -> str:
        """Why it isn't built; of variants how many are in each state, if they differ."""
        if len(self.steps) == 1 or len({step.detail for step in self.steps}) == 1:
            return self.steps[0].detail
        found = list(counts(self.steps))
        return ", ".join(found) if len(found) > 1 else ""

    @property
    def time(self) -> str:
        """How long all of it took, empty if that isn't known."""
        results = [step.result for step in self.steps if step.result]
        return duration(sum(result.seconds for result in results)) if results else ""


def groups_of(steps: Sequence[ReportedStep]) -> list[Group]:
    """The groups in the order of the graph."""
    groups = folded(steps, lambda step: step.node, lambda _: None)
    titles = [title_of([step.node for step in group]) for group in groups]
    title_at = {
        step.node.name: title for title, group in zip(titles, groups, strict=True) for step in group
    }
    upstream = [
        dict.fromkeys(title_at.get(name, name) for step in group for name in step.node.upstream())
        for group in groups
    ]
    return [
        Group(title, group, [each for each in before if each != title])
        for title, group, before in zip(titles, groups, upstream, strict=True)
    ]


WIDTH, HEIGHT = 156, 50
"""Size of a box, in pixels."""
ACROSS, DOWN = 44, 18
"""Space between boxes, along the lines and beside them."""
PAGE = 1002
"""Width of a section on the page, in pixels."""
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
        return shortened(self.group.name, NAME)

    @property
    def use(self) -> str:
        """The number of its variants, or else its step type, shortened."""
        return shortened(self.group.variants or self.group.use, NAME)


class Picture(NamedTuple):
    """Boxes, curves between them (path data), and the size of all."""

    boxes: Sequence[Box]
    lines: Sequence[str]
    width: int
    height: int


def pictures_of(groups: Sequence[Group]) -> tuple[Picture, Picture]:
    """The graph for a screen, from left to right if it fits, and for a phone."""
    across = picture_of(groups)
    return across if across.width <= PAGE else picture_of(groups, 5), picture_of(groups, 2)


def picture_of(groups: Sequence[Group], columns: int | None = None) -> Picture:
    """Place every box one layer after the last that it waits for, near those it waits for.

    columns: how many boxes are side by side in a picture from top to bottom.
    """
    named = {group.title: group for group in groups}  # in the order of the graph
    layers: dict[str, int] = {}
    for name, group in named.items():
        layers[name] = max((layers[up] + 1 for up in group.upstream if up in layers), default=0)
    places: dict[str, tuple[int, int]] = {}  # (column, row)
    row = 0
    for layer in range(max(layers.values(), default=0) + 1):
        members = [name for name in named if layers[name] == layer]
        members.sort(key=lambda name: _middle(named[name], places, columns is None))
        for at, name in enumerate(members):
            places[name] = (layer, at) if columns is None else (at % columns, row + at // columns)
        row += -(-len(members) // columns) if columns else 0
    beside, below = (ACROSS, DOWN) if columns is None else (DOWN, ACROSS)
    boxes = {
        name: Box(group, x * (WIDTH + beside) + 2, y * (HEIGHT + below) + 2)
        for name, group in named.items()
        for x, y in [places[name]]
    }
    draw = _line_across if columns is None else _line_down
    lines = [
        draw(boxes[up], boxes[name])
        for name, group in named.items()
        for up in group.upstream
        if up in boxes
    ]
    width = max((box.x for box in boxes.values()), default=0) + WIDTH + 8
    height = max((box.y for box in boxes.values()), default=0) + HEIGHT + 8
    return Picture(list(boxes.values()), lines, width, height)


def _middle(group: Group, places: Mapping[str, tuple[int, int]], is_across: bool) -> float:
    above = [places[up][is_across] for up in group.upstream if up in places]
    return sum(above) / len(above) if above else 0.0


def _line_across(start: Box, end: Box) -> str:
    x, y = start.x + WIDTH, start.y + HEIGHT / 2
    to_x, to_y = end.x, end.y + HEIGHT / 2
    half = ACROSS / 2
    return f"M{x} {y:.0f}C{x + half:.0f} {y:.0f} {to_x - half:.0f} {to_y:.0f} {to_x} {to_y:.0f}"


def _line_down(start: Box, end: Box) -> str:
    """A curve to the next row, or else one along the space beside the last box's column."""
    x, y, to_x, to_y = start.x + WIDTH // 2, start.y + HEIGHT, end.x + WIDTH // 2, end.y
    half = ACROSS // 2
    if to_y - y == ACROSS:
        return f"M{x} {y}C{x} {y + half} {to_x} {to_y - half} {to_x} {to_y}"
    between = end.x - DOWN // 2 if end.x > WIDTH else end.x + WIDTH + DOWN // 2
    return (
        f"M{x} {y}C{x} {y + half} {between} {y + half} {between} {y + ACROSS}V{to_y - ACROSS}"
        f"C{between} {to_y - half} {to_x} {to_y - half} {to_x} {to_y}"
    )
