"""`finery plan`: what a build would do, why, and what it will take."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import print_json, print_wrapped
from finery.cli.options import json_option, recipe_argument, set_option
from finery.util.text import counted, duration

if TYPE_CHECKING:
    from finery.build.plan import Planner, StepPlan
    from finery.plugin.notes import Estimate, Note

COLOURS = {"cached": "green", "run": "yellow", "pending": "blue"}
INDENT = 9
"""Columns in front of what is said of a step: those of its state."""


@click.command("plan")
@recipe_argument
@click.option(
    "--step", "steps", multiple=True, metavar="STEP", help="Only this step and what it needs."
)
@set_option
@json_option
def command(
    recipe: Path, steps: tuple[str, ...], overrides: tuple[str, ...], as_json: bool
) -> None:
    """Show every step of RECIPE with what a build would do with it, and why.

    For trainings that would run: how much memory and time they will take.
    """
    from finery.build.checks import estimates_of, notes_on, results_of
    from finery.build.outputs import refuse_shared_folder
    from finery.build.plan import Planner, make_plan
    from finery.build.project import open_graph, open_store
    from finery.cli.notes import print_notes

    store = open_store(recipe)
    graph = open_graph(recipe, overrides, store).select(steps)
    refuse_shared_folder(graph.recipe, store)
    planner = Planner(graph, store)
    plans = list(make_plan(planner))
    results = results_of(planner, plans)
    notes = notes_on(graph, results)
    waiting = [p.node.name for p in plans if p.state != "cached" and not p.same_as]
    estimates = estimates_of(graph, results, waiting) if waiting else {}
    if as_json:
        _print_json(planner, plans, notes, estimates)
        return
    _print_steps(plans, estimates)
    print_notes(graph, notes)
    _print_counts(planner, plans)


def _print_json(
    planner: "Planner",
    plans: Sequence["StepPlan"],
    notes: Sequence["Note"],
    estimates: Mapping[str, "Estimate"],
) -> None:
    """A line for each step; then one for each note on the recipe as a whole."""
    from finery.build.checks import note_data

    steps = {plan.node.name for plan in plans}
    for plan in plans:
        name = plan.node.name
        mine = [note_data(planner.graph, note) for note in notes if note.step == name]
        print_json({
            "step": name, "use": plan.node.use, "state": plan.state, "reason": plan.reason,
            "key": plan.key, "estimate": _estimate_data(estimates.get(name)), "notes": mine,
        })  # fmt: skip
    for note in notes:
        if note.step not in steps:
            print_json({"note": note_data(planner.graph, note)})


def _estimate_data(estimate: "Estimate | None") -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {**estimate.facts, "warning": estimate.warning, "fix": estimate.fix}


def _print_steps(plans: Sequence["StepPlan"], estimates: Mapping[str, "Estimate"]) -> None:
    names = max(len(p.node.name) for p in plans)
    uses = max(len(p.node.use) for p in plans)
    for plan in plans:
        state = click.style(f"{plan.state:<7}", fg=COLOURS[plan.state])
        use, padding = click.style(plan.node.use, dim=True), " " * (uses - len(plan.node.use) + 2)
        start = f"{state}  {plan.node.name:<{names}}  {use}{padding}"
        print_wrapped(start, _why(plan), hang=INDENT)
        if plan.node.name in estimates:
            _print_estimate(estimates[plan.node.name])


def _why(plan: "StepPlan") -> str:
    """Why the step runs; of one that doesn't, what it is pinned to."""
    if plan.state != "cached" or plan.pinned is None:
        return plan.reason
    is_commit = len(plan.pinned) == 40 and set(plan.pinned) <= set("0123456789abcdef")
    return f"as pinned: {plan.pinned[:12] if is_commit else plan.pinned}"


def _print_estimate(estimate: "Estimate") -> None:
    before = " " * INDENT
    for line in estimate.lines:
        print_wrapped(before, line, hang=INDENT + 2, dim=True)
    if estimate.warning:
        head = click.style("warning:", fg="red", bold=True)
        print_wrapped(f"{before}{head} ", estimate.warning, hang=INDENT + 2)
        if estimate.fix:
            head = click.style("fix:", fg="green")
            print_wrapped(f"{before}{head} ", estimate.fix, hang=INDENT + 2)


def _print_counts(planner: "Planner", plans: Sequence["StepPlan"]) -> None:
    counts = {state: sum(p.state == state for p in plans) for state in COLOURS}
    known = [
        seconds for p in plans
        if p.state != "cached" and not p.same_as and p.node.name in planner.latest
        and (seconds := planner.store.seconds_of(planner.latest[p.node.name][0])) is not None
    ]  # fmt: skip
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    took = f" (took {duration(sum(known))} the last time)" if known and sum(known) >= 1 else ""
    click.echo(f"{counted(len(plans), 'step')}: {text}{took}")
