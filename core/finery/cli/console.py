"""Output of commands: errors as one block, notes, JSON lines, tables."""

import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from finery.errors import FineryError
from finery.util.paths import linked, shown
from finery.util.text import counted, visible

if TYPE_CHECKING:
    from finery.recipe.graph import Graph
    from finery.step.forecast import Note


_recipe = ""
"""How a command line names the recipe of this command; empty for `recipe.yaml` here."""


def name_recipe(path: Path | None) -> None:
    """Set the recipe of this command, for `with_recipe`."""
    global _recipe
    name = "" if path is None else shown(path)
    _recipe = "" if name in ("", "recipe.yaml") else shlex.quote(name)


def with_recipe(text: str) -> str:
    """A text for users to paste: each `finery COMMAND` in it names the recipe of this command."""
    context = click.get_current_context(silent=True)
    if context is None or not _recipe:
        return text
    group = context.find_root().command
    assert isinstance(group, click.Group)

    def named(call: re.Match[str]) -> str:
        command = None
        with suppress(FineryError):  # the command of a plugin that is broken
            command = group.get_command(context, call[1])
        takes_recipe = command is not None and any(p.name == "recipe" for p in command.params)
        return f"finery {call[1]} {_recipe}" if takes_recipe else call[0]

    call = rf"\bfinery ([a-z]+)\b(?: \[?RECIPE\b\]?)?(?! {re.escape(_recipe)})"
    return re.sub(call, named, text)


_CARET = re.compile(r"( +\| )( *)\^")
"""A line below a line of code, with a mark at a column."""


def print_error(error: FineryError) -> None:
    """An expected error on stderr: what, where, fix."""
    errors = getattr(error, "errors", [error])
    for index, problem in enumerate(errors):
        if index:
            click.echo(err=True)
        place = linked(visible(problem.where)) if problem.where else ""
        where = click.style(f"{place}: ", bold=True) if place else ""
        message = linked(visible(problem.what))
        click.echo(f"{where}{click.style('error:', fg='red', bold=True)} {message}", err=True)
        for line in _folded([f"  {linked(visible(line))}" for line in problem.details]):
            click.echo(click.style(line, dim=True), err=True)
        if problem.fix:
            fix = linked(visible(with_recipe(problem.fix)))
            click.echo(f"  {click.style('fix:', fg='green')} {fix}", err=True)
    if len(errors) > 1:
        click.echo(f"\n{len(errors)} mistakes", err=True)


def _folded(lines: Sequence[str]) -> Iterator[str]:
    """The lines, each as it is, except for code that a caret points into.

    It is folded to the width of the terminal, with the caret below the part that it is about.
    """
    width = shutil.get_terminal_size().columns if is_terminal(sys.stderr) else sys.maxsize
    for number, line in enumerate(lines):
        if number and _CARET.fullmatch(line):
            continue  # comes with the code
        caret = _CARET.fullmatch(lines[number + 1]) if number + 1 < len(lines) else None
        if caret is None:
            yield line
            continue
        front, column = caret[1], len(caret[2])
        code, room = line[len(front) :], max(width - len(front), 20)
        for start in range(0, max(len(code), column + 1), room):
            yield (front if start else line[: len(front)]) + code[start : start + room]
            if start <= column < start + room:
                yield f"{front}{' ' * (column - start)}^"


def print_note(text: str, fix: str = "", *, err: bool = False) -> None:
    """A note, and how to deal with it. err: on stderr."""
    click.echo(f"{click.style('note:', fg='yellow')} {text}", err=err)
    if fix:
        click.echo(f"  {click.style('fix:', fg='green')} {with_recipe(fix)}", err=err)


def print_progress(text: str) -> None:
    """Write a text over the line of the last one on stderr, if that is a terminal; "" clears it."""
    if is_terminal(sys.stderr):
        # NO_COLOR would also remove the code that clears the line.
        click.echo(f"\r\x1b[2K{text}\r", nl=False, err=True, color=True)


def print_json(data: Any) -> None:
    """One JSON line on stdout."""
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(data) + b"\n")
    sys.stdout.buffer.flush()


def print_result(data: Any, text: str, *, as_json: bool) -> None:
    """What a command did, as a JSON line or in words."""
    if as_json:
        print_json(data)
    else:
        click.echo(text)


def print_wrapped(start: str, text: str, *, hang: int, dim: bool = False, most: int = 0) -> None:
    """Print a text after `start`, in lines as wide as the terminal.

    hang: indentation of further lines, in columns. most: the widest line, in columns, also where
    stdout is not a terminal; by default a pipe gets one line.
    """
    room = shutil.get_terminal_size().columns if is_terminal(sys.stdout) else most or len(text) * 9
    width = len(click.unstyle(start))
    lines = textwrap.wrap(
        visible(text),
        max(min(room, most or room), max(width, hang) + 20),
        initial_indent=" " * width,
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for number, line in enumerate(lines or [""]):
        front, remaining = (line[:hang], line[hang:]) if number else (start, line[width:])
        click.echo(f"{front}{click.style(remaining, dim=True) if dim else remaining}".rstrip())


def print_gate(head: str, error: FineryError, blocked: Iterable[str], indent: int) -> None:
    """Print why a build fails at a cached step, and which steps it blocks."""
    print_wrapped(f"{head} ", f"{error.what} ({error.where})", hang=indent + 2)
    names = ", ".join(blocked)
    for line in [*error.details, *([f"blocks {names}"] if names else [])]:
        print_wrapped(" " * indent, line, hang=indent + 2)


def is_terminal(stream: IO[str]) -> bool:
    """Whether a stream is a terminal that can redraw lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


WIDTH = 98
"""Width of the lines of long texts, in characters."""


def print_notes(graph: "Graph", notes: "Sequence[Note]") -> None:
    """Each note with its place and what to write; those of one kind together, with one reason."""
    groups: dict[tuple[str, str], list[Note]] = {}
    for note in notes:
        groups.setdefault((note.name, note.reason), []).append(note)
    for (name, reason), group in groups.items():
        fixes = list(dict.fromkeys(note.fix for note in group))
        for note in group:
            where = graph.recipe.where(note.place, key=True)
            where = re.sub(r"\A(?!--)(.*:\d+):\d+\Z", r"\1", where)  # without the column
            print_wrapped(f"{click.style('note:', fg='yellow')} ", f"{note.text} ({where})", hang=2)
            _print_fix(note.fix if len(fixes) > 1 else "")
        _print_fix(fixes[0] if len(fixes) == 1 else "")
        print_wrapped("  ", f"{reason} ({name})", hang=2, dim=True, most=WIDTH)
    if groups:
        silenced = graph.recipe.data.get("silence", [])
        names = ", ".join(dict.fromkeys([*silenced, *(name for name, _ in groups)]))
        line = f"{'set' if silenced else 'add'} `silence: [{names}]`"
        silencing = f"To silence these notes, {line}. See docs/reference/advice.md."
        print_wrapped("", silencing, hang=0, dim=True)


def notes_line(graph: "Graph", notes: "Sequence[Note]") -> str:
    """The number of notes and how to show them; empty if there are none."""
    names = ", ".join(dict.fromkeys(note.name for note in notes))
    call = f"finery check {graph.recipe.argument}".strip()
    return f"{counted(len(notes), 'note')} ({names}): see {call}" if notes else ""


def _print_fix(fix: str) -> None:
    if fix:
        print_wrapped(f"  {click.style('fix:', fg='green')} ", with_recipe(fix), hang=4)
