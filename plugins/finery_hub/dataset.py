"""`hub.dataset`: rows of a data set on the hub, pinned to a commit; from its files or the network.

The datasets library lists the files of a split and reads them. JSON is read here, line by line,
because the library converts texts that look like dates, and rejects a complete file for one broken
line.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from finery import DataError, FineryError, Job, StepError, setting
from finery.advanced import did_you_mean
from finery.rows.badrow import BadRow
from finery.rows.tables.records import JSON_SUFFIXES, Record, data_suffix, drop_nulls, read_json
from finery.rows.tables.streams import decompress, report_damage
from finery.rows.tables.values import json_value
from finery_data.sources.source import RowSource
from finery_hub.client import COMMIT, download, explained, missing, resolve, token_of

PROGRESS_EVERY = 1_000
REMOTE = "hf://"
"""Prefix of the library's names of files on the hub."""
MEDIA = ("Audio", "BioSequence", "BioStructure", "Image", "Mesh", "Nifti", "Pdf", "Video")
"""The library's features that hold no text."""


class Split(NamedTuple):
    """A split of a data set at a commit. config: None for the data set's default."""

    repo: str
    commit: str
    config: str | None
    name: str
    token: str | None

    @property
    def place(self) -> str:
        """Its name in errors."""
        config = f"{self.config}/" if self.config else ""
        commit = self.commit[:7] if COMMIT.fullmatch(self.commit) else self.commit
        return f"{self.repo}@{commit} {config}{self.name}"


def records_of(split: Split, job: Job, *, streaming: bool) -> Iterator[Record]:
    """The records of a split, in order, as a stream.

    streaming: read over the network, only as far as needed. Otherwise fetch the files into the
    hub's cache first, where interrupted transfers resume and the next build finds them.
    """
    builder = _builder(split)
    declared: Mapping[str, Sequence[str]] = builder.config.data_files or {}
    by_name = {str(name): list(files) for name, files in declared.items()}
    if split.name not in by_name:
        raise DataError(
            f"{split.repo} has no split '{split.name}'",
            where=split.place,
            fix=did_you_mean(split.name, by_name),
        )
    files = by_name[split.name]
    if not streaming:
        files = _fetched(split, files, job)
    names = {file: file.partition(split.commit)[2].lstrip("/@") for file in files}
    is_json = all(data_suffix(name) in JSON_SUFFIXES for name in names.values())
    with explained(split.repo, split.commit, "dataset"):
        if is_json and not getattr(builder.config, "field", None):
            records = _json_records(split, names, builder.info.features)
        else:
            records = _library_records(split, builder, files, job)
        for number, record in enumerate(records):
            if number % PROGRESS_EVERY == 0:
                job.progress(0, 1, f"{number:,} rows")
            yield record
        job.progress(1, 1, "all rows read")


def _builder(split: Split) -> Any:
    """The library's facts about the data set: its files by split, its features."""
    with explained(split.repo, split.commit, "dataset"):
        from huggingface_hub import HfApi, errors

        api = HfApi(token=split.token)
        try:
            api.hf_hub_download(split.repo, "README.md", repo_type="dataset", revision=split.commit)
        except errors.RemoteEntryNotFoundError:
            api.dataset_info(split.repo, revision=split.commit)
        try:
            import datasets  # type: ignore[import-untyped]
        except ImportError as error:
            raise missing("hub.dataset", "datasets") from error
        datasets.disable_progress_bars()
        path = (
            f"{REMOTE}datasets/{split.repo}"  # otherwise a local folder of that name would be read
        )
        try:
            builder = datasets.load_dataset_builder(
                path, split.config, revision=split.commit, token=split.token
            )
        except (ValueError, FileNotFoundError, RuntimeError) as error:
            raise _unfit(split, path, error) from error
    if builder.hash != split.commit:  # if the hub fails, the library uses any cached commit
        raise StepError(
            f"the hub didn't list the files of {split.repo} at {split.commit[:12]}",
            fix="build again later",
        )
    return builder


def _unfit(split: Split, path: str, error: Exception) -> FineryError:
    """The error for a data set that the library can't read."""
    what = str(error).splitlines()[0]
    if isinstance(error, RuntimeError) and "script" in what:
        return DataError(
            f"a Python script makes {split.repo}, and finery never runs a data set's code",
            where=split.place,
            fix="the hub may also have its rows as files; try revision: refs/convert/parquet",
        )
    if isinstance(error, ValueError) and "onfig" in what:
        from datasets import get_dataset_config_names

        known = get_dataset_config_names(path, revision=split.commit, token=split.token)
        if split.config is None:
            return DataError(
                f"{split.repo} has several configurations",
                where=split.place,
                fix=f"write config: {' or '.join(known)}",
            )
        return DataError(
            f"{split.repo} has no configuration '{split.config}'",
            where=split.place,
            fix=did_you_mean(split.config, known),
        )
    return DataError(
        f"the datasets library can't read {split.repo}: {what}",
        where=split.place,
        fix="check its files: finery reads JSON lines, JSON, CSV and Parquet",
    )


def _fetched(split: Split, files: Sequence[str], job: Job) -> list[str]:
    """Fetch the files into the hub's cache, and return their paths."""
    from glob import escape

    start = f"{REMOTE}datasets/{split.repo}@{split.commit}/"
    names = [file.removeprefix(start) for file in files]
    folder = download(
        split.repo,
        split.commit,
        job,
        wanted=[escape(name) for name in names],
        token=split.token,
        kind="dataset",
    )
    return [str(folder / name) for name in names]


# JSON


def _json_records(split: Split, names: Mapping[str, str], features: Any) -> Iterator[Record]:
    """The records of JSON files, each with its line."""
    tell = _labelled(features or {})
    for file, name in names.items():
        place = f"{split.repo}/{name}"
        with _opened(file, split.token) as raw, report_damage(place):
            for record in read_json(place, decompress(raw)):
                if isinstance(record.columns, BadRow):
                    yield record
                else:
                    yield Record(record.where, tell(record.columns))


def _opened(file: str, token: str | None) -> BufferedReader:
    """A file's bytes, from this machine or the hub."""
    if not file.startswith(REMOTE):
        return Path(file).open("rb")
    from huggingface_hub import HfFileSystem

    return BufferedReader(HfFileSystem(token=token).open(file, "rb"))


# Everything else


def _library_records(
    split: Split, builder: Any, files: Sequence[str], job: Job
) -> Iterator[Record]:
    """The records of files that the library reads."""
    from datasets.exceptions import DatasetsError  # type: ignore[import-untyped]

    builder.config.data_files = {split.name: list(files)}
    number = 0
    try:
        rows = builder.as_streaming_dataset(split=split.name)
        features = rows.features or rows._resolve_features().features
        media = {name: f for name, f in features.items() if type(f).__name__ in MEDIA}
        if media:
            job.log(f"left out because they hold no text: {', '.join(media)}")
            for name, feature in media.items():  # removal alone would decode them first
                rows = rows.cast_column(name, replace(feature, decode=False))
            rows = rows.remove_columns(list(media))
        tell = _labelled(features)
        for columns in rows:
            number += 1
            yield Record(f"{split.place} (row {number})", tell(columns))
    except StopIteration:  # the library raises this for an empty file
        return
    except (ValueError, TypeError, DatasetsError) as error:
        what = str(error.__cause__ or error).strip().splitlines()
        raise DataError(
            f"the data set's files can't be read: {what[0] if what else type(error).__name__}",
            where=f"{split.place} (after row {number})" if number else split.place,
            fix="check that the files are complete and have the columns that the data set's card "
            "names, or try another revision",
        ) from error


def _labelled(features: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function that makes columns from a record: plain values, classes by name."""
    classes = {name: names for name, f in features.items() if (names := _class_names(f))}

    def tell(record: Mapping[str, Any]) -> dict[str, Any]:
        columns = {name: drop_nulls(json_value(value)) for name, value in record.items()}
        for name, names in classes.items():
            if name in columns:
                columns[name] = _named(columns[name], names)
        return columns

    return tell


def _class_names(feature: Any) -> Sequence[str]:
    """The names of a feature's classes, also of a list of classes; empty if it has none."""
    while (inner := getattr(feature, "feature", None)) is not None:
        feature = inner
    return feature.names or () if hasattr(feature, "int2str") else ()


def _named(value: Any, names: Sequence[str]) -> Any:
    """The name of a class, or a list of names; other values as they are."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if isinstance(value, int):
        return names[value] if 0 <= value < len(names) else None
    return value


class HubDataset(
    RowSource,
    packages=("datasets", "jinja2"),
    installs=dict.fromkeys(("datasets", "huggingface-hub"), "finery[hub]"),
    version="1",
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

    def open_records(self, job: Job) -> tuple[Iterable[Record], str, int | None]:
        """The records of the split at its commit, from its files or over the network."""
        commit = job.pinned or self.revision
        split = Split(self.repo, commit, self.config, self.split, token_of(job))
        streaming = self.streaming if self.streaming is not None else self.take is not None
        return records_of(split, job, streaming=streaming), split.place, self.take

    def floating_name(self) -> str | None:
        """The branch or tag to pin; a commit needs no pin."""
        if COMMIT.fullmatch(self.revision):
            return None
        return f"hub:datasets/{self.repo}@{self.revision}"

    def pin_name(self, folder: Path) -> str:
        """The commit that the branch or tag currently names."""
        return resolve(self.repo, self.revision, "dataset")
