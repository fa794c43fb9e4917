"""The places of the rows of a data set on the hub."""

from collections.abc import Collection, Iterator

from finery import Job, Traceable
from finery_hub.dataset import HubDataset


class DatasetPlaces(Traceable[HubDataset]):
    """Rows by commit, split, and file and line or row."""

    def trace(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """Commit, split, file and line (or row) of each row with one of `ids`."""
        step, split = self.step, self.step.pinned_split(job)
        return step.placed(ids, job, step.records(split, job), split.place, take=step.take)
