"""`finery verify STEP`: does a step make the same output again?"""

import sys
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finery.cli.console import print_json
from finery.cli.options import json_option, matrix_option, recipe_and_step
from finery.errors import UsageError
from finery.util.text import counted, some_of

if TYPE_CHECKING:
    from finery.builder.plan import StepPlan
    from finery.builder.project import Project
    from finery.cli.redone import Redone, Score
    from finery.store.database import Store


@click.command("verify")
@recipe_and_step
@matrix_option
@json_option
def command(recipe: Path, step: str, overrides: tuple[str, ...], as_json: bool) -> int:
    """Run STEP again in an empty store, and compare its output with the one that is built.

    Nothing is published. If the weights of a model differ, its evaluators run again, too: their
    scores must be in the intervals of those before. Exit code 1 if the output differs.
    """
    from finery.artifact.kinds import Metrics, Model
    from finery.builder.anew import temporary_store
    from finery.builder.plan import Planner, make_plan
    from finery.builder.project import Project
    from finery.cli.redone import scores

    project = Project(recipe, overrides)
    graph, name = project.graph, step.partition(".")[0]
    graph.require_runnable(name)
    plans = {plan.node.name: plan for plan in make_plan(Planner(graph, project.store))}
    missing = [n for n in graph.select([name]).nodes if plans[n].result is None]
    if missing:
        call = f"finery build {graph.recipe.argument}--step {name}"
        raise UsageError(f"isn't built for this recipe: {some_of(missing)}", fix=call)
    judged: list[Score] = []
    with temporary_store(project.store) as empty:
        pairs = run_again(project, plans, [name], empty, as_json=as_json)
        is_same = all(pair.is_same for pair in pairs)
        evaluators = [
            node.name
            for node in graph.nodes.values()
            if node.evaluates
            and not type(node.step).__spec__.alone  # time says nothing of answers
            and any(source.step == name for source in node.sources)
            and plans[node.name].result is not None
        ]
        if not is_same and evaluators and any(p.after.kind == Model.kind for p in pairs):
            text = f"{name} differs: asking {some_of(evaluators)} whether it is as good"
            click.echo(text, err=True)
            again = run_again(project, plans, [name, *evaluators], empty, as_json=as_json)
            judged = [s for p in again if p.after.kind == Metrics.kind for s in scores(p)]
        if as_json:
            print_json({
                "step": name, "same": is_same,
                "outputs": [pair.data(graph.plugins) for pair in pairs],
                "scores": [score._asdict() | {"within": score.is_within} for score in judged],
            })  # fmt: skip
        else:
            for pair in pairs:
                pair.print(graph)
            _print_scores(judged)
    return 0 if is_same or (judged and all(score.is_within for score in judged)) else 1


def run_again(
    project: "Project", plans: "dict[str, StepPlan]", names: list[str], empty: "Store", *,
    as_json: bool,
) -> "list[Redone]":  # fmt: skip
    """Run steps again; their outputs before and after. Raises the error of a step that fails."""
    from finery.builder.anew import build_anew
    from finery.cli.progress import listener
    from finery.cli.redone import redone
    from finery.execute.local import LocalExecutor

    view: Any = (lambda event: None) if as_json else listener(sys.stderr, project.graph)
    with nullcontext() if as_json else closing(view):
        outcome = build_anew(
            project.graph, plans, names, project.store, empty, LocalExecutor(), [view]
        )
    if any(name not in outcome.results for name in names):
        raise next(iter(outcome.errors.values()))
    stores, pairs = (project.store, empty), []
    for name in names:
        before = plans[name].result
        assert before is not None
        pairs += redone(name, before, outcome.results[name], stores)
    return pairs


def _print_scores(judged: "list[Score]") -> None:
    for score in judged:
        low, high = score.interval or (score.before, score.before)
        verdict, colour = ("in", "green") if score.is_within else ("NOT in", "red")
        after = "no value" if score.after is None else f"{score.after:.4g}"
        values = f"{score.before:.4g} → {after}"
        interval = click.style(f"{verdict} its interval ({low:.4g} to {high:.4g})", fg=colour)
        click.echo(f"  {score.evaluator}: {score.metric} of {score.model} {values}, {interval}")
    if judged:
        outside = sum(not score.is_within for score in judged)
        text = f"{counted(len(judged), 'score')}, {outside} outside of the interval"
        click.secho(text, bold=True)
