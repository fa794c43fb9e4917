"""`finery accept STEP`: keep a result although the step's code or a package changed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finery.cli.commands.explain import change_data, changes_of, print_changes
from finery.cli.console import print_json, print_wrapped
from finery.cli.options import json_option, matrix_option, recipe_and_step
from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import counted, some_of

if TYPE_CHECKING:
    from finery.artifact.manifest import Result
    from finery.builder.plan import Planner, StepPlan
    from finery.builder.project import Project
    from finery.recipe.accepted import Accepted


@click.command("accept")
@recipe_and_step
@matrix_option
@click.option(
    "--verify", is_flag=True,
    help="Run STEP first, or one of its variants, and accept only if the output is the same.",
)  # fmt: skip
@click.option("--undo", is_flag=True, help="Withdraw what was accepted for STEP and its type.")
@json_option
def command(
    recipe: Path, step: str, overrides: tuple[str, ...], verify: bool, undo: bool, as_json: bool
) -> int:
    """Accept that code, packages or the machine changed: results of STEP from before still count.

    Adds a line for each change to recipe.lock, for all steps of the type of STEP. A result of
    today's code comes first. Changed settings, inputs and files can't be accepted.
    """
    from finery.builder.plan import Planner, make_plan
    from finery.builder.project import Project

    if verify and undo:
        raise UsageError("--undo runs nothing", where="--verify", fix="remove --verify")
    project = Project(recipe, overrides)
    graph, name = project.graph, step.partition(".")[0]
    names = [*({name} & graph.nodes.keys()), *graph.variants_of(name)] or [name]
    planner = Planner(graph.select(names), project.store)
    plans = {plan.node.name: plan for plan in make_plan(planner)}
    mine = [plans[each] for each in names]
    if undo:
        gone = {c.line(): c for plan in mine for c in planner.acceptances.applied(plan.parts)}
        if gone:
            planner.lock.accept([], [*gone.values()])
        _report(planner, mine[0], [*gone.values()], "withdrawn", as_json=as_json)
        return 0
    built = {p.node.name: result for p in mine if (result := _last_result(planner, p)) is not None}
    changed = [p for p in mine if p.state != "cached" and p.node.name in built]
    if not changed and not all(plan.state == "cached" for plan in mine):
        raise UsageError(
            f"step '{name}' has no result from before a change",
            fix=f"finery build {graph.recipe.argument}--step {name}",
        )
    lines = {c.line(): c for plan in changed for c in _causes(planner, plan, built)}
    if lines and not as_json:
        _print_causes(planner, changed, built)
    if lines and verify and not _is_same(project, plans, changed, built, as_json=as_json):
        return 1
    if lines:
        planner.lock.accept([*lines.values()])
    _report(planner, mine[0], [*lines.values()], "accepted", as_json=as_json)
    if lines and not as_json:
        after = make_plan(Planner(graph, project.store), without_files=True)
        _print_served([plan for plan in after if plan.node.use == mine[0].node.use])
    return 0


def _last_result(planner: "Planner", plan: "StepPlan") -> "Result | None":
    last = planner.latest.get(plan.node.name)
    return planner.store.lookup(last[0]) if last else None


def _causes(planner: "Planner", plan: "StepPlan", built: "dict[str, Result]") -> "list[Accepted]":
    """The changes since the step's last result. Raises `UsageError` if one can't be accepted."""
    from finery.builder.accepted import accepted_together
    from finery.builder.keys import NOT_BUILT, changes_between, comparable
    from finery.recipe.accepted import is_acceptable

    before = built[plan.node.name].parts
    differing = [each for each in comparable(before, plan.parts) if each[2] != NOT_BUILT]
    if refused := {part for part, *_ in differing if not is_acceptable(part)}:
        changes = changes_between(before, plan.parts, planner.code.names)
        raise UsageError(
            f"step '{plan.node.name}' has to run: not only its code, a package or the machine "
            "changed",
            details=[str(change) for change in changes if change.part in refused],
            fix=f"finery build {planner.graph.recipe.argument}--step {plan.node.name}",
        )
    return accepted_together(plan.node.use, differing)


def _print_causes(
    planner: "Planner", plans: "Sequence[StepPlan]", built: "dict[str, Result]"
) -> None:
    """What changed, once for variants with the same changes."""
    seen = set()
    for plan in plans:
        before = built[plan.node.name].parts
        changes = changes_of(planner, plan, before, plan.parts)
        if (texts := tuple(map(str, changes))) not in seen:
            seen.add(texts)
            print_changes(plan, before, changes, "since its last build")


def _is_same(
    project: "Project", plans: "dict[str, StepPlan]", changed: "Sequence[StepPlan]",
    built: "dict[str, Result]", *, as_json: bool,
) -> bool:  # fmt: skip
    """Whether the first of the changed steps makes the same outputs again; prints the others."""
    from finery.builder.anew import empty_store
    from finery.cli.commands.verify import run_again
    from finery.util.events import new_run_id

    name = changed[0].node.name
    missing = [n for n in project.graph.select([name]).nodes if not plans[n].result and n != name]
    if missing:
        call = f"finery build {project.graph.recipe.argument}--step {missing[-1]}"
        raise UsageError(f"isn't built for this recipe: {some_of(missing)}", fix=call)
    project.store.check_writable()
    project.store.hold(new_run_id())
    before = plans | {name: replace(changed[0], result=built[name])}
    with empty_store(project.store) as empty:
        pairs = run_again(project, before, [name], empty, as_json=as_json)
        plugins = project.graph.plugins
        is_same = all(pair.is_same for pair in pairs)
        if as_json:
            outputs = [pair.data(plugins) for pair in pairs]
            print_json({"step": name, "same": is_same, "outputs": outputs})
        else:
            for pair in pairs:
                pair.print(plugins)
            if not is_same:
                click.secho(f"{name}: nothing is accepted", fg="red", bold=True)
    return is_same


def _report(
    planner: "Planner", plan: "StepPlan", lines: "Sequence[Accepted]", verb: str, *, as_json: bool
) -> None:
    """Print which lines recipe.lock got or lost."""
    from finery.builder.keys import Change, Names

    name, use = plan.node.origin or plan.node.name, plan.node.use
    if not lines:
        text = f"nothing is accepted for {use}" if verb == "withdrawn" else "nothing to accept"
        reason = f"{text}{f': {plan.acceptance}' if plan.acceptance else ''}"
        if as_json:
            print_json({"step": name, "use": use, "reason": reason})
        else:
            click.echo(f"{click.style(name, bold=True)} ({use}): {reason}")
        return
    for each in lines if as_json else ():
        change = Change(each.part, each.old, each.new, Names())
        print_json({"step": name, "use": use, "state": verb, **change_data(change)})
    if not as_json:
        where = shown(planner.lock.path)
        click.secho(f"{where}: {counted(len(lines), 'change')} {verb} for {use}", fg="green")


def _print_served(plans: "Sequence[StepPlan]") -> None:
    """The steps of the type: those that accepted changes serve, and what becomes of the others."""
    states = {"cached": "keep their results", "pending": "wait for their inputs", "run": "run"}
    for state, words in states.items():
        are = (plan for plan in plans if plan.state == state)
        if names := [plan.node.name for plan in are if plan.accepted or state != "cached"]:
            print_wrapped(f"  {words}: ", ", ".join(names), hang=4)
