"""Advice on trainings before they run.

Gives notes on a recipe and its built outputs: too few rows, a learning rate out of range, no
baseline. It recognizes trainings, evaluators and their tasks by what step types declare, so the
step types of every plugin get the same advice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_advice import comparison, notes

    return {name: about for name, (about, _) in notes.KINDS.items()} | dict(comparison.KINDS)


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on the trainings of a recipe, and on steps that are compared."""
    from finery_advice.comparison import notes_between
    from finery_advice.notes import notes_on

    return [*notes_on(graph, results), *notes_between(graph)]
