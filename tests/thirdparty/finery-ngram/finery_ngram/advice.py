"""Notes on recipes, and estimates."""

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

from finery import Estimate, Inputs, Note
from finery.advanced import Results, rough_duration

if TYPE_CHECKING:
    from finery_ngram.steps import Train

USE = "ngram.train"
HIGH_ORDER, MANY_ROWS = 5, 10_000
SECONDS_A_ROW = 1e-4
"""Until the project has trained once."""


def notes(step: "Train", inputs: Inputs) -> Iterator[Note]:
    """A note on a training whose order is too high for its rows."""
    rows = rows_of(inputs)
    if step.order >= HIGH_ORDER and 0 < rows < MANY_ROWS:
        text = f"order {step.order} for {rows:,} rows"
        place = (*inputs.node.place, "order")
        yield Note(name="ngram-order", text=text, fix="order: 3", place=place)


def estimate(step: "Train", inputs: Inputs) -> Estimate | None:
    """How long a training will take, by those before it."""
    rows = rows_of(inputs)
    if not rows:
        return None
    passes = f"{step.epochs} pass" if step.epochs == 1 else f"{step.epochs} passes"
    seconds = rows * step.epochs * _seconds_a_row(inputs.results)
    time = rough_duration(seconds) if seconds >= 1 else "less than a second"
    line = f"{rows:,} rows, {passes}: {time}"
    return Estimate(lines=[line], facts={"rows": rows, "seconds": seconds})


def rows_of(inputs: Inputs) -> int:
    """Rows to learn from; 0 while that isn't known."""
    count = inputs.count(*inputs.node.inputs_as("train"))
    return count.rows if count is not None else 0


def _seconds_a_row(results: Results) -> float:
    speeds = [
        past.seconds / (past.meta["rows"] * past.settings["epochs"])
        for past in results.history(USE)
        if past.meta.get("rows")
    ]
    return median(speeds) if speeds else SECONDS_A_ROW
