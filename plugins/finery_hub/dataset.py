"""`hub.dataset`: rows of a data set on the Hugging Face hub, pinned to a commit."""

from finery import Dataset, Job, setting
from finery_data.source import RowSource
from finery_hub.client import COMMIT, resolve, token_of
from finery_hub.rows import Split, records_of


class HubDataset(RowSource, packages=("datasets", "jinja2"), version="1"):
    """Rows of a data set on the Hugging Face hub, as the datasets library reads it.

    A branch or tag is resolved once, to a commit that `recipe.lock` keeps: rows that change on the
    hub don't change under the recipe. Rows are made of the columns as `data.file` makes them: by a
    known `format`, by `columns`, or as the columns' names tell. Classes have their names, not their
    numbers; images, audio and the like are left out. Code of a data set's is never run.
    """

    repo: str = setting(
        pattern=r"^[\w.-]+/[\w.-]+$",
        help="The repository, owner/name.",
        examples=["HuggingFaceH4/no_robots"],
    )
    revision: str = setting("main", min_length=1, help="A branch, a tag, or a commit (40 digits).")
    config: str | None = setting(
        None, help="Which of its configurations (subsets); default: the data set's own."
    )
    split: str = setting("train", min_length=1, help="Which of its splits.")
    take: int | None = setting(
        None, ge=1, help="Only the first so many rows; the rest isn't downloaded."
    )
    streaming: bool | None = setting(
        None,
        help="Read over the network and keep no files; default: with `take`.",
        keyed=False,
    )

    def floating(self) -> str | None:
        """The branch or tag to pin; a commit needs no pin."""
        if COMMIT.fullmatch(self.revision):
            return None
        return f"hub:datasets/{self.repo}@{self.revision}"

    def pin(self) -> str:
        """The commit that the branch or tag names now."""
        return resolve(self.repo, self.revision, "dataset")

    def run(self, job: Job) -> Dataset:
        """Write the rows of the split at its commit."""
        commit = job.pinned or self.revision
        split = Split(self.repo, commit, self.config, self.split, token_of(job))
        streaming = self.streaming if self.streaming is not None else self.take is not None
        records = records_of(split, job, streaming=streaming)
        return self.written(job, records, split.place, take=self.take)
