"""The places from which the rows of a query were read."""

from collections.abc import Collection, Iterator

from finery import Job, Traceable
from finery_sql.query import SqlQuery


class QueryPlaces(Traceable[SqlQuery]):
    """Rows by database and number."""

    def trace(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """Database and number of each row with one of `ids`, among those that the query gave."""
        return self.step.placed(ids, job, self.step.pinned_records(job), self.step.place())
