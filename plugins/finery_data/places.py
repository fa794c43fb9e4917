"""The places in files from which `data.file` read its rows."""

from collections.abc import Collection, Iterator

from finery import Job, Traceable, shown
from finery_data.steps.file import File, read_records


class FilePlaces(Traceable[File]):
    """Rows by file and line."""

    def trace(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """The file and line of each row whose id is in `ids`, including skipped rows."""
        paths = self.step.path.paths
        records = read_records(paths, job)
        return self.step.placed(ids, job, records, shown(paths[0]), take=self.step.take)
