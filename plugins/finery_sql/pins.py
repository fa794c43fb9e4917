"""The pin of a query: how many rows it gave, and their digest."""

import os
from pathlib import Path

import msgspec
from blake3 import blake3

from finery import Pinned
from finery_sql.query import SqlQuery
from finery_sql.snapshot import keep, pinned_as


class QueryPin(Pinned[SqlQuery]):
    """A database isn't a file: what a query gives is pinned, and kept in the store."""

    def floating(self) -> str | None:
        """The database and the query; a SQLite file is hashed as any file is."""
        step = self.step
        if step.url is None:
            return None
        content = msgspec.json.encode([step.text(), step.params], order="deterministic")
        return f"sql:{step.url}/{blake3(content).hexdigest()[:12]}"

    def pin_into(self, folder: Path) -> str:
        """Run the query and keep its rows: their number and digest."""
        return pinned_as(keep(self.step.records(os.environ), folder))
