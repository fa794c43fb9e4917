"""`hub.dataset`: rows of a data set on the Hugging Face hub, pinned to a commit."""

from collections.abc import Collection, Iterator, Mapping

from finery import Dataset, Job, Pinned, Traceable, setting
from finery.rows.tables.records import Record
from finery_data.sources.source import RowSource, SourcePreflight
from finery_hub.client import COMMIT, resolve, token_of
from finery_hub.rows import Split, records_of


class DatasetPin(Pinned["HubDataset"]):
    """The commit of a data set's branch or tag."""

    def floating(self) -> str | None:
        """The branch or tag to pin; a commit needs no pin."""
        if COMMIT.fullmatch(self.step.revision):
            return None
        return f"hub:datasets/{self.step.repo}@{self.step.revision}"

    def pin(self) -> str:
        """The commit that the branch or tag currently names."""
        return resolve(self.step.repo, self.step.revision, "dataset")


class DatasetPlaces(Traceable["HubDataset"]):
    """Rows by commit, split, and file and line or row."""

    def trace(self, ids: Collection[str], job: Job) -> Iterator[tuple[str, str]]:
        """Commit, split, file and line (or row) of each row with one of `ids`."""
        step, split = self.step, self.step.pinned_split(job)
        return step.placed(ids, job, step.records(split, job), split.place, take=step.take)


class DatasetPreflight(SourcePreflight):
    """Compiles the templates of `columns`."""

    def packages(self) -> Mapping[str, str]:
        """What reads data sets of the hub."""
        return dict.fromkeys(("datasets", "huggingface-hub"), "finery[hub]")


class HubDataset(
    RowSource,
    packages=("datasets", "jinja2"),
    version="1",
    pinned=DatasetPin,
    traceable=DatasetPlaces,
    preflight=DatasetPreflight,
):
    """Rows of a data set on the Hugging Face hub, as the datasets library reads it.

    A branch or tag is resolved once, to a commit that `recipe.lock` keeps, so changes on the hub
    don't change the recipe's rows. Columns become rows as in `data.file`: by a known `format`, by
    `columns`, or by the columns' names. Classes are written as names, not as numbers. Images, audio
    and other media are left out. The data set's code never runs.
    """

    repo: str = setting(
        pattern=r"^[\w.-]+/[\w.-]+$",
        help="The repository, owner/name.",
        examples=["HuggingFaceH4/no_robots"],
    )
    revision: str = setting("main", min_length=1, help="A branch, a tag, or a commit (40 digits).")
    config: str | None = setting(
        None, help="One of its configurations (subsets). Default: the data set's default."
    )
    split: str = setting("train", min_length=1, help="One of its splits.")
    take: int | None = setting(
        None, ge=1, help="Take only this many rows from the start; the rest isn't downloaded."
    )
    streaming: bool | None = setting(
        None,
        help="Read over the network without keeping files. Default: true with `take`.",
        affects_output=False,
    )

    def run(self, job: Job) -> Dataset:
        """Write the split's rows at its commit."""
        split = self.pinned_split(job)
        return self.written(job, self.records(split, job), split.place, take=self.take)

    def pinned_split(self, job: Job) -> Split:
        """The split at its commit."""
        commit = job.pinned or self.revision
        return Split(self.repo, commit, self.config, self.split, token_of(job))

    def records(self, split: Split, job: Job) -> Iterator[Record]:
        """The records of a split, from its files or over the network."""
        streaming = self.streaming if self.streaming is not None else self.take is not None
        return records_of(split, job, streaming=streaming)
