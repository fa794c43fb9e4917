"""`finery explain STEP`: which parts of a step's key changed, old and new."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, matrix_option, recipe_and_step

if TYPE_CHECKING:
    from finery.artifact.manifest import Parts
    from finery.builder.keys import Change
    from finery.builder.plan import StepPlan
    from finery.builder.versions import Elsewhere


@click.command("explain")
@recipe_and_step
@matrix_option
@click.option(
    "--all", "everything", is_flag=True,
    help="Show all parts of the key, not only those that changed.",
)  # fmt: skip
@json_option
def command(
    step: str, recipe: Path, overrides: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Explain why STEP would run, or why it last ran: the parts of its key that changed."""
    from finery.builder.keys import changes_between, short
    from finery.builder.plan import Planner
    from finery.builder.project import Project
    from finery.builder.sharing import plans_with_shared
    from finery.builder.versions import other_versions
    from finery.config import load_config
    from finery.util.text import in_line, some_of

    project = Project(recipe, overrides)
    graph, store = project.graph, project.store
    step = step.partition(".")[0]  # an output is made by its step
    graph.require(step)
    planner = Planner(graph.select([step]), store)
    plan, last, before = planner.explain(step)
    elsewhere: list[Elsewhere] = []
    if last is None and plan.result is None:
        config = load_config(graph.recipe.path, reads=True)
        plan = next(p for p in plans_with_shared(planner, config) if p.node.name == step)
        if plan.key and plan.result is None:
            elsewhere += other_versions(store, plan)
    names_of = planner.code.names
    since = "since its last build"
    if plan.accepted and plan.result is not None:
        last = plan.result.parts
    changes = changes_between(last, plan.all_parts, names_of) if last is not None else []
    if plan.accepted:
        since = "since it was built, and accepted"
    elif changes and plan.state == "cached":  # as it was before the last build, which is kept
        since = "since its last build, and kept from an earlier one"
    if last is not None and before is not None and not changes:
        changes, since = changes_between(before, last, names_of), "between its last two builds"
    if as_json:
        for change in changes:
            accepted = {"accepted": change.part in plan.accepted}
            about = {"step": step, "state": plan.state, "since": since}
            print_json(about | change_data(change) | accepted)
        if not changes:
            others = {"elsewhere": [e._asdict() for e in elsewhere]} if elsewhere else {}
            print_json({"step": step, "state": plan.state, "reason": plan.reason} | others)
        return
    print_changes(plan, last, changes, since)
    for store_name, _, versions in elsewhere:
        made = [f"{name} {there} (here {here})" for name, (there, here) in versions.items()]
        click.echo(f"{store_name} has it, made with {some_of([*map(in_line, made)])}")
    if everything:
        click.echo("\nall parts of its key:")
        width = max(len(part) for part, _ in plan.all_parts)
        for part, value in plan.all_parts:
            click.echo(f"  {part:<{width}}  {short(value, part, 100)}")


def print_changes(
    plan: "StepPlan", last: "Parts | None", changes: "list[Change]", since: str
) -> None:
    """The step's state, and its changes. last: the parts of its last key."""
    state = {"cached": "is up to date", "run": "will run", "pending": "is pending"}[plan.state]
    tells = last is None or not changes or plan.state == "pending" or plan.accepted
    reason = f": {plan.reason}" if plan.reason and tells else ""
    click.echo(f"{click.style(plan.node.name, bold=True)} ({plan.node.use}) {state}{reason}")
    if not changes:
        if plan.state == "cached":
            click.echo("nothing changed since its last build")
        return
    click.echo(f"changed {since}:")
    width = max(len(change.part) for change in changes)
    for change in changes:
        before, after = change.values()
        fits = width + len(before) + len(after) + 7 <= shutil.get_terminal_size().columns
        gap = " " if fits else f"\n  {'':<{width}}  "
        values = f"{click.style(before, fg='red')}{gap}→ {click.style(after, fg='green')}"
        click.echo(f"  {change.part:<{width}}  {values}")
        if any(change.names):
            click.echo(f"  {'':<{width}}  {change.names}")


def change_data(change: "Change") -> dict[str, Any]:
    """A change as plain data, for `--json`."""
    from finery.builder.keys import MISSING

    old, new = (None if value is MISSING else value for value in (change.old, change.new))
    names = {"names": change.names._asdict()} if any(change.names) else {}
    return {"part": change.part, "old": old, "new": new, **names}
