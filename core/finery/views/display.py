"""Printing for views: facts, labelled texts, the turns of a row, the files of an artifact."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.util.paths import shown
from finery.util.text import in_line, shortened, size, visible
from finery.views.parts import LONGEST_CLASS, MOST_CLASSES, as_text, counts_in_words

if TYPE_CHECKING:
    from rich.console import Console

    from finery.artifact.manifest import Manifest
    from finery.rows import Row

LONGEST_FACT = 300
"""Maximum characters of a fact, or of a column of a row, that are shown."""
ROLES = {"assistant": "green", "chosen": "green", "rejected": "red", "user": "cyan"}
"""Colours of a row's turns."""


def print_facts(console: "Console", facts: Mapping[str, Any]) -> None:
    """Print names and values in two columns; values are JSON values."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if not facts:
        return
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=max([14, *map(len, facts)]), style="cyan", no_wrap=True)
    grid.add_column(ratio=1)
    for name, value in facts.items():
        text = as_text(value)
        is_long = isinstance(value, dict) and len(value) > MOST_CLASSES
        if is_long and all(isinstance(number, int) for number in value.values()):
            text = counts_in_words(value, "kinds")
        grid.add_row(Text(visible(name)), Text(visible(shortened(text, LONGEST_FACT))))
    console.print(Padding(grid, (0, 0, 0, 2)))


def print_changed_facts(console: "Console", facts: Mapping[str, Sequence[Any]]) -> None:
    """Print facts that differ: a name, the old value and the new one."""
    words = {name: " → ".join(_short(value) for value in values) for name, values in facts.items()}
    print_facts(console, words)


def _short(value: Any) -> str:
    text = in_line(as_text(value))
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):  # a digest
        return text[:12]
    return shortened(text, LONGEST_CLASS)


def print_labelled(console: "Console", label: str, text: str, style: str = "yellow") -> None:
    """Print a text next to its label, in a separate column. style: of the label."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=max(9, min(16, len(label))), style=style, no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_row(visible(label), Text(visible(text), style="dim" if style == "dim" else ""))
    console.print(grid)


def print_row(console: "Console", row: "Row") -> None:
    """Print a row's id and its turns."""
    print_labelled(console, "id", str(row.get("id", "")), "dim")
    print_turns(console, row)


def print_turns(console: "Console", row: "Row") -> None:
    """Print a row's turns, or its columns if it isn't a conversation."""
    from finery.rows.parts import is_conversation, labelled_turns

    for role, text in labelled_turns(row):
        whole = text if is_conversation(row) else shortened(text, LONGEST_FACT)
        print_labelled(console, role, whole, ROLES.get(role, "yellow"))


def print_files(console: "Console", folder: Path, manifest: "Manifest") -> None:
    """Print an artifact's files with their sizes, and the places of external files."""
    from rich.text import Text

    console.print(Text.assemble(("  files          ", "cyan"), (shown(folder), "dim")))
    for name, (_, count) in manifest.files.items():
        console.print(Text.assemble(f"    {visible(name)}  ", (size(count), "dim")))
    for name, (path, count, _) in manifest.external.items():
        place = f"{size(count)} → {visible(path)}"
        console.print(Text.assemble(f"    {visible(name)}  ", (place, "dim")))
