"""Prints the notes on a recipe."""

import re
from collections.abc import Sequence

import click

from finery.builder.checks import position
from finery.cli.console import print_wrapped
from finery.plugin.notes import Note
from finery.recipe.graph import Graph
from finery.util.text import counted

WIDTH = 98
"""Width of the lines of a note's reason, in characters."""


def print_notes(graph: Graph, notes: Sequence[Note]) -> None:
    """Each note with its place and what to write; those of one kind together, with one reason."""
    groups: dict[tuple[str, str], list[Note]] = {}
    for note in notes:
        groups.setdefault((note.name, note.reason), []).append(note)
    for (name, reason), group in groups.items():
        fixes = list(dict.fromkeys(note.fix for note in group))
        for note in group:
            where = re.sub(r"\A(?!--)(.*:\d+):\d+\Z", r"\1", position(graph, note))
            print_wrapped(f"{click.style('note:', fg='yellow')} ", f"{note.text} ({where})", hang=2)
            _print_fix(note.fix if len(fixes) > 1 else "")
        _print_fix(fixes[0] if len(fixes) == 1 else "")
        print_wrapped("  ", f"{reason} ({name})", hang=2, dim=True, most=WIDTH)
    if groups:
        names = ", ".join(dict.fromkeys(name for name, _ in groups))
        more = f"To silence these notes, add `silence: [{names}]`. See docs/reference/advice.md."
        print_wrapped("", more, hang=0, dim=True)


def notes_line(graph: Graph, notes: Sequence[Note]) -> str:
    """The number of notes and how to show them; empty if there are none."""
    names = ", ".join(dict.fromkeys(note.name for note in notes))
    call = f"finery check {graph.recipe.argument}".strip()
    return f"{counted(len(notes), 'note')} ({names}): see {call}" if notes else ""


def _print_fix(fix: str) -> None:
    if fix:
        print_wrapped(f"  {click.style('fix:', fg='green')} ", fix, hang=4)
