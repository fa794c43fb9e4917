"""What a build ends with: errors, the table of scores, and what to do next."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

import click

from finery.artifact.kinds import Bundle, Metrics
from finery.artifact.manifest import Manifest
from finery.build.scheduler import Build, Outcome
from finery.cli.console import counted, duration, print_error, visible
from finery.cli.curve_view import curve_of, kept_step
from finery.errors import DataError
from finery.util.paths import shown
from finery_trl.view.curves import CURVE, lines, verdict


def print_summary(build: Build, outcome: Outcome) -> None:
    """Scores on stdout; counts, errors and hints on stderr."""
    outputs = {n: r.outputs for n, r in outcome.results.items()}
    if any(m.kind == Metrics.kind for o in outputs.values() for m in o.values()) and (
        outcome.ran or outcome.errors
    ):
        from finery.cli.tables import print_scores

        print_scores(build.store.root, outputs)
    _print_verdicts(build, outcome)
    _print_notes(outcome)
    for step, error in outcome.errors.items():
        click.echo(err=True)
        print_error(error)
        if step in outcome.logs:
            click.echo(f"  log: {shown(Path(outcome.logs[step]))}", err=True)
    _print_counts(build, outcome)
    if outcome.ran and not outcome.errors:
        for line in _next_lines(build, outputs):
            click.echo(line)


def _print_verdicts(build: Build, outcome: Outcome) -> None:
    """What the curve of each training of this build says."""
    for step in outcome.ran:
        result = outcome.results.get(step)
        for manifest in result.outputs.values() if result else ():
            if CURVE not in manifest.files:
                continue
            try:
                points = curve_of(build.store.artifact(manifest), manifest)
            except DataError as error:  # the build is fine all the same
                print_error(error)
                continue
            found = verdict(points or [], kept_step(manifest))
            sentence, *advice = lines(found)
            click.secho(
                _wrapped(f"{step}: {sentence}"), fg="yellow" if found.is_bad else None, err=True
            )
            for line in advice if found.is_bad else ():
                click.echo(_wrapped(f"  {line}"), err=True)


def _print_notes(outcome: Outcome) -> None:
    """The notes that steps gave as they ran; what to do about them once for notes in a row."""
    for note, following in zip_longest(outcome.notes, outcome.notes[1:]):
        text = f"{note['step']} {visible(note['text'])} ({note['name']})"
        click.echo(f"{click.style('note:', fg='yellow')} {_wrapped(text)}", err=True)
        if following is None or following["fix"] != note["fix"]:
            fix = _wrapped(visible(note["fix"]))
            click.echo(f"  {click.style('fix:', fg='green')} {fix}", err=True)


def _wrapped(text: str) -> str:
    """The text broken between words where a terminal would break it anywhere."""
    if not sys.stderr.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(text, columns, subsequent_indent="  ")


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
