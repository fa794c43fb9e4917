"""Advice on trainings, before they cost time.

In go the graph of a recipe and what is built of it, out come notes: too few rows, a learning rate
out of range, no baseline. Trainings, evaluators and their tasks are known by what step types
declare, so those of every plugin get the same advice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_advice.comparison import KINDS as BETWEEN
    from finery_advice.notes import KINDS

    return {**{name: about for name, (about, _) in KINDS.items()}, **BETWEEN}


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on the trainings of a recipe, and on steps beside each other."""
    from finery_advice.comparison import notes_between
    from finery_advice.notes import notes_on

    return [*notes_on(graph, results), *notes_between(graph)]
