"""Rows from SQL databases.

Input: a query and an address or a SQLite file. Output: rows. What a query of a server gives is
pinned in `recipe.lock` and kept in the store, so that a build can be repeated.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> Mapping[str, str]:
    """The step type `sql.query`."""
    return {"sql.query": "finery_sql.query:SqlQuery"}


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_sql.query import ABOUT

    return ABOUT


@hookimpl
def finery_checks(graph: Any, results: Any) -> Sequence[Any]:
    """Notes on queries whose rows may come in any order."""
    if "finery_sql.query" not in sys.modules:  # no step of the recipe is one
        return []
    from finery_sql.query import notes_on

    return notes_on(graph)
