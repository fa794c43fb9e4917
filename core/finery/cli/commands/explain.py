"""`finery explain STEP`: which parts of a step's key changed, old and new."""

from pathlib import Path
from typing import Any

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, recipe_option, set_option
from finery.errors import UsageError
from finery.util.text import did_you_mean


@click.command("explain")
@click.argument("step")
@recipe_option
@set_option
@click.option("--all", "everything", is_flag=True, help="Every part of the key, changed or not.")
@json_option
def command(
    step: str, recipe: Path, overrides: tuple[str, ...], everything: bool, as_json: bool
) -> None:
    """Tell why STEP would run, or why it last ran: the parts of its key that changed."""
    from finery.build.keys import differences
    from finery.build.plan import Planner
    from finery.build.project import open_graph, open_store

    store = open_store(recipe)
    graph = open_graph(recipe, overrides, store)
    if step not in graph.nodes:
        raise UsageError(
            f"the recipe has no step '{step}'", where="STEP", fix=did_you_mean(step, graph.nodes)
        )
    plan, last, before = Planner(graph.select([step]), store).explain(step)
    changes = differences(last, plan.parts) if last is not None else []
    since = "since its last build"
    if last is not None and before is not None and not changes:
        changes, since = differences(before, last), "between its last two builds"
    if as_json:
        for part, old, new in changes:
            print_json(
                {
                    "step": step,
                    "state": plan.state,
                    "since": since,
                    "part": part,
                    "old": _plain(old),
                    "new": _plain(new),
                }
            )
        if not changes:
            print_json({"step": step, "state": plan.state, "reason": plan.reason})
        return
    _print(step, plan, last, changes, since)
    if everything:
        click.echo("\nall parts of its key:")
        _print_parts(plan.parts)


def _print(step: str, plan: Any, last: Any, changes: list[Any], since: str) -> None:
    state = {"cached": "is up to date", "run": "will run", "pending": "is pending"}[plan.state]
    reason = f": {plan.reason}" if plan.reason and (last is None or not changes) else ""
    click.echo(f"{click.style(step, bold=True)} ({plan.node.use}) {state}{reason}")
    if not changes:
        if plan.state == "cached":
            click.echo("nothing changed since its last build")
        return
    click.echo(f"changed {since}:")
    from finery.build.plan import short

    width = max(len(part) for part, _, _ in changes)
    for part, old, new in changes:
        before, after = click.style(short(old), fg="red"), click.style(short(new), fg="green")
        click.echo(f"  {part:<{width}}  {before} → {after}")


def _print_parts(parts: Any) -> None:
    from finery.build.plan import short

    width = max(len(part) for part, _ in parts)
    for part, value in parts:
        click.echo(f"  {part:<{width}}  {short(value, 100)}")


def _plain(value: Any) -> Any:
    from finery.build.keys import MISSING

    return None if value is MISSING else value
