"""Rows from SQL databases.

Input: a query and an address or a SQLite file. Output: rows. What a query of a server gives is
pinned in `recipe.lock` and kept in the store, so that a build can be repeated.
"""

from collections.abc import Mapping
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
