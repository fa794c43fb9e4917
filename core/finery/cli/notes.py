"""How notes on a recipe are printed."""

import textwrap
from collections.abc import Sequence

import click

from finery.advice import Note
from finery.checks import position
from finery.graph import Graph

WIDTH = 96
"""Characters of a line of a note's reason."""


def print_notes(graph: Graph, notes: Sequence[Note]) -> None:
    """Each note with where and why, and what to write; nothing where there is none."""
    for note in notes:
        where = position(graph, note).rpartition(":")[0] or position(graph, note)
        click.echo(f"{click.style('note:', fg='yellow')} {note.text}")
        about = f"{note.reason} ({note.name}, {where})"
        for line in textwrap.wrap(about, WIDTH, break_long_words=False, break_on_hyphens=False):
            click.secho(f"  {line}", dim=True)
        if note.fix:
            click.echo(f"  {click.style('fix:', fg='green')} {note.fix}")
    if notes:
        names = ", ".join(dict.fromkeys(note.name for note in notes))
        click.secho(
            f"(docs/advice.md tells more; to be told no more: silence: [{names}])", dim=True
        )
