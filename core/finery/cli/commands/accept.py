"""`finery accept STEP`: keep a result although the step's code or a package changed."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from finery.cli.commands.explain import print_changes
from finery.cli.console import print_json, print_result, print_wrapped
from finery.cli.options import json_option, matrix_option, recipe_and_step
from finery.errors import UsageError
from finery.util.paths import shown
from finery.util.text import counted

if TYPE_CHECKING:
    from finery.artifact.manifest import Result
    from finery.builder.plan import Planner, StepPlan
    from finery.builder.project import Project
    from finery.recipe.lock import Accepted


@click.command("accept")
@recipe_and_step
@matrix_option
@click.option(
    "--verify", is_flag=True,
    help="Run STEP first, or one of its variants, and accept only if the output is the same. "
    "What was accepted before is withdrawn if it isn't.",
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
    from finery.builder.keys import changes_between
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
    use, lock = mine[0].node.use, planner.lock
    served = [plan for plan in mine if plan.accepted][:1] if verify else []
    is_refuted = bool(served) and not _is_same(project, plans, served[0], as_json=as_json)
    if undo or is_refuted:
        withdrawn = mine if undo else served
        lines = {
            c.line(): c for p in withdrawn for c in planner.acceptances.applied_changes(p.parts)
        }
        lock.accept([], [*lines.values()])
    else:
        last = {each: planner.latest.get(each, ("",))[0] for each in names}
        results = ((each, project.store.lookup(key)) for each, key in last.items() if key)
        built = {each: result for each, result in results if result is not None}
        changed = [p for p in mine if p.state != "cached" and p.node.name in built]
        if not changed and not all(plan.state == "cached" for plan in mine):
            fix = "build at the commit before the change (a shared store may help), then return"
            text = f"{graph.recipe.path} has no result here of step '{name}' from before the change"
            raise UsageError(text, fix=fix)
        lines = {c.line(): c for plan in changed for c in _causes(planner, plan, built)}
        if not as_json:
            printed = set()  # variants with the same changes are shown once
            for plan in changed:
                before = built[plan.node.name].parts
                changes = changes_between(before, plan.all_parts, planner.code.names)
                if (texts := tuple(map(str, changes))) not in printed:
                    printed.add(texts)
                    print_changes(plan, before, changes, "since its last build")
        if lines and verify:
            first = replace(changed[0], result=built[changed[0].node.name])
            if not _is_same(project, plans, first, as_json=as_json):
                if not as_json:
                    click.secho(f"{first.node.name}: nothing is accepted", fg="red", bold=True)
                return 1
        lock.accept([*lines.values()])
    verb = "withdrawn" if undo or is_refuted else "accepted"
    for each in lines.values() if as_json else ():
        data = msgspec.to_builtins(each)
        print_json({"step": name, "state": verb, "old": None, "new": None, **data})
    if lines and not as_json:
        text = f"{shown(lock.path)}: {counted(len(lines), 'change')} {verb} for {use}"
        click.secho(text, fg="red" if is_refuted else "green")
        _print_served(make_plan(Planner(graph, project.store), without_files=True), use)
    if not lines:
        reason = "nothing is accepted" if undo else "nothing to accept"
        reason += f": {mine[0].acceptance}" if mine[0].accepted else f" for {use}"
        reason = f"still {served[0].acceptance}" if served else reason
        text = f"{click.style(name, bold=True)}: {reason}"
        print_result({"step": name, "reason": reason}, text, as_json=as_json)
    return int(is_refuted)


def _causes(planner: "Planner", plan: "StepPlan", built: "dict[str, Result]") -> "list[Accepted]":
    """The changes since the step's last result. Raises `UsageError` if one can't be accepted."""
    from finery.builder.keys import NOT_BUILT, changes_between, comparable, group_changes
    from finery.recipe.lock import is_acceptable

    before = built[plan.node.name].parts
    differing = [each for each in comparable(before, plan.all_parts) if each[2] != NOT_BUILT]
    if refused := {part for part, *_ in differing if not is_acceptable(part)}:
        changes = changes_between(before, plan.all_parts, planner.code.names)
        raise UsageError(
            f"step '{plan.node.name}' has to run: not only its code, a package or the machine "
            "changed",
            details=[str(change) for change in changes if change.part in refused],
            fix=f"finery build {planner.graph.recipe.argument}--step {plan.node.name}",
        )
    return group_changes(plan.node.use, differing)


def _is_same(
    project: "Project", plans: "dict[str, StepPlan]", plan: "StepPlan", *, as_json: bool
) -> bool:
    """Whether a step makes the outputs of the plan's result again; prints the others."""
    from finery.builder.anew import temporary_store
    from finery.cli.commands.verify import run_again

    name = plan.node.name
    if plan.state == "pending":
        fix = "accept or build that first"
        raise UsageError(f"can't verify: step '{name}' {plan.reason}", fix=fix)
    with temporary_store(project.store) as empty:
        pairs = run_again(project, plans | {name: plan}, [name], empty, as_json=as_json)
        is_same = all(pair.is_same for pair in pairs)
        if as_json:
            outputs = [pair.data(project.graph.plugins) for pair in pairs]
            print_json({"step": name, "same": is_same, "outputs": outputs})
        for pair in pairs if not as_json else ():
            pair.print(project.graph)
    return is_same


def _print_served(plans: "Iterable[StepPlan]", use: str) -> None:
    """The steps of the type: those that accepted changes serve, and what becomes of the others."""
    words = {"cached": "keep their results", "pending": "wait for their inputs", "run": "run"}
    names: dict[str, list[str]] = {}
    for plan in plans:
        if plan.node.use == use and (plan.accepted or plan.state != "cached"):
            names.setdefault(words[plan.state], []).append(plan.node.name)
    for text, steps in names.items():
        print_wrapped(f"  {text}: ", ", ".join(steps), hang=4)
