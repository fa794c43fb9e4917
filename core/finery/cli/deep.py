"""`finery check --deep`: the rows of each training as the model will see them, with their loss."""

import os
import sys
from typing import Any

import click
import msgspec

from finery.cli.console import print_error, print_json, print_note, print_progress
from finery.cli.views import stdout
from finery.errors import FineryError, each_once
from finery.preflight.report import SamplePiece, SampleRow
from finery.preflight.run import Proven, provable_steps, prove_steps
from finery.recipe.graph import Graph, Node
from finery.step.job import Report
from finery.store.database import Store
from finery.util.text import counted, visible
from finery.views.parts import Table
from finery.views.terminal import print_part

MOST_CHARACTERS = 1_200
"""Longest piece of a sample row that is shown in full. Longer ones are cut in the middle."""
RETURN = "⏎"


def check_deeply(graph: Graph, store: Store, samples: int, *, as_json: bool) -> int:
    """Verify the rows of all trainings and show what they learn. Returns the exit code."""
    from finery.cli.progress import listener

    progress = None if as_json else listener(sys.stderr, graph)
    errors: list[FineryError] = []
    waiting = proven_steps = 0
    reports = prove_steps(
        graph,
        store,
        samples=samples,
        listeners=[progress] if progress else [],
        report=(lambda node: lambda event: None) if as_json else _reporter,
    )
    try:
        for proven in reports:
            if progress is not None:
                progress.close()
            errors = each_once([*errors, *proven.errors])
            waiting += bool(proven.waits)
            proven_steps += bool(proven.proofs) and not (proven.errors or proven.waits)
            _print_json(proven) if as_json else _print(proven)
    finally:
        reports.close()  # removes temporary files
        if progress is not None:
            progress.close()
    if not as_json:
        for error in errors:
            click.echo(err=True)
            print_error(error)
        total = len(provable_steps(graph))
        words = [f"{proven_steps} of {counted(total, 'training')} verified"]
        words += [f"{waiting} partially: some inputs aren't built yet"] if waiting else []
        words += [counted(len(errors), "error")] if errors else []
        colour = "red" if errors else "yellow" if waiting else "green"
        if total:
            click.secho(", ".join(words), fg=colour, err=bool(errors))
        else:
            click.echo("the recipe has no training with rows to verify")
    return max((error.exit_code for error in errors), default=0)


def _reporter(node: Node) -> Report:
    """A function that shows the progress of a training on a terminal."""

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            count = f"{event['done']:,.0f} of {event['total']:,.0f}"
            print_progress(f"{node.name}: {event['text']}, {count}")

    return report


def _print_json(proven: Proven) -> None:
    """A line for each data set, each error, and each input that isn't built yet."""
    step = {"step": proven.node.name, "use": proven.node.use}
    for proof in proven.proofs:
        print_json({**step, **msgspec.to_builtins(proof, str_keys=True)})
    for ref, steps in proven.waits.items():
        print_json({**step, "input": ref, "waits_for": steps})
    for error in proven.errors:
        print_json({**step, "error": error.to_dict()})


def _print(proven: Proven) -> None:
    facts: dict[str, str] = {}
    click.echo()
    print_progress("")
    for proof in proven.proofs:
        title = click.style(f"{proven.node.name}: {proof.input}", bold=True)
        click.echo(f"{title}  {proven.node.use}")
        rows = {"rows": proof.counts(), "length": proof.lengths(), "dropped": proof.left_out()}
        if proof.facts != facts:  # most often those of the validation rows are the same
            facts = proof.facts
            rows |= facts
        print_part(stdout(), Table(["", ""], [(name, text) for name, text in rows.items() if text]))
        for note in proof.notes:
            click.echo(f"  {click.style('note:', fg='yellow')} {visible(note, tabs=True)}")
        click.echo()
        for sample in proof.samples:
            _print_sample(sample)
    for ref, steps in proven.waits.items():
        build = " ".join(f"--step {step}" for step in steps)
        text = f"{proven.node.name} isn't verified with {ref}, which isn't built yet"
        print_note(text, f"finery build {build}\n")


def _print_sample(sample: SampleRow) -> None:
    """A row's text. Tokens with loss are green, or in ⟦⟧ without colour; the others are dim."""
    from rich.padding import Padding
    from rich.text import Text

    mark = "coloured" if _in_colour() else "⟦…⟧"
    click.secho(f"  row {sample.row}  ({mark}: with loss)", dim=True)
    text = Text()
    for piece in sample.pieces:
        if piece.label and text and not text.plain.endswith("\n"):
            text.append("\n")
        text.append_text(_styled(piece))
    if sys.stdout.isatty():
        stdout().print(Padding(text, (0, 0, 0, 4)))
    else:  # a pipe gets complete lines
        click.echo("\n".join(f"    {line}" for line in text.plain.split("\n")))
    click.echo()


def _styled(piece: SamplePiece) -> Any:
    from rich.text import Text

    text = piece.text
    if len(text) > MOST_CHARACTERS:  # show the beginning and the end
        half = MOST_CHARACTERS // 2
        text = f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"
    text = visible(text, tabs=True).replace("\n", f"{RETURN}\n")
    label = f"{piece.label}: " if piece.label else ""
    if not piece.loss:
        return Text(text, style="dim")
    if _in_colour():
        colour = "red" if piece.label in ("rejected", "undesirable") else "green"
        return Text.assemble((label, "bold"), (text, colour))
    return Text(f"{label}⟦{text}⟧")


def _in_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
