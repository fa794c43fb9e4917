"""The notes on first rows: all with one prompt, with garbled text, without a system message."""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from finery import About, Dataset, FineryError, Graph, Job, Model, Node, Note, Results, Source
from finery.rows import Row, split_turns
from finery.util.text import counted
from finery_data.checks.personal import garbled_texts
from finery_data.steps.file import ROWS, File, first_rows

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
    "no-system": About(
        when="a training or an evaluation has rows without a system message, and its model was "
        "trained on rows that all have one",
        why="Many chat templates then insert a message of their own, so the model gets other "
        "prompts than it learned from, and its answers or its score get worse.",
    ),
}


class _Seen(NamedTuple):
    """What the first rows of a file are like. garbled: what is wrong with rows that have it.

    systems: whether rows have a system message; both values if only some have.
    """

    rows: int
    prompts: int
    garbled: list[str]
    systems: set[bool]


def notes_on(graph: Graph, results: Results) -> list[Note]:
    """A note for each file or step whose rows look wrong."""
    notes: list[Note] = []
    for node in graph.nodes.values():
        if isinstance(node.step, File) and node.step.path.paths:
            notes += _notes(node.name, node.place, _seen(node.step))
        if node.trains or node.evaluates:
            notes += islice(_without_system(graph, results, node), 1)
    return notes


def _without_system(graph: Graph, results: Results, node: Node) -> Iterator[Note]:
    for source in node.row_sources:
        if _systems(graph, results, source) != {False}:
            continue
        for trained in filter(None, (_training(graph, s.step) for s in node.sources_of(Model))):
            learned = [s for s in trained.row_sources if s.role == "train"]
            if learned and all(_systems(graph, results, s) == {True} for s in learned):
                yield Note(
                    name="no-system",
                    text=f"the rows of {node.name} have no system message, but all rows that "
                    f"{trained.name} learned from have one",
                    fix=f"add it to {source.ref}, e.g. with system in `columns` or in data.map",
                    step=node.name,
                    place=(*node.place, *source.field.split(".")),
                )


def _training(graph: Graph, model: str) -> Node | None:
    """The last training of a model; None if there is none, or a later step adds a message."""
    for name in graph.models_under(model):
        node = graph.nodes[name]
        if node.trains or getattr(node.step, "system", None):
            return node if node.trains else None
    return None


def _systems(graph: Graph, results: Results, source: Source) -> set[bool]:
    """Whether the first rows have a system message; empty if they aren't known."""
    built, node = results.artifact(source.step, source.output), graph.nodes[source.step]
    if isinstance(built, Dataset):
        return set(map(_has_system, islice(built, ROWS)))
    if isinstance(node.step, File):
        return _seen(node.step).systems if node.step.path.paths else set()
    forecast = graph.forecast(node)
    passes = forecast.passes() if forecast is not None else ()
    parts = [_systems(graph, results, s) for s in node.row_sources if s.field in passes]
    return set[bool]().union(*parts) if all(parts) else set()


def _has_system(row: Row) -> bool:
    return any(turn["role"] == "system" for turn in split_turns(row)[0])


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
        _SEEN[key] = _Seen(len(rows), len(prompts), garbled, set(map(_has_system, rows)))
    return _SEEN[key]
