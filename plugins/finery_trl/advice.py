"""Notes for `finery check` on the first rows of trainings. All rows are read by `check --deep`."""

from collections.abc import Iterable, Iterator
from itertools import islice

from finery import Dataset, Inputs, Note
from finery.advanced import About, counted
from finery.rows import Row
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


def notes_on(step: Training, inputs: Inputs) -> Iterator[Note]:
    """All notes on a training, on calls only for built rows: steps may still change others."""
    learn = step.learn()
    for source in inputs.sources(*inputs.node.inputs_as("train")):
        place = (*inputs.node.place, source.field)
        rows = inputs.results.artifact(source.step, source.output)
        for text in _broken_calls(rows, learn) if isinstance(rows, Dataset) else ():
            fix = "correct the calls or the tools, or remove these rows"
            text = f"{source.ref}: {text}"
            yield Note(name="broken-calls", text=text, fix=fix, place=place)
        if learn is None or learn.loss == "marked":
            continue
        if count := _weights(inputs.forecasts.sample(source, FIRST) or ()):
            text = f"{inputs.name} ignores the `weight` of {counted(count, 'assistant turn')} in "
            text += f"the first rows of {source.ref}"
            yield Note(name="unused-weights", text=text, fix="loss: marked", place=place)


def _broken_calls(rows: Dataset, learn: Learn | None) -> list[str]:
    key = (str(rows.path), learn.loss if learn is not None else "")
    if key not in _CALLS:  # notes are asked for again and again while a recipe is built
        calls = Calls(learn)
        for row in islice(rows, FIRST):
            calls.add(row)
        _CALLS[key] = calls.notes()
    return _CALLS[key]


_CALLS: dict[tuple[str, str], list[str]] = {}


def _weights(rows: Iterable[Row]) -> int:
    """The number of assistant turns with a weight; rows may still look as in their file."""
    columns = [row[name] for row in rows for name in ("messages", "completion") if name in row]
    turns = [turn for column in columns if isinstance(column, list) for turn in column]
    return sum(
        isinstance(turn, dict) and turn.get("role") == "assistant" and "weight" in turn
        for turn in turns
    )
