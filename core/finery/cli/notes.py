"""How notes on a recipe are printed."""

from collections.abc import Sequence

import click

from finery.build.checks import position
from finery.cli.console import print_wrapped
from finery.plugin.notes import Note
from finery.recipe.graph import Graph

WIDTH = 98
"""Characters of a line of a note's reason."""


def print_notes(graph: Graph, notes: Sequence[Note]) -> None:
    """Each note with where and why, and what to write; nothing where there is none."""
    for note in notes:
        where = position(graph, note).rpartition(":")[0] or position(graph, note)
        print_wrapped(f"{click.style('note:', fg='yellow')} ", note.text, hang=2)
        about = f"{note.reason} ({note.name}, {where})"
        print_wrapped("  ", about, hang=2, dim=True, most=WIDTH)
        if note.fix:
            print_wrapped(f"  {click.style('fix:', fg='green')} ", note.fix, hang=4)
    if notes:
        names = ", ".join(dict.fromkeys(note.name for note in notes))
        more = f"(docs/reference/advice.md tells more; to be told no more: silence: [{names}])"
        print_wrapped("", more, hang=1, dim=True)
