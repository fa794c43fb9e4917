"""Notes and estimates of plugins on a recipe, and what its results must meet."""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from finery.errors import FineryError, StepError, UsageError, raised_as
from finery.execute.gpus import named_gpus
from finery.plugin.forecasts import Forecasts, Inputs
from finery.plugin.history import Results
from finery.plugin.notes import About
from finery.recipe.environments import pinned_environment
from finery.recipe.graph import Graph, Node, place_of
from finery.recipe.lock import Lock
from finery.recipe.matrix.labels import restore_step_names
from finery.recipe.requires import PLUGIN_PIN, plugin_pins
from finery.step.forecast import Estimate, Note
from finery.step.inspect import steps_inside
from finery.step.step import Step, is_overridden
from finery.util.installed import use_versions, version_of
from finery.util.text import counted

if TYPE_CHECKING:
    from finery.artifact.manifest import Result
    from finery.builder.plan import Planner, StepPlan
    from finery.store.database import Store


OBSTACLES = frozenset({"unset-variable", "missing-packages", "missing-gpu"})
"""Names of the notes on what a build will fail at, see `obstacles`."""


def notes_on(graph: Graph, results: Results | None = None) -> list[Note]:
    """All notes on a graph's steps except silenced ones, in the order of the steps.

    Plugins see the whole recipe, since steps that aren't selected matter, too (e.g. evaluators).
    results: results so far, which some notes need. Raises `PluginError` if `finery_checks` fails in
    a plugin that the recipe uses.
    """
    known = {name: about for name, (about, _) in graph.plugins.notes.items()}
    whole = graph.whole or graph
    built = results or Results()
    answers = graph.plugins.hook.finery_checks(graph=whole, results=built)
    raw = [
        *obstacles(graph),
        *own_notes(whole, built),
        *(note for notes in answers for note in notes),
    ]
    raw += [*selected_on_test(whole), *different_rows(whole), *unreleased(whole)]
    notes = [_completed(note, known, whole) for note in raw]
    heard = _each_variant_once(whole, audible(graph, notes))
    order = {name: index for index, name in enumerate([*graph.nodes, ""])}
    return sorted((n for n in heard if n.step in order), key=lambda note: order[note.step])


def obstacles(graph: Graph) -> list[Note]:
    """Notes on what a build of these steps will fail at, or make in another way than the last one:
    variables, GPUs, packages, versions of plugins.
    """
    notes = [*_unset_variables(graph), *_missing_gpus(graph), *_missing_packages(graph)]
    notes += _plugin_versions(graph)
    return audible(graph, notes)


def audible(graph: Graph, notes: Iterable[Note]) -> list[Note]:
    """The notes that the recipe doesn't silence."""
    silenced = set(graph.recipe.data.get("silence") or [])
    nodes, audible = (graph.whole or graph).nodes, []
    for note in notes:  # by the step in the file, or the variant
        origin = nodes[note.step].origin if note.step in nodes else note.step
        names = (note.name, f"{note.step}/{note.name}", f"{origin}/{note.name}")
        if silenced.isdisjoint(names):
            audible.append(note)
    return audible


def _each_variant_once(graph: Graph, notes: Iterable[Note]) -> list[Note]:
    """The notes, each once for all variants of a step that it says the same of.

    It names the step as the file does, and counts the variants. A winner's step is one of the
    variants, so what is said of it is said of these.
    """
    if graph.matrix is None:
        return list(notes)
    groups: dict[tuple[str, ...], list[Note]] = {}
    origins = {name: node.origin for name, node in graph.nodes.items()}
    for note in notes:
        node = graph.nodes.get(note.step)
        if node is not None and graph.is_one_of_its_variants(node):
            continue
        about = node.origin if node is not None else note.step
        text, fix = (restore_step_names(part, origins) for part in (note.text, note.fix))
        groups.setdefault((note.name, about, text, fix), []).append(note)
    merged = []
    for (_, _, text, fix), group in groups.items():
        variants = [n for n in group if n.step in graph.nodes and graph.nodes[n.step].variant]
        first = next(iter(variants or group))
        if len(variants) > 1:
            text = f"{text} ({len(variants)} variants)"
            first = msgspec.structs.replace(first, text=text, fix=fix)
        merged.append(first)
    return merged


def advice_on(
    planner: "Planner", results: Mapping[str, "Result"], ran: Collection[str], node: Node
) -> list[tuple[str, dict[str, str]]]:
    """Events with the notes on a training that is about to start.

    Only now its rows can be counted. What `finery check` reported earlier is only pointed at.

    results: what is built so far. ran: the steps that this build has run.
    """
    if not node.trains:
        return []
    kept = {name: result for name, result in results.items() if name not in ran}
    now, before = (
        [note for note in notes_on(planner.graph, built) if note.step == node.name]
        for built in (Results(planner.store, r, planner.latest) for r in (results, kept))
    )
    known = {note.name for note in before}
    new = [note for note in now if note.name not in known]
    advice = [("step_note", {"name": n.name, "text": n.text, "fix": n.fix}) for n in new]
    if before:
        names = ", ".join(note.name for note in before)
        call = f"finery check {planner.graph.recipe.argument}".strip()
        message = f"{counted(len(before), 'note')} ({names}): see {call}"
        advice.append(("step_log", {"message": message}))
    return advice


def _reporting(step: Step, method: str) -> AbstractContextManager[None]:
    """Turn what a method of a step type raises into a `FineryError` that names it."""
    return raised_as(lambda error: StepError.in_method(error, step, method))


def verify(step: Step, store: "Store", result: "Result") -> None:
    """Verify a result with the method of the step's class. Raises a `FineryError` if it fails."""
    with _reporting(step, "verify"):
        step.verify({name: store.artifact(m) for name, m in result.outputs.items()})


def failed_gates(
    graph: Graph, store: "Store", results: Mapping[str, "Result | None"]
) -> dict[str, FineryError]:
    """Step → why a build fails there, of those whose kept result isn't what `require:` asks.

    Runs nothing: a step judges what is in the store. Results that can't be had are left out.
    """
    failed = {}
    for name, node in graph.nodes.items():
        result = results.get(name)
        if result is None or type(node.step).verify is Step.verify:
            continue
        if not store.shared.reach(result.outputs.values()):
            continue
        try:
            verify(node.step, store, result)
        except FineryError as error:
            error.where = place_of(graph.recipe, node, error.where)
            failed[name] = error
    return failed


def blocked_by(graph: Graph, failed: Collection[str]) -> dict[str, list[str]]:
    """Step → those of the failed steps that it waits for, directly or through others."""
    blocked: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():  # each after what it waits for
        before = [b for up in node.upstream() for b in (up, *blocked.get(up, ())) if b in failed]
        if before:
            blocked[name] = list(dict.fromkeys(before))
    return blocked


def estimates_of(graph: Graph, results: Results, steps: Sequence[str]) -> dict[str, Estimate]:
    """The estimates for those steps that have one, by step."""
    forecasts, estimates = Forecasts(graph, results), {}
    for node in (graph.nodes[name] for name in steps):
        with _reporting(node.step, "estimate"):
            estimate = node.step.estimate(Inputs(forecasts, node))
        if estimate is not None:
            estimates[node.name] = estimate
    return estimates


def own_notes(graph: Graph, results: Results) -> Iterator[Note]:
    """The notes of each step on itself."""
    forecasts = Forecasts(graph, results)
    for node in graph.nodes.values():
        if is_overridden(type(node.step), "advise"):
            with _reporting(node.step, "advise"):
                notes = [*node.step.advise(Inputs(forecasts, node))]
            yield from (msgspec.structs.replace(n, step=n.step or node.name) for n in notes)


def results_of(planner: "Planner", plans: Sequence["StepPlan"]) -> Results:
    """The results of a plan so far."""
    results = {plan.node.name: plan.result for plan in plans}
    engines = {plan.node.name: plan.engines for plan in plans}
    return Results(planner.store, results, planner.latest, engines)


def note_data(graph: Graph, note: Note) -> dict[str, Any]:
    """A note as plain data, with its position in the recipe."""
    where = graph.recipe.where(note.place, key=True)  # or the `--set` that sets it
    match = re.fullmatch(r"(?!--)(.*):(\d+):\d+", where)
    file, line = (match[1], match[2]) if match else (where, "")
    return {
        "name": note.name,
        "step": note.step,
        "text": note.text,
        "reason": note.reason,
        "fix": note.fix,
        "file": file,
        "line": int(line) if line else None,
    }


def _completed(note: Note, known: Mapping[str, About], graph: Graph) -> Note:
    """The note with its reason and place filled in."""
    node = graph.nodes.get(note.step)
    place, reason = note.place or (node.place if node else ()), note.reason or known[note.name].why
    return msgspec.structs.replace(note, place=place, reason=reason)


def selected_on_test(graph: Graph) -> Iterator[Note]:
    """A note if the variants of a matrix are compared on rows that also judge the best one."""
    if graph.matrix is None or len({v.combination for v in graph.matrix.variants}) < 2:
        return
    judges = [n for n in graph.nodes.values() if n.evaluates and (n.variant or n.chosen_by)]
    compared = {rows for node in judges if node.variant for rows in _judged_rows(graph, node)}
    of_winner = {rows for node in judges if not node.variant for rows in _judged_rows(graph, node)}
    select, many = graph.select_by, len(graph.matrix.variants)
    both = sorted(compared & of_winner if select is not None else compared)
    if not both:
        return
    rows = ", ".join(f"{step}.{output}" if output else step for step, output in both)
    if select is None:
        text = f"{many} variants are compared on {rows}, so the best of their scores is too high"
        fix = "choose on other rows: matrix: {select: {by: …, on: split.validation}}"
    else:
        text = f"the best of {many} variants is chosen on {rows}, the rows that then judge it"
        fix = "choose on other rows: on: split.validation"
        if any(output == "validation" for _, output in both):
            fix = "judge the best one on other rows, e.g. rows: split.test"
    place = ("matrix", "select") if select is not None else ("matrix",)
    step = next(node.name for node in judges)
    yield Note(name="selected-on-test", text=text, fix=fix, step=step, place=place)


def different_rows(graph: Graph) -> Iterator[Note]:
    """A note for each evaluator whose variants judge on rows that an axis changes."""
    seen: dict[str, set[str]] = {}
    for node in graph.nodes.values():
        if not (node.variant and node.evaluates):
            continue
        steps = seen.setdefault(node.origin, set())
        steps |= {s.step for s in node.row_sources if graph.nodes[s.step].variant}
    for origin, steps in seen.items():
        if len(steps) > 1:
            name = next(n.name for n in graph.nodes.values() if n.origin == origin and n.variant)
            sources = ", ".join(sorted({graph.nodes[step].origin for step in steps}))
            yield Note(
                name="different-rows",
                text=f"the variants of {origin} are judged on different rows, since an axis "
                f"changes {sources}",
                fix="judge on rows that no axis reaches, e.g. of a data.split before what the axis "
                "changes",
                step=name,
                place=("matrix",),
            )


def unreleased(graph: Graph) -> Iterator[Note]:
    """A note for each model that isn't released yet."""
    for name, left_out in graph.unreleased.items():
        text = f"{name} is left out, since {left_out.reason}"
        yield Note(name="unreleased", text=text, fix=left_out.fix, place=left_out.place)


def _judged_rows(graph: Graph, node: Node) -> Iterator[tuple[str, str]]:
    """(step in the file, output) of the rows that an evaluator judges on."""
    for source in node.row_sources:
        yield graph.nodes[source.step].origin, source.output


def _unset_variables(graph: Graph) -> Iterator[Note]:
    """A note for each environment variable that a step needs and that isn't set."""
    for node in graph.nodes.values():
        for name in node.env:
            if name not in os.environ:
                yield Note(
                    name="unset-variable",
                    text=f"{node.name} needs the environment variable {name}, which isn't set",
                    fix=f"export {name}=…",
                    step=node.name,
                    place=(*node.place, "env"),
                )


def _missing_gpus(graph: Graph) -> Iterator[Note]:
    """A note for each step that names a GPU which isn't visible here."""
    for node in (node for node in graph.nodes.values() if node.gpus):
        try:
            named_gpus(node.gpus)
        except UsageError as error:
            yield Note(
                name="missing-gpu",
                text=f"{node.name}: {error.what}",
                fix=error.fix or "",
                step=node.name,
                place=(*node.place, "gpus"),
            )


def _plugin_versions(graph: Graph) -> Iterator[Note]:
    """A note for each plugin of which `recipe.lock` has another version."""
    pins = Lock(graph.recipe.path).pins()
    for name, version in plugin_pins(graph).items():
        if pins.get(name, version) != version:
            distribution = name.removeprefix(PLUGIN_PIN)
            yield Note(
                name="plugin-version",
                text=f"{distribution} {version} is installed, and recipe.lock has {pins[name]}",
                fix=f"pip install '{distribution}=={pins[name]}', or write this one into "
                "recipe.lock: finery build --update-lock",
            )


def _missing_packages(graph: Graph) -> Iterator[Note]:
    """A note for each thing to install, on the first of the steps that need it."""
    steps: dict[tuple[str, str], list[str]] = {}
    packages: dict[tuple[str, str], dict[str, None]] = {}
    lock = Lock(graph.recipe.path)
    for node in graph.nodes.values():
        name, environment = node.environment, None
        if name:
            environment = pinned_environment(graph.recipe, name, lock)
            if environment is None:  # not resolved yet
                continue
        for step in (node.step, *(step for _, step in steps_inside(node.step))):
            for package, source in step.resources().packages.items():
                with use_versions(environment.versions if environment else None):
                    is_missing = version_of(package) is None
                if is_missing:
                    steps.setdefault((source, name), []).append(node.name)
                    packages.setdefault((source, name), {})[package] = None
    for (source, name), names in steps.items():
        users = list(dict.fromkeys(names))
        verb = "needs" if len(users) == 1 else "need"
        lacking = list(packages[source, name])
        what = "a package that isn't" if len(lacking) == 1 else "packages that aren't"
        where = f"in environment '{name}'" if name else "here"
        yield Note(
            name="missing-packages",
            text=f"{', '.join(users)} {verb} {what} installed {where}: {', '.join(lacking)}",
            fix=f"add '{source}' to the packages of environment '{name}'"
            if name
            else f"pip install '{source}'",
            step=users[0],
        )
