"""The display of a chat: on a terminal with one or two models side by side, or in a pipe."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

import click

from finery import Completion, FineryError, UsageError
from finery.advanced import visible
from finery_serve.chat.streams import Write

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WIDE_COLUMNS = 100
"""Minimum width at which two answers fit side by side, in columns."""
PROMPT = "> "
COMMANDS = ["/save", "/system", "/clear", "/help", "/quit"]
Answer = Callable[[int, Write], Completion]


def screen_for(models: int) -> "Plain":
    """The screen for this terminal or pipe, and a number of models."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not is_terminal:
        return Plain()
    return Columns() if models > 1 else Terminal()


class Plain:
    """A pipe: one line is one question; answers are on stdout, remarks on stderr."""

    def questions(self, stdin: IO[str]) -> Iterator[str]:
        """The user's lines, until they end."""
        yield from stdin

    def say(self, text: str) -> None:
        """Show a remark."""
        click.echo(text.strip(), err=True)

    def complain(self, error: FineryError) -> None:
        """Show why something can't be done."""
        click.echo(str(error), err=True)

    def answers(self, models: list[str], answer: Answer) -> None:
        """Show the answers of all models: `answer(index, write)` writes one."""
        for index, name in enumerate(models):
            dim: list[str] = []  # thinking, and then the sources of an answer

            def keep(piece: str, is_dim: bool, dim: list[str] = dim) -> None:
                if is_dim:
                    dim.append(piece)

            completion = answer(index, keep)
            head = f"{name}: " if len(models) > 1 else ""
            click.echo(f"{head}{completion.text}{cut_remark(completion)}")
            sources = "".join(dim).removeprefix(completion.reasoning or "").strip("\n")
            if sources:
                click.echo(visible(sources))
            sys.stdout.flush()


class Terminal(Plain):
    """A terminal: answers appear as they are written, one model's after the other's."""

    def questions(self, stdin: IO[str]) -> Iterator[str]:
        """The user's input, with editing, history and completion by prompt_toolkit."""
        try:
            from prompt_toolkit import PromptSession
            from prompt_toolkit.completion import WordCompleter
        except ImportError as error:
            raise UsageError(
                f"a talk in a terminal needs prompt_toolkit: {error}",
                fix="pip install 'finery[chat]'",
            ) from error
        session = PromptSession[str](
            completer=WordCompleter(COMMANDS, sentence=True), complete_while_typing=False
        )
        self.say("/help lists the commands")
        while True:
            try:
                yield session.prompt(PROMPT)
            except KeyboardInterrupt:
                click.echo("/quit or Ctrl-D ends the talk")
            except EOFError:
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
            page = Page(shutil.get_terminal_size().columns)
            try:
                with disable_echo():
                    completion = answer(index, page.write)
            except FineryError:
                page.end()  # the error follows on a separate line
                raise
            page.write(cut_remark(completion), True)
            page.end()
            click.echo()


@contextmanager
def disable_echo() -> Iterator[None]:
    """Keep what the user types meanwhile out of an answer. The next prompt shows and takes it."""
    import termios

    terminal = sys.stdin.fileno()
    saved = termios.tcgetattr(terminal)
    silent = [*saved]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, saved)


class Page:
    """Writes text as it comes, and breaks lines between words. width: columns of the terminal.

    The last word is held back until the next one begins.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._column = 0
        self._word = ""
        self._thinking = False

    def write(self, text: str, thinking: bool) -> None:
        """Write the words that are complete. thinking: dim."""
        if thinking != self._thinking:
            self._put(self._word)
            self._word, self._thinking = "", thinking
        *words, self._word = re.split(r"(?<=\s)(?=\S)", self._word + visible(text))
        for word in words:
            self._put(word)
        if self._word[-1:].isspace():
            self._put(self._word)
            self._word = ""
        sys.stdout.flush()

    def end(self) -> None:
        """Write the last word, and end the line."""
        self._put(self._word)
        click.echo()

    def _put(self, word: str) -> None:
        from rich.cells import cell_len

        columns = cell_len(word.rstrip())
        if self._column and self._column + columns > self._width:
            click.echo()
            self._column = 0
        click.secho(word, nl=False, dim=self._thinking)
        line = word.rpartition("\n")[2]
        self._column = cell_len(line) + (0 if "\n" in word else self._column)


class Columns(Terminal):
    """A terminal with two models: two columns if it is wide enough."""

    def answers(self, models: list[str], answer: Answer) -> None:
        """Show the answers side by side as they are written, one model after the other."""
        if shutil.get_terminal_size().columns < WIDE_COLUMNS:
            super().answers(models, answer)
            return
        from rich.console import Console
        from rich.live import Live

        console, texts = Console(highlight=False), [""] * len(models)
        screen = Live(console=console, transient=True, refresh_per_second=12)
        with disable_echo(), screen as live:
            for index in range(len(models)):

                def write(text: str, thinking: bool, column: int = index) -> None:
                    texts[column] += visible(text)
                    live.update(last_lines(console, in_columns(models, texts)))

                completion = answer(index, write)
                texts[index] += cut_remark(completion)
        console.print(in_columns(models, texts))
        console.print()


def in_columns(models: list[str], texts: list[str]) -> "RenderableType":
    """Texts in columns of equal width, below the models' names."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(expand=True, padding=(0, 2))
    for _ in models:
        table.add_column(ratio=1)
    table.add_row(*(Text(name, style="bold") for name in models))
    table.add_row(*(Text(text) for text in texts))
    return table


def last_lines(console: "Console", renderable: "RenderableType") -> "RenderableType":
    """The last lines that have room on a screen: it can't redraw what has scrolled away."""
    from rich.segment import Segment, Segments

    lines = console.render_lines(renderable, pad=False)[-max(console.height - 2, 1) :]
    return Segments(segment for line in lines for segment in (*line, Segment.line()))


def cut_remark(completion: Completion) -> str:
    """A remark on an answer that reached its limit; empty otherwise."""
    return " … (cut at --max-tokens)" if completion.finish_reason == "length" else ""
