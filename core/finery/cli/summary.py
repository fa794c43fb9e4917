"""What a build ends with: errors, the table of scores, and what to do next."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from finery.artifacts import Bundle, Metrics
from finery.build import Build, Outcome
from finery.cli.output import counted, duration, print_error
from finery.errors import shown
from finery.manifest import Manifest


def print_summary(build: Build, outcome: Outcome) -> None:
    """Scores on stdout; counts, errors and hints on stderr."""
    outputs = {n: r.outputs for n, r in outcome.results.items()}
    if any(m.kind == Metrics.kind for o in outputs.values() for m in o.values()) and (
        outcome.ran or outcome.errors
    ):
        from finery.cli.tables import print_scores

        print_scores(build.store.root, outputs)
    for step, error in outcome.errors.items():
        click.echo(err=True)
        print_error(error)
        if step in outcome.logs:
            click.echo(f"  log: {shown(Path(outcome.logs[step]))}", err=True)
    _print_counts(build, outcome)
    if outcome.ran and not outcome.errors:
        for line in _next_lines(build, outputs):
            click.echo(line)


def _print_counts(build: Build, outcome: Outcome) -> None:
    total, ran = len(build.graph.nodes), len(outcome.ran)
    cached = len(outcome.results) - ran
    if outcome.errors:
        words = [
            f"{len(outcome.errors)} failed",
            *([f"{len(outcome.blocked)} blocked"] if outcome.blocked else []),
        ]
        left = total - len({*outcome.results, *outcome.errors, *outcome.blocked})
        words += [f"{left} not started"] if left else []
        click.secho(
            f"\n{', '.join(words)}; {len(outcome.results)} of {total} steps are built",
            fg="red",
            err=True,
        )
        return
    steps = counted(total, "step")
    text = f"{steps}: {ran} built, {cached} cached" if ran else f"{steps}, nothing to do"
    click.secho(f"{text} ({duration(outcome.seconds)})", fg="green", err=True)


def _next_lines(build: Build, outputs: Mapping[str, Mapping[str, Manifest]]) -> Iterator[str]:
    """Where the outputs lie, and how to run what was made."""
    yield f"outputs: {_short(build.folder)}"
    for name, made in outputs.items():
        for output, manifest in made.items():
            run = manifest.meta.get("run") if manifest.kind == Bundle.kind else None
            if run:
                folder = build.folder / name / output if output else build.folder / name
                yield f"run it:  cd {_short(folder)} && {run}"


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
