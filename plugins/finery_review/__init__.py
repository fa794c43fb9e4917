"""Human review: a page to judge rows on, and the step that applies the decisions.

Input: rows. `finery review` writes decisions to a file of JSON lines next to the recipe, and
`review.apply` outputs the rows with these decisions applied. Public for other plugins:
`finery_review.decisions`, which reads decisions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step types of this plugin."""
    return {"review.apply": "finery_review.apply:Apply"}


@hookimpl
def finery_commands() -> Mapping[str, str]:
    """The commands of this plugin."""
    return {"review": "finery_review.command:command"}


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_review.apply import ABOUT
    from finery_review.suspects import ABOUT as SUSPECTS

    return {**ABOUT, **SUSPECTS}


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on rows that an audit suspects, and that nobody has decided on."""
    from finery_review.suspects import notes_on

    return [*notes_on(graph, results)]
