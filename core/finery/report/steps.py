"""The steps of a report: their state, time and outputs, now or in a run of the past."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from finery.artifact.manifest import Result
from finery.builder.plan import Planner, make_plan
from finery.builder.runs.reading import Run, progress_of
from finery.recipe.graph import Graph, Node
from finery.store.database import Store
from finery.util.text import duration

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
    found = []
    for plan in make_plan(Planner(graph, store), without_files=True):
        record = records.get(plan.node.name)
        if plan.result is not None:
            state: State = "built"
            if record and record.state == "failed" and record.key == plan.key:
                state = "failed"
            detail = str(record.error.get("what", "")) if record and state == "failed" else ""
            found.append(ReportedStep(plan.node, state, detail, plan.result))
        elif record and record.state == "failed":
            detail = str(record.error.get("what", ""))
            found.append(ReportedStep(plan.node, "failed", detail))
        elif record and record.state == "blocked":
            found.append(ReportedStep(plan.node, "blocked", f"waits for {record.by}, which failed"))
        elif record and record.state == "running" and goes_on:
            found.append(ReportedStep(plan.node, "running", progress.get(record.name, "")))
        else:
            found.append(ReportedStep(plan.node, "not built", plan.reason))
    return _with_costs(found, store)


def steps_of_run(graph: Graph, store: Store, run: Run) -> list[ReportedStep]:
    """The steps in the state in which a run left them, without those no longer in the recipe."""
    results = {
        name: store.lookup(record.key) if record.key else None for name, record in run.steps.items()
    }
    _settle(graph, results)
    found = []
    for name, record in run.steps.items():
        node = graph.nodes.get(name)
        if node is None:
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
        found.append(ReportedStep(node, state, detail, result))
    return _with_costs(found, store)


def _settle(graph: Graph, results: Mapping[str, Result | None]) -> None:
    """Replace steps by the variants that a run chose for them, if the recipe still has these."""
    for name, node in [*graph.nodes.items()]:
        choice = graph.choice_for(node, results)
        if choice is not None and choice in node.candidates:
            graph.settle(name, choice)


def _with_costs(steps: list[ReportedStep], store: Store) -> list[ReportedStep]:
    from finery.store.spending import dollars_spent

    def cost(step: ReportedStep) -> float:
        return dollars_spent(store, [step.result.key]) if step.result else 0.0

    return [step._replace(dollars=cost(step)) for step in steps]


def counts(steps: Sequence[ReportedStep]) -> Iterator[str]:
    """The number of steps in each state: `7 built`, `1 failed`."""
    for state in ("built", "failed", "running", "blocked", "not built"):
        count = sum(step.state == state for step in steps)
        if count:
            yield f"{count} {state}"
