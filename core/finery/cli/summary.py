"""The end of a build: scores, remarks, errors and what to do next."""

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from finery.artifact.manifest import Manifest
from finery.builder.runs import Outcome
from finery.builder.scheduler import Build
from finery.cli.console import print_error, with_recipe
from finery.cli.redone import redone
from finery.cli.views import compared, context_of, print_matrix, show_together, shown_together
from finery.compare.outputs import output_of, titled, view_of
from finery.errors import FineryError, RequirementError, each_once
from finery.util.events import Event, make_event
from finery.util.paths import shown
from finery.util.text import accepted_suffix, cost_words, counted, duration, size, visible


def print_summary(build: Build, outcome: Outcome) -> None:
    """Scores on stdout; counts, errors and hints on stderr."""
    for failure in each_once([*_show_outputs(build, outcome)]):
        print_error(failure)
    for step, before in outcome.redone.items():
        if not build.store.shared.reach(before.outputs.values()):
            continue
        for pair in redone(step, before, outcome.results[step], (build.store, build.store)):
            pair.print(build.graph)
    judged = any(node.evaluates and node.variant for node in build.graph.nodes.values())
    if judged and (outcome.ran or outcome.errors):
        failed = {
            **dict.fromkeys(outcome.blocked, "blocked"),
            **dict.fromkeys(outcome.errors, "failed"),
        }
        for name, by in outcome.blocked.items():
            if any(build.graph.nodes[step].variant for step in by):
                failed[name] = "failed"
        print_matrix(build.graph, build.store, outcome.results, failed)
    groups: dict[tuple[str, ...], list[str]] = {}  # variants of a step that fail alike together
    for step, error in outcome.errors.items():
        node = build.graph.nodes[step]
        same_error = (node.origin, error.what, error.fix or "", *error.details)
        groups.setdefault(same_error if node.variant else (step,), []).append(step)
    for steps in groups.values():
        error = outcome.errors[steps[0]]
        click.echo(err=True)
        if build.graph.nodes[steps[0]].variant:
            click.secho(f"failed: {', '.join(steps)}", fg="red", err=True)
        print_error(error)
        if steps[0] in outcome.logs:
            click.echo(f"  log: {shown(Path(outcome.logs[steps[0]]))}", err=True)
    chosen_by = {node.chosen_by for node in build.graph.nodes.values() if node.chosen_by}
    if chosen_by & outcome.blocked.keys():
        click.echo(
            "\nno variant was chosen, since not all of them are built: correct those that failed, "
            "or leave them out under `exclude:` of the matrix",
            err=True,
        )
    _print_counts(build, outcome)
    if outcome.ran and not outcome.errors:
        click.echo(f"outputs: {_short(build.folder)}")
        for title, manifest in _manifests(outcome):
            _print_how_to_run(build, title, manifest)


def _print_how_to_run(build: Build, title: str, manifest: Manifest) -> None:
    """Print the command for an output that can be run with the programs of this machine."""
    command = manifest.meta.get("run")
    if not command:
        return
    program = shlex.split(command)[0]
    if not shutil.which(program) and program.removeprefix("./") not in manifest.files:
        return
    if manifest.meta.get("format") in build.graph.plugins.servers:
        click.echo(f"serve {title}:  {with_recipe(f'finery serve {title}')}")
        return
    folder = shlex.quote(_short(build.folder.joinpath(*title.split("."))))
    click.echo(f"run {title}:  cd {folder} && {command}")


def _print_remarks(build: Build, title: str, manifest: Manifest) -> None:
    """Print the remarks of the view of an output that this build made."""
    plugins = build.graph.plugins
    output = output_of(plugins, build.store, title, manifest)._replace(
        graph=build.graph, built=context_of(build.graph, build.store).built
    )
    for remark in view_of(plugins, manifest).remarks(output):
        colour = "yellow" if remark.severity == "warning" else None
        lines = [(f"{title}: {remark.text}", colour)]
        lines += [(f"  {with_recipe(remark.advice)}", None)] if remark.advice else []
        columns = shutil.get_terminal_size().columns
        for line, fg in lines:
            text = visible(line)
            if sys.stderr.isatty():
                text = textwrap.fill(text, columns, subsequent_indent="  ")
            click.secho(text, fg=fg, err=True)


def _print_counts(build: Build, outcome: Outcome) -> None:
    total, ran = len(build.graph.nodes), len(outcome.ran)
    cost = cost_words(outcome.dollars_kept, outcome.dollars)
    if outcome.errors:
        unmet = sum(isinstance(error, RequirementError) for error in outcome.errors.values())
        failed = len(outcome.errors) - unmet
        counts = {
            "failed": failed,
            f"failed {'its' if unmet == 1 else 'their'} requirements": unmet,
            "blocked": len(outcome.blocked),
            "not started": total - len({*outcome.results, *outcome.errors, *outcome.blocked}),
        }
        words = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
        text = f"\n{words}; {len(outcome.results)} of {total} steps are built{cost}"
        click.secho(text, fg="red", err=True)
        return
    steps, cached = counted(total, "step"), len(outcome.results) - ran
    text = f"{steps}: {ran} built, {cached} cached" if ran else f"{steps}, nothing to do"
    copied = {"fetched": outcome.fetched, "pushed": outcome.pushed}
    text += accepted_suffix(len(outcome.accepted))
    words = "".join(f", {verb} {size(count)}" for verb, count in copied.items() if count)
    click.secho(f"{text} ({duration(outcome.seconds)}){cost}{words}", fg="green", err=True)


def _show_outputs(build: Build, outcome: Outcome) -> Iterator[FineryError]:
    """Print what the views show. Yields the errors of views: they don't fail the build."""
    if outcome.ran or outcome.errors:
        try:
            show_together(build.graph, build.store, _compared(build), outcome.results)
        except FineryError as error:
            yield error
    for title, manifest in _manifests(outcome, outcome.ran):
        try:
            _print_remarks(build, title, manifest)
        except FineryError as error:
            yield error


def verdict_events(build: Build) -> list[Event]:
    """What to ship as an event of `--json`; none if the recipe isn't about models."""
    results = build.outcome.results
    try:
        verdict, _ = shown_together(build.graph, build.store, _compared(build), results)
    except FineryError as error:  # of a view: it doesn't fail the build
        print_error(error)
        return []
    return [make_event("verdict", **verdict._asdict())] if verdict else []


def _compared(build: Build) -> list[tuple[str, Manifest]]:
    """The outputs that are shown together, so far as they are here."""
    names = [n for n in build.outcome.results if not compared(build.graph.nodes[n])]
    outputs = _manifests(build.outcome, names)
    return [(title, m) for title, m in outputs if build.store.shared.is_here([m])]


def _manifests(
    outcome: Outcome, steps: Iterable[str] | None = None
) -> Iterator[tuple[str, Manifest]]:
    """(name in the recipe, manifest) of all outputs, or of those of some steps."""
    for step in outcome.results if steps is None else steps:
        if step in outcome.results:
            yield from titled(step, outcome.results[step].outputs).items()


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
