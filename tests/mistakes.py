"""The table of beginners' mistakes in `tests/core/mistakes/`, as a test and as a program.

Each entry is a title, what to change in `recipe.yaml`, and a line for each error of `finery check`:
its place, the names in its text, and its fix:

    ## lr
    -    learning_rate: 2e-4
    +    lr: 2e-4
    22:5 'lr': write learning_rate

Lines with `-` are replaced by the lines with `+` after them; lines with `*` are the whole recipe.
Run this file to write the errors anew, then read the diff aloud.
"""

import contextlib
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TABLE = Path(__file__).parent / "core" / "mistakes"
EDITS = "-+*"


class Mistake(NamedTuple):
    """A mistake: its title, the lines that edit the recipe, and the errors."""

    title: str
    edits: tuple[str, ...]
    errors: list[str]

    def recipe(self) -> str:
        """The recipe with this mistake."""
        if self.edits[0].startswith("*"):
            return "".join(f"{line[1:]}\n" for line in self.edits)
        text = (TABLE / "recipe.yaml").read_text(encoding="utf-8")
        for old, new in _replacements(self.edits):
            assert text.count(old) == 1, f"{self.title}: {old!r}"
            text = text.replace(old, new)
        return text


def _replacements(edits: tuple[str, ...]) -> list[tuple[str, str]]:
    """(old, new) of each run of lines with `-` and the lines with `+` after it."""
    pairs: list[tuple[str, str]] = []
    before = "+"
    for line in edits:
        kind, text = line[0], f"{line[1:]}\n"
        if kind == "-" and before == "+":
            pairs.append(("", ""))
        old, new = pairs[-1]
        pairs[-1] = (old + text, new) if kind == "-" else (old, new + text)
        before = kind
    return pairs


def tables() -> list[Path]:
    """The files of the table."""
    return sorted(TABLE.glob("*.txt"))


def read(path: Path) -> list[Mistake]:
    """The mistakes in one file of the table."""
    mistakes = []
    for entry in path.read_text(encoding="utf-8").split("## ")[1:]:
        title, *lines = entry.rstrip("\n").split("\n")
        edits = tuple(line for line in lines if line[:1] in EDITS and line)
        mistakes.append(Mistake(title, edits, lines[len(edits) :]))
    return mistakes


def essence(message: str) -> list[str]:
    """Place, names and fix of each error in what a command printed."""
    errors = []
    for block in message.split("\n\n"):
        place, is_error, what = block.partition(": error: ")
        if is_error:
            names = re.findall(r"(?<!\w)'[^']*'", what.partition("\n")[0])
            fix = what.partition("\n  fix: ")[2]
            errors.append(f"{' '.join([place.removeprefix('recipe.yaml:'), *names])}: {fix}")
    return errors


def place(mistake: Mistake, folder: Path) -> None:
    """Write the recipe with its mistake, and the data beside it."""
    (folder / ".git").mkdir()  # ends the search for the project's folder
    shutil.copytree(TABLE / "data", folder / "data")
    (folder / "recipe.yaml").write_text(mistake.recipe(), encoding="utf-8")


def checked(folder: Path, *args: str) -> tuple[int, str]:
    """(exit code, message) of `finery check` in a folder, in this process."""
    from finery.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _arguments(["finery", "check", *args]),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    text = err.getvalue() or out.getvalue()
    return code, text.replace(str(folder), "FOLDER").rstrip("\n")


@contextlib.contextmanager
def _arguments(argv: list[str]) -> Iterator[None]:
    """Run with these arguments of the command line."""
    before, sys.argv = sys.argv, argv
    try:
        yield
    finally:
        sys.argv = before


def _rewrite(path: Path) -> None:
    written: list[str] = []
    for mistake in read(path):
        with tempfile.TemporaryDirectory() as folder:
            place(mistake, Path(folder))
            code, message = checked(Path(folder))
        if code != 2:
            print(f"{path.name}: {mistake.title}: exit code {code}")
        written += [f"## {mistake.title}", *mistake.edits, *essence(message)]
    path.write_text("\n".join([*written, ""]), encoding="utf-8")


if __name__ == "__main__":
    for table in map(Path, sys.argv[1:]) if sys.argv[1:] else tables():
        _rewrite(table)
