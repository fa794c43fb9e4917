"""The notes on the first rows of files: all with one prompt, or with garbled text."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from finery import About, FineryError, Graph, Job, Note
from finery.rows import Row, split_turns
from finery.util.text import counted
from finery_data.checks.personal import garbled_texts
from finery_data.steps.file import File, first_rows

LEAST = 3
"""Minimum number of rows for which equal prompts are suspicious."""
ABOUT = {
    "one-prompt": About(
        when="the first rows of a file all have the same prompt",
        why="A model that always gets the same prompt can't learn which answer fits which one. "
        "Usually a template lacks a column.",
    ),
    "garbled-text": About(
        when="the first rows of a file have letters such as `Ã¶` in place of `ö`, characters that "
        "couldn't be decoded (U+FFFD), or control characters",
        why="The text was read or converted in another encoding than its own, so the model learns "
        "letters that no prompt will have. `data.validate` finds all such rows (`encoding`).",
    ),
}


class _Seen(NamedTuple):
    """What the first rows of a file are like. garbled: what is wrong with rows that have it."""

    rows: int
    prompts: int
    garbled: list[str]


def notes_on(graph: Graph) -> list[Note]:
    """A note for each file of rows with one prompt, or with garbled text."""
    return [
        note
        for node in graph.nodes.values()
        if isinstance(node.step, File) and node.step.path.paths
        for note in _notes(node.name, node.place, _seen(node.step))
    ]


def _notes(name: str, place: tuple[str | int, ...], seen: _Seen) -> Iterator[Note]:
    if seen.prompts == 1 and seen.rows >= LEAST:
        yield Note(
            name="one-prompt",
            text=f"the first {seen.rows:,} rows of {name} have the same prompt",
            fix="put the column with the question into columns.user",
            step=name,
            place=(*place, "columns"),
        )
    if seen.garbled:
        yield Note(
            name="garbled-text",
            text=f"{len(seen.garbled):,} of the first {counted(seen.rows, 'row')} of {name} "
            f"{'has' if len(seen.garbled) == 1 else 'have'} garbled text, e.g. {seen.garbled[0]}",
            fix="go back to the file as it was before it was converted, and set `encoding`",
            step=name,
            place=(*place, "path"),
        )


_SEEN: dict[str, _Seen] = {}


def _seen(step: File) -> _Seen:
    states = [(path, path.stat().st_mtime_ns) for path in step.path.paths if path.is_file()]
    key = f"{step!r} {states}"
    if key not in _SEEN:  # notes are asked for again and again while a recipe is built
        with tempfile.TemporaryDirectory(prefix="finery-check-") as folder:
            try:
                rows = first_rows(step, Job(out=Path(folder), scratch=Path(folder, "scratch")))
            except FineryError:  # reported by the check of the files
                rows = list[Row]()
        prompts = {msgspec.json.encode(split_turns(row)[0]) for row in rows}
        garbled = [texts[0] for row in rows if (texts := [*garbled_texts(row)])]
        _SEEN[key] = _Seen(len(rows), len(prompts), garbled)
    return _SEEN[key]
