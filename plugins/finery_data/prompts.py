"""The notes on first rows: all with one prompt, with garbled text, without a system message."""

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import msgspec

from finery import Artifact, Dataset, FineryError, Job, Model, Note
from finery.advanced import About, Forecasts, Graph, Node, Results, Source, counted
from finery.rows import Row, split_turns
from finery_data.checks.encoding import garbled_texts
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


def notes_on(graph: Graph, results: Results) -> list[Note]:
    """A note for each file or step whose rows look wrong."""
    notes: list[Note] = []
    for node in graph.nodes.values():
        if isinstance(node.step, File):
            notes += _on_file(node, _rows_of(node.step))
        if node.trains or node.evaluates:
            notes += islice(_without_system(graph, results, node), 1)
    return notes


def _on_file(node: Node, rows: list[Row]) -> Iterator[Note]:
    if len(rows) >= LEAST and len({msgspec.json.encode(split_turns(row)[0]) for row in rows}) == 1:
        yield Note(
            name="one-prompt",
            text=f"the first {len(rows):,} rows of {node.name} have the same prompt",
            fix="put the column with the question into columns.user",
            step=node.name,
            place=(*node.place, "columns"),
        )
    garbled = [texts[0] for row in rows if (texts := [*garbled_texts(row)])]
    if garbled:
        verb = "has" if len(garbled) == 1 else "have"
        yield Note(
            name="garbled-text",
            text=f"{len(garbled):,} of the first {counted(len(rows), 'row')} of {node.name} {verb} "
            f"garbled text, e.g. {garbled[0]}",
            fix="go back to the file as it was before it was converted, and set `encoding`",
            step=node.name,
            place=(*node.place, "path"),
        )


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
    nodes = (graph.nodes[name] for name in graph.models_under(model))
    last = next((n for n in nodes if n.trains or getattr(n.step, "system", None)), None)
    return last if last is not None and last.trains else None


def _systems(graph: Graph, results: Results, source: Source) -> set[bool]:
    """Whether the first rows have a system message; empty if they aren't known."""
    rows: Artifact | list[Row] | None = results.artifact(source.step, source.output)
    node = graph.nodes[source.step]
    if rows is None and isinstance(node.step, File):
        rows = _rows_of(node.step)
    if isinstance(rows, Dataset | list):
        prompts = (split_turns(row)[0] for row in islice(rows, ROWS))
        return {any(turn["role"] == "system" for turn in prompt) for prompt in prompts}
    passes = Forecasts(graph, results).forecast(node).passes
    parts = [_systems(graph, results, s) for s in node.row_sources if s.field in passes]
    return set[bool]().union(*parts) if all(parts) else set()


def _rows_of(step: File) -> list[Row]:
    """The first rows of a step's files; none if they can't be read, which is reported elsewhere."""
    states = [(path, path.stat().st_mtime_ns) for path in step.path.paths if path.is_file()]
    key = f"{step!r} {states}"
    if states and key not in _ROWS:  # notes are asked for again and again while a recipe is built
        with tempfile.TemporaryDirectory(prefix="finery-check-") as folder:
            try:
                job = Job(out=Path(folder), scratch=Path(folder, "scratch"))
                _ROWS[key] = first_rows(step, job)
            except FineryError:
                _ROWS[key] = []
    return _ROWS.get(key, [])


_ROWS: dict[str, list[Row]] = {}
