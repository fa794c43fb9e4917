"""`finery plan`: what a build would do, why, and the time, memory and cost that it needs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from finery.cli.console import print_gate, print_json, print_wrapped
from finery.cli.options import json_option, matrix_option, recipe_and_steps
from finery.errors import UsageError
from finery.util.paths import plain_path
from finery.util.text import counted, duration, in_dollars, rough_duration

if TYPE_CHECKING:
    from finery.builder.plan import Planner, StepPlan
    from finery.errors import FineryError
    from finery.execute.routing import EarlierJob
    from finery.recipe.graph import Graph
    from finery.step.forecast import Estimate, Note

COLOURS = {"cached": "green", "run": "yellow", "pending": "blue", "blocked": "red"}
MOST_ESTIMATES = 3
"""Different estimates of a step's variants that are printed."""
FILLS = {"cached": "#d3f0d9", "run": "#fdeeb8", "pending": "#d6e4fb", "blocked": "#f9d4d0"}
"""The colours of `--graph`."""
INDENT = 9
"""Columns before the lines about a step: the width of its state."""


@click.command("plan")
@recipe_and_steps
@matrix_option
@click.option(
    "--graph", "language", type=click.Choice(["mermaid", "dot"]),
    help="Print the graph of the steps instead, for Mermaid (GitHub shows it in Markdown) or "
    "Graphviz.",
)  # fmt: skip
@json_option
def command(
    recipe: Path, steps: tuple[str, ...], overrides: tuple[str, ...], language: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show what a build of RECIPE, or of STEP and what it needs, would do with each step, and why.

    Trainings that would run come with the memory and time that they need. A `require:` that a kept
    result doesn't meet is shown with the steps that it blocks. Nothing runs.
    """
    if language is not None and as_json:
        raise UsageError("the graph isn't JSON", where="--graph", fix="remove --graph or --json")
    from finery.builder import checks
    from finery.builder.examine import check_presence
    from finery.builder.outputs import refuse_shared_folder
    from finery.builder.plan import Planner, make_plan
    from finery.builder.project import Project
    from finery.builder.sharing import plans_with_shared
    from finery.cli.console import notes_line, print_notes
    from finery.config import load_config, settings_in_force
    from finery.execute.routing import check_executors, earlier_jobs, executor_for
    from finery.recipe.validate import raise_all

    project = Project(recipe, overrides)
    graph, store = project.graph.select(steps), project.store
    refuse_shared_folder(graph.recipe, store)
    raise_all(check_presence(graph))
    planner = Planner(graph, store)
    settings = settings_in_force(recipe, reads=True)
    check_executors(settings, graph.plugins, graph.recipe, store.recipes().values())
    routes = next(setting.value for setting in settings if setting.name == "executors")
    executors = {
        node.name: executor_for(routes, node.name, node.origin, node.use, node.section)
        for node in graph.nodes.values()
    }

    def read(
        is_again: bool,
    ) -> "tuple[Sequence[StepPlan], Gates, Sequence[Note], Mapping[str, Estimate]]":
        plans = [*make_plan(planner)] if is_again else plans_with_shared(planner, config)
        failed = checks.failed_gates(graph, store, {p.node.name: p.result for p in plans})
        gates = Gates(failed, checks.blocked_by(graph, failed))
        if language is not None:
            return plans, gates, [], {}
        results = checks.results_of(planner, plans)
        waiting = [p.node.name for p in plans if p.state != "cached" and not p.same_as]
        estimates = checks.estimates_of(graph, results, waiting) if waiting else {}
        return plans, gates, checks.notes_on(graph, results), estimates

    config = load_config(recipe, reads=True)
    plans, gates, notes, estimates = store.shared.retry_without_lost(read)
    if language is not None:
        _print_graph(language, plans, gates)
        return
    jobs = [*earlier_jobs(store, settings, graph.plugins)]
    folder = str(plain_path(graph.recipe.folder))
    jobs_of = {plan.node.name: [*_jobs_of(plan, jobs, folder)] for plan in plans}
    if as_json:
        _print_json(planner, plans, notes, estimates, gates, executors, jobs_of)
        return
    _print_steps(plans, estimates, gates, executors, jobs_of)
    print_notes(graph, [note for note in notes if note.name in checks.OBSTACLES])
    advice = [note for note in notes if note.name not in checks.OBSTACLES]
    if advice:
        print_wrapped("", notes_line(graph, advice), hang=2, dim=True)
    _print_environments(planner, plans)
    _print_counts(planner, plans, gates)


class Gates(NamedTuple):
    """Cached steps that fail a build because of their `require:`, and the steps that they block.

    failed: step → the error that a build would report. blocked: step → those that block it.
    """

    failed: "Mapping[str, FineryError]"
    blocked: Mapping[str, Sequence[str]]

    def state(self, plan: "StepPlan") -> str:
        """The state of a step, which may be blocked."""
        return "blocked" if plan.node.name in self.blocked else plan.state


def _jobs_of(plan: "StepPlan", jobs: Sequence["EarlierJob"], folder: str) -> Iterator["EarlierJob"]:
    """The jobs of a step, with why they don't count for this plan. folder: of the recipe."""
    for job in jobs if plan.state == "run" else ():
        if job.key == plan.key:
            why = "it ended without a result" if job.is_over else ""
        elif (job.step, job.recipe) == (plan.node.name, folder) and not job.is_over:
            why = "a setting, an input, code or a package of the step changed"
        else:
            continue
        yield job._replace(outdated=job.outdated or why)


def _print_json(
    planner: "Planner", plans: Sequence["StepPlan"], notes: Sequence["Note"],
    estimates: Mapping[str, "Estimate"], gates: Gates, executors: Mapping[str, str],
    jobs: Mapping[str, Sequence["EarlierJob"]],
) -> None:  # fmt: skip
    """A line for each step, followed by a line for each note on the recipe as a whole."""
    from finery.builder.checks import note_data

    steps = {plan.node.name for plan in plans}
    for plan in plans:
        name = plan.node.name
        mine = [note_data(planner.graph, note) for note in notes if note.step == name]
        facts = None
        if (estimate := estimates.get(name)) is not None:
            facts = {**estimate.facts, "warning": estimate.warning, "fix": estimate.fix}
        print_json({
            "step": name, "use": plan.node.use, "state": gates.state(plan), "reason": plan.reason,
            "key": plan.result_key, "environment": plan.node.environment or None,
            "executor": executors[name], "resources": plan.node.resources.to_dict(),
            "jobs": [{"name": job.name, "refused": job.outdated} for job in jobs[name]],
            "estimate": facts, "notes": mine,
            "error": gates.failed[name].to_dict() if name in gates.failed else None,
            "blocked_by": [*gates.blocked.get(name, ())], "accepted": plan.accepted,
        })  # fmt: skip
    for note in notes:
        if note.step not in steps:
            print_json({"note": note_data(planner.graph, note)})


def _print_graph(language: str, plans: Sequence["StepPlan"], gates: Gates) -> None:
    """Print a box for each step, in the colour of its state. All variants of a step are one box."""
    from finery.compare.outputs import folded, title_of

    groups = folded(plans, lambda plan: plan.node, lambda _: None)
    ids = {plan.node.name: f"s{n}" for n, group in enumerate(groups) for plan in group}
    edges = dict.fromkeys(
        (ids[up], ids[plan.node.name])
        for plan in plans
        for up in plan.node.upstream()
        if up in ids and ids[up] != ids[plan.node.name]
    )
    mermaid = language == "mermaid"
    click.echo("flowchart LR" if mermaid else "digraph {\n  rankdir=LR\n  node [shape=box]")
    for group in groups:
        name = ids[group[0].node.name]
        title = title_of([plan.node for plan in group]).replace('"', "'")
        states = {gates.state(plan) for plan in group}
        state = next(state for state in reversed(COLOURS) if state in states)
        if mermaid:
            click.echo(f'  {name}["{title}<br>{group[0].node.use}"]:::{state}')
        else:
            label = f"{title}\\n{group[0].node.use}"
            fill = f'style=filled fillcolor="{FILLS[state]}" tooltip="{state}"'
            click.echo(f'  {name} [label="{label}" {fill}]')
    for start, end in edges:
        click.echo(f"  {start} {'-->' if mermaid else '->'} {end}")
    if mermaid:
        for state, fill in FILLS.items():
            click.echo(f"  classDef {state} fill:{fill},stroke:#777,color:#222")
    else:
        click.echo("}")


def _print_steps(
    plans: Sequence["StepPlan"], estimates: Mapping[str, "Estimate"], gates: Gates,
    executors: Mapping[str, str], jobs: Mapping[str, Sequence["EarlierJob"]],
) -> None:  # fmt: skip
    from finery.compare.outputs import folded, title_of
    from finery.recipe.matrix.labels import restore_step_names

    origins = {plan.node.name: plan.node.origin for plan in plans}
    reasons = {p.node.name: restore_step_names(_why(p, gates), origins) for p in plans}
    groups = folded(
        plans,
        lambda plan: plan.node,
        lambda plan: (gates.state(plan), reasons[plan.node.name], plan.node.name in gates.failed),
    )
    titles = [title_of([plan.node for plan in group]) for group in groups]
    width, uses = max(map(len, titles)), max(len(p.node.use) for p in plans)
    for title, group in zip(titles, groups, strict=True):
        plan = group[0]
        state = click.style(f"{gates.state(plan):<7}", fg=COLOURS[gates.state(plan)])
        use, padding = click.style(plan.node.use, dim=True), " " * (uses - len(plan.node.use) + 2)
        start = f"{state}  {title:<{width}}  {use}{padding}"
        why = reasons[plan.node.name] if len(group) > 1 else _why(plan, gates)
        print_wrapped(start, why, hang=INDENT)
        for name in [each.node.name for each in group if each.node.name in gates.failed]:
            head = " " * INDENT + click.style("fails:", fg="red", bold=True)
            blocked = [dependent for dependent, by in gates.blocked.items() if name in by]
            print_gate(head, gates.failed[name], blocked, INDENT)
        asks, executor = str(plan.node.resources), executors[plan.node.name]
        where = [f"runs on {executor}"] if executor != "local" else []
        if plan.state != "cached" and (facts := [*where, *([f"asks for {asks}"] if asks else [])]):
            print_wrapped(" " * INDENT, "; ".join(facts), hang=INDENT + 2, dim=True)
        for job in (job for each in group for job in jobs[each.node.name]):
            print_wrapped(" " * INDENT, job.fate(), hang=INDENT + 2, dim=True)
        _print_estimates([estimates[p.node.name] for p in group if p.node.name in estimates])


def _print_environments(planner: "Planner", plans: Sequence["StepPlan"]) -> None:
    """Name the environments that a build would make before steps run in them."""
    needed = {p.node.environment: p.environment for p in plans if p.state != "cached"}
    for name, environment in needed.items():
        if name and environment is None:
            print_wrapped("", f"environment {name}: will be resolved and made", hang=2, dim=True)
        elif environment is not None:
            from finery.execute.venv import is_environment_complete

            packages = counted(len(environment.requirements), "package")
            text = f"environment {name}: Python {environment.python}, {packages}"
            if not is_environment_complete(environment, planner.store.root):
                print_wrapped("", f"{text}, will be made", hang=2, dim=True)


def _why(plan: "StepPlan", gates: Gates) -> str:
    """Why the step runs, is blocked or accepted. For others, the commit that it is pinned to."""
    if plan.node.name in gates.blocked:
        return f"blocked by {', '.join(gates.blocked[plan.node.name])}"
    if plan.state != "cached" or plan.pinned is None or plan.accepted:
        return plan.reason
    is_commit = len(plan.pinned) == 40 and set(plan.pinned) <= set("0123456789abcdef")
    return f"pinned: {plan.pinned[:12] if is_commit else plan.pinned}"


def _print_estimates(estimates: Sequence["Estimate"]) -> None:
    """The estimate of a step, or of its variants: those that are equal once, and the sum."""
    before, different = " " * INDENT, {(*e.lines, e.warning): e for e in estimates}
    lines: list[str] = []
    for estimate in list(different.values())[:MOST_ESTIMATES]:
        for line in estimate.lines:
            print_wrapped(before, line, hang=INDENT + 2, dim=True)
        fix = estimate.fix if estimate.warning else ""
        for head, text in (
            (click.style("warning:", fg="red", bold=True), estimate.warning),
            (click.style("fix:", fg="green"), fix),
        ):
            if text:
                print_wrapped(f"{before}{head} ", text, hang=INDENT + 2)
    if (omitted := len(different) - MOST_ESTIMATES) > 0:
        lines.append(f"… and {counted(omitted, 'other estimate')}")
    sums = []  # of what is known for all of them
    for fact, words, form in (
        ("seconds", "about {}", rough_duration), ("dollars_at_most", "at most {}", in_dollars),
    ):  # fmt: skip
        values = [estimate.facts.get(fact) for estimate in estimates]
        estimated = [value for value in values if value is not None]
        if len(estimated) == len(values) > 1 and sum(estimated):
            sums.append(words.format(form(sum(estimated))))
    if sums:
        lines.append(f"all {len(estimates)}: {', '.join(sums)}")
    for line in lines:
        print_wrapped(before, line, hang=INDENT, dim=True)


def _print_counts(planner: "Planner", plans: Sequence["StepPlan"], gates: Gates) -> None:
    counts = {state: sum(gates.state(p) == state for p in plans) for state in COLOURS}
    estimated = [
        seconds for p in plans
        if p.state != "cached" and not p.same_as and p.node.name in planner.latest
        and (seconds := planner.store.seconds_of(planner.latest[p.node.name][0])) is not None
    ]  # fmt: skip
    if planner.graph.matrix is not None:
        _print_variants(planner.graph, plans)
    if any(p.state == "run" and p.node.name in planner.latest for p in plans):
        from finery.builder.runs import runs_of

        last = next(runs_of(planner.store.root, planner.graph.recipe), None)
        now = [*planner.graph.recipe.overrides.values()]
        if last is not None and last.overrides and last.overrides != now:
            text = f"compared with the last build, which had {' '.join(last.overrides)}"
            print_wrapped("", text, hang=2, dim=True)
    text = ", ".join(f"{n} {state}" for state, n in counts.items() if n)
    took = f" (last time: {duration(sum(estimated))})" if estimated and sum(estimated) >= 1 else ""
    click.echo(f"{counted(len(plans), 'step')}: {text}{took}")


def _print_variants(graph: "Graph", plans: Sequence["StepPlan"]) -> None:
    """The number of variants, of steps that belong to one variant, and of steps to build.

    A step that variants share has one name and counts once. The steps that rank variants count as
    neither.
    """
    from finery.compare.variants import title_of as title_of_matrix

    of_variants = [plan for plan in plans if plan.node.variant]
    new = sum(plan.state != "cached" and not plan.same_as for plan in of_variants)
    rank = {node.chosen_by for node in graph.nodes.values()} & {p.node.name for p in plans}
    common = [p for p in plans if not p.node.variant and not p.node.chosen_by]
    shared = sum(plan.node.name not in rank for plan in common)
    text = (
        f"{counted(len(of_variants), 'step')} of variants, {new} to build; {shared} shared by all"
    )
    of_winner = sum(bool(p.node.chosen_by) and not p.node.variant for p in plans)
    if rank:
        text += f"; {counted(len(rank), 'step')} to rank them"
    if of_winner:
        text += f"; {of_winner} of the winner"
    print_wrapped("", title_of_matrix(graph), hang=2)
    print_wrapped("", text, hang=2)
