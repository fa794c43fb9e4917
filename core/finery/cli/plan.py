"""`finery plan`: what a build would do, and why."""

from pathlib import Path

import click

from finery.cli.options import json_option, recipe_argument, set_option
from finery.cli.output import counted, duration, print_json


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
    """Show every step of RECIPE with what a build would do with it, and why."""
    from finery.plan import Planner, make_plan
    from finery.project import open_graph, open_store

    store = open_store(recipe)
    graph = open_graph(recipe, overrides, store).select(steps)
    planner = Planner(graph, store)
    plans = list(make_plan(planner))
    if as_json:
        for plan in plans:
            print_json({
                "step": plan.node.name, "use": plan.node.use, "state": plan.state,
                "reason": plan.reason, "key": plan.key,
            })  # fmt: skip
        return
    names = max(len(p.node.name) for p in plans)
    uses = max(len(p.node.use) for p in plans)
    colours = {"cached": "green", "run": "yellow", "pending": "blue"}
    for plan in plans:
        state = click.style(f"{plan.state:<7}", fg=colours[plan.state])
        use = click.style(f"{plan.node.use:<{uses}}", dim=True)
        click.echo(f"{state}  {plan.node.name:<{names}}  {use}  {plan.reason}".rstrip())
    counts = {state: sum(p.state == state for p in plans) for state in colours}
    known = [
        seconds for p in plans if p.state != "cached" and p.node.name in planner.latest
        and (seconds := store.seconds_of(planner.latest[p.node.name][0])) is not None
    ]  # fmt: skip
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    took = f" (took {duration(sum(known))} the last time)" if known and sum(known) >= 1 else ""
    click.echo(f"{counted(len(plans), 'step')}: {text}{took}")
