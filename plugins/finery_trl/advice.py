"""Notes for `finery check` on the first rows of trainings. All rows are read by `check --deep`."""

from collections.abc import Iterable, Iterator
from itertools import islice

from finery import About, Dataset, Forecasts, Graph, Node, Note, Results
from finery.rows import Row
from finery.util.text import counted
from finery_trl.rows.remarks import Calls
from finery_trl.rows.turns import Learn
from finery_trl.settings import Training

FIRST = 500
"""Rows of an input to look at."""
KINDS = {
    "broken-calls": About(
        when="among the first rows of a training, some call a tool that isn't offered, or with "
        "arguments that its JSON Schema doesn't allow",
        why="A model makes the calls that it learned, and programs that check calls refuse these.",
    ),
    "unused-weights": About(
        when="assistant turns in the first rows of `trl.sft` have a `weight`, but `loss` isn't "
        "`marked`",
        why="Only `loss: marked` reads weights. Otherwise, turns with `weight: 0` are learned like "
        "all others.",
    ),
}


def notes_on(graph: Graph, results: Results) -> Iterator[Note]:
    """All notes on the trainings of a recipe."""
    for node in graph.nodes.values():
        if isinstance(node.step, Training):
            yield from _on_calls(results, node)
            yield from _on_weights(graph, results, node)


def _on_calls(results: Results, node: Node) -> Iterator[Note]:
    """A note on calls in built rows; others may still be changed by steps."""
    assert isinstance(node.step, Training)
    for source in node.sources:
        rows = results.artifact(source.step, source.output)
        if source.role == "train" and isinstance(rows, Dataset):
            for text in _broken_calls(rows, node.step.learn()):
                yield Note(
                    name="broken-calls",
                    text=f"{source.ref}: {text}",
                    fix="correct the calls or the tools, or remove these rows",
                    step=node.name,
                    place=(*node.place, source.field),
                )


def _broken_calls(rows: Dataset, learn: Learn | None) -> list[str]:
    key = (str(rows.path), learn.loss if learn is not None else "")
    if key not in _CALLS:  # notes are asked for again and again while a recipe is built
        calls = Calls(learn)
        for row in islice(rows, FIRST):
            calls.add(row)
        _CALLS[key] = calls.notes()
    return _CALLS[key]


_CALLS: dict[tuple[str, str], list[str]] = {}


def _on_weights(graph: Graph, results: Results, node: Node) -> Iterator[Note]:
    assert isinstance(node.step, Training)
    learn = node.step.learn()
    if learn is None or learn.loss == "marked":
        return
    for source in node.sources:
        rows = Forecasts(graph, results).sample(source, FIRST) if source.role == "train" else None
        count = _weights(rows or ())
        if count:
            yield Note(
                name="unused-weights",
                text=f"{node.name} ignores the `weight` of {counted(count, 'assistant turn')} in "
                f"the first rows of {source.ref}",
                fix="loss: marked",
                step=node.name,
                place=(*node.place, source.field),
            )


def _weights(rows: Iterable[Row]) -> int:
    """The number of assistant turns with a weight; rows may still look as in their file."""
    columns = [row[name] for row in rows for name in ("messages", "completion") if name in row]
    turns = [turn for column in columns if isinstance(column, list) for turn in column]
    return sum(
        isinstance(turn, dict) and turn.get("role") == "assistant" and "weight" in turn
        for turn in turns
    )
