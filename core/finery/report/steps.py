"""The steps of a report: their state, time and outputs, now or in a run.

All variants of a step are one group, which is one line.
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
from finery.util.text import duration

State = Literal["built", "failed", "running", "blocked", "not built"]
ORDER: Sequence[State] = ("failed", "running", "blocked", "not built", "built")
"""States, in the order in which they need attention."""


class ReportedStep(NamedTuple):
    """A step. detail: why it isn't built, or which changes are accepted.

    result: None if it has none, or its files are gone.
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
    steps = []
    for plan in plans:
        name, record = plan.node.name, records.get(plan.node.name)
        # What another recipe built isn't part of this build if a gate before it fails.
        result = None if name in blocked else plan.result
        state: State = "not built" if result is None else "built"
        detail = plan.reason if result is None else plan.acceptance
        is_same = result is None or (record is not None and record.key == result.key)
        if record and record.state == "failed" and is_same:
            state, detail = "failed", str(record.error.get("what", ""))
        elif name in blocked:
            state, detail = "blocked", f"waits for {', '.join(blocked[name])}, which failed"
        elif record and record.state == "blocked" and result is None:
            state, detail = "blocked", f"waits for {record.by}, which failed"
        elif record and record.state == "running" and result is None and goes_on:
            state, detail = "running", progress.get(record.name, "")
        steps.append(ReportedStep(plan.node, state, detail, result))
    return [_completed(step, store) for step in steps]


def steps_of_run(graph: Graph, store: Store, run: Run) -> list[ReportedStep]:
    """The steps in the state in which a run left them, without those no longer in the recipe."""
    results = {
        name: store.lookup(record.key) if record.key else None for name, record in run.steps.items()
    }
    for name, node in [*graph.nodes.items()]:  # let steps be of the variants that were chosen
        choice = graph.choice_for(node, results)
        if choice is not None and choice in node.candidates:
            graph.settle(name, choice)
    sections = []
    for name, record in run.steps.items():
        if name not in graph.nodes:
            continue
        result = results[name]
        detail = str(record.error.get("what", ""))
        if record.state == "cached":
            detail = record.reason
        states: Mapping[str, State] = {
            "cached": "built", "ran": "built", "failed": "failed", "blocked": "blocked",
            "running": "running",
        }  # fmt: skip
        state = states.get(record.state, "not built")
        if state == "built" and result is None:
            state, detail = "not built", "its outputs are no longer in the store"
        sections.append(ReportedStep(graph.nodes[name], state, detail, result))
    return [_completed(step, store) for step in sections]


def _completed(step: ReportedStep, store: Store) -> ReportedStep:
    """With its cost; without a result whose files can't be had from a shared store."""
    if step.result is None:
        return step
    if not store.shared.reach(step.result.outputs.values()):
        return step._replace(state="not built", detail=f"its files {LOST}", result=None)
    return step._replace(dollars=store.dollars_spent([step.result.key]))


def counts(steps: Sequence[ReportedStep]) -> Iterator[str]:
    """How many steps are in each state: `7 built`, `1 failed`."""
    states = Counter(step.state for step in steps)
    yield from (f"{states[state]} {state}" for state in get_args(State) if states[state])


class Group(NamedTuple):
    """A step, or all variants of one. upstream: titles of the groups that it waits for."""

    title: str
    steps: Sequence[ReportedStep]
    upstream: Sequence[str]

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
        parts = list(counts(self.steps))
        return ", ".join(parts) if len(parts) > 1 else ""


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
