"""The note on files whose rows all have the same prompt."""

import tempfile
from pathlib import Path

import msgspec

from finery import About, FineryError, Graph, Job, Note
from finery.rows import split_turns
from finery_data.steps.file import File, first_rows

LEAST = 3
"""Minimum number of rows for which equal prompts are suspicious."""
ABOUT = {
    "one-prompt": About(
        when="the first rows of a file all have the same prompt",
        why="A model that always gets the same prompt can't learn which answer fits which one. "
        "Usually a template lacks a column.",
    )
}


def notes_on(graph: Graph) -> list[Note]:
    """A note for each file of rows with one prompt."""
    return [
        Note(
            name="one-prompt",
            text=f"the first {count:,} rows of {node.name} have the same prompt",
            fix="put the column with the question into columns.user",
            step=node.name,
            place=(*node.place, "columns"),
        )
        for node in graph.nodes.values()
        if isinstance(node.step, File) and node.step.path.paths
        if (count := _equal_prompts(node.step))
    ]


def _equal_prompts(step: File) -> int:
    """The number of first rows, if they all have the same prompt; otherwise 0."""
    states = [(path, path.stat().st_mtime_ns) for path in step.path.paths if path.is_file()]
    key = f"{step!r} {states}"
    if key not in _COUNTS:  # notes are asked for again and again while a recipe is built
        _COUNTS[key] = _count(step)
    return _COUNTS[key]


_COUNTS: dict[str, int] = {}


def _count(step: File) -> int:
    with tempfile.TemporaryDirectory(prefix="finery-check-") as folder:
        try:
            rows = first_rows(step, Job(out=Path(folder), scratch=Path(folder, "scratch")))
        except FineryError:  # reported by the check of the files
            return 0
    prompts = {msgspec.json.encode(split_turns(row)[0]) for row in rows}
    return len(rows) if len(rows) >= LEAST and len(prompts) == 1 else 0
