"""How a talk looks: on a terminal, with one model or two beside each other, or in a pipe."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import click

from finery import Completion, FineryError, visible
from finery_serve.chat.session import Screen
from finery_serve.chat.streams import Write

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDE = 100
"""Columns from which on two answers have room beside each other."""
PROMPT = "> "
Answer = Callable[[int, Write], Completion]


def screen_for(models: int) -> Screen:
    """The screen for this terminal or pipe, and a number of models."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not is_terminal:
        return Plain()
    return Columns() if models > 1 else Terminal()


class Plain:
    """A pipe: one line is one question; answers are on stdout, remarks on stderr."""

    def questions(self, stdin: IO[str]) -> Iterator[str]:
        """The lines of stdin."""
        yield from stdin

    def say(self, text: str) -> None:
        """Print a remark on stderr."""
        click.echo(text.strip(), err=True)

    def complain(self, error: FineryError) -> None:
        """Print an error on stderr."""
        click.echo(str(error), err=True)

    def answers(self, models: list[str], answer: Answer) -> None:
        """Print the answers one after the other, with the models' names if there are several."""
        for index, name in enumerate(models):
            completion = answer(index, lambda part, thinking: None)
            head = f"{name}: " if len(models) > 1 else ""
            click.echo(f"{head}{completion.text}{cut(completion)}")
            sys.stdout.flush()


class Terminal:
    """A terminal: answers appear as they are written, one model's after the other's."""

    def questions(self, stdin: IO[str]) -> Iterator[str]:
        """The user's lines, which can be edited and recalled where the terminal can."""
        with suppress(ImportError):
            import readline  # noqa: F401

        self.say("/help lists the commands")
        while True:
            try:
                yield input(PROMPT)
            except KeyboardInterrupt:
                click.echo("\n/quit or Ctrl-D ends the talk")
            except EOFError:
                click.echo()
                return

    def say(self, text: str) -> None:
        """Print a dim remark."""
        click.secho(text, dim=True)

    def complain(self, error: FineryError) -> None:
        """Print an error."""
        click.secho(visible(str(error)), fg="red")

    def answers(self, models: list[str], answer: Answer) -> None:
        """Print each answer as it is written."""
        for index, name in enumerate(models):
            if len(models) > 1:
                click.secho(name, bold=True)
            completion = answer(index, self._write)
            click.secho(cut(completion), dim=True)
        click.echo()

    def _write(self, part: str, thinking: bool) -> None:
        click.secho(visible(part), nl=False, dim=thinking)
        sys.stdout.flush()


class Columns(Terminal):
    """A terminal with two models: two columns if it is wide enough."""

    def answers(self, models: list[str], answer: Answer) -> None:
        """Show the answers beside each other as they are written, one model after the other."""
        if shutil.get_terminal_size().columns < WIDE:
            super().answers(models, answer)
            return
        from rich.console import Console
        from rich.live import Live

        console, texts = Console(highlight=False), [""] * len(models)
        with Live(console=console, transient=True, refresh_per_second=12) as live:
            for index in range(len(models)):

                def write(part: str, thinking: bool, at: int = index) -> None:
                    texts[at] += visible(part)
                    live.update(beside(models, texts))

                texts[index] += cut(answer(index, write))
        console.print(beside(models, texts))
        console.print()


def beside(models: list[str], texts: list[str]) -> "RenderableType":
    """Texts in columns of the same width, below the models' names."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True, padding=(0, 2))
    for _ in models:
        table.add_column(ratio=1)
    table.add_row(*(Text(name, style="bold") for name in models))
    table.add_row(*(Text(text) for text in texts))
    return table


def cut(completion: Completion) -> str:
    """A remark on an answer that reached its limit; empty otherwise."""
    return " … (cut at --max-tokens)" if completion.finish_reason == "length" else ""
