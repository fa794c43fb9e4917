"""`data.sample` and `data.mix`: take rows of a source, or of several, at random."""

import random
from array import array
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Literal

from finery import DataError, Dataset, Job, Step, UsageError, setting, takes
from finery.rows import Row
from finery.rows.badrow import BadRow
from finery.rows.chosen import apportion, row_draws, sample_counts
from finery.rows.dropped import Drops
from finery.rows.parts import (
    missing_text_error,
    read_numbered,
    row_label,
    template_variables,
    text_by_name,
)
from finery.rows.templates.sandbox import compile_template, render
from finery_data.steps.filter import RowFilter

CLASSES_KEPT = 200
NOT_SAMPLED = "not-sampled"


class Sample(RowFilter, seeded=True, version="1"):
    """Take some of the rows at random, and balance classes.

    Which rows are taken depends only on each row and the seed, so added rows change little. Rows
    stay in their order, and repetitions of a row follow it. Streams the rows two or three times,
    and keeps about 20 bytes per row in memory.
    """

    rows: list[Dataset] = takes(help="Rows to take from.")
    n: int | None = setting(
        None, ge=1, help="Total number of rows. Default: all that `balance` leaves."
    )
    by: str | None = setting(
        None,
        column_of="rows",
        help="What defines a class: a column, e.g. label; output (the answer's text); a template. "
        "Without `balance`, each class keeps its share.",
        examples=["label", "{{ output.category }}"],
    )
    balance: Literal["down", "up"] | None = setting(
        None,
        help="Take the same number of rows of each class. down: fewer rows of larger classes. up: "
        "some rows of smaller classes several times.",
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that take nothing away or don't go together."""
        if self.n is None and self.balance is None:
            raise UsageError(
                "data.sample would take all rows", fix="set a number, e.g. n: 100, or set balance"
            )
        if self.balance and not self.by:
            raise UsageError(
                "`balance` needs classes",
                where="balance",
                fix="name what defines them, e.g. by: label",
            )
        self._reader()

    def run(self, job: Job) -> Dataset:
        """Write the rows taken; `meta` has how many of each class."""
        reader, classes = self._reader(), _Classes()
        for number, row in read_numbered(job, self.rows):
            classes.add(reader(number, row))
        if not classes.of:
            raise DataError("there are no rows", fix="check the steps that `rows` names")
        draws = row_draws((row for dataset in self.rows for row in dataset), job.seed)
        times: dict[int, int] = {}
        for members, count in zip(classes.members(), self._counts(classes), strict=True):
            times |= sample_counts(draws, members, count)
        with Drops(job.out) as drops:
            dataset = Dataset.write(job.out, self._taken(job, times, drops))
        dataset.meta |= drops.meta() | self._meta(classes, times)
        total = len(classes.of)
        job.log(f"{len(dataset):,} rows taken of {total:,}; {drops.counts.total():,} never")
        return dataset

    def _counts(self, classes: "_Classes") -> list[int]:
        """Rows to take of each class."""
        sizes, every = classes.sizes(), len(classes.of)
        if self.balance is None:
            assert self.n is not None
            if self.n > every:
                raise DataError(
                    f"there are {every:,} rows, but n is {self.n:,}", fix=f"n: {every} or fewer"
                )
            return apportion(self.n, sizes)
        most = min(sizes) if self.balance == "down" else max(sizes)
        if self.n is None:
            return [most] * len(sizes)
        counts = apportion(self.n, [1.0] * len(sizes))
        if self.balance == "up":
            return counts
        rarest = sizes.index(min(sizes))
        if counts[rarest] > sizes[rarest]:
            raise DataError(
                f"n: {self.n:,} takes {counts[rarest]:,} rows of each of {len(sizes):,} classes, "
                f"but {classes.names[rarest]!r:.80} has {sizes[rarest]:,}",
                fix=f"n: {min(sizes) * len(sizes)} or fewer, or balance: up",
            )
        return counts

    def _taken(self, job: Job, times: dict[int, int], drops: Drops) -> Iterator[Row]:
        for number, row in read_numbered(job, self.rows):
            taken = times.get(number - 1, 0)
            for _ in range(taken):
                yield row
            if not taken:
                drops.add(row, NOT_SAMPLED, "not drawn")

    def _reader(self) -> Any:
        """(number, row) → its class."""
        by = self.by
        if by is None:
            return lambda number, row: ""
        if "{{" not in by and "{%" not in by:
            return lambda number, row: _column(by, number, row)
        template = compile_template(by, "by")
        return lambda number, row: _rendered(template, number, row)

    def _meta(self, classes: "_Classes", times: dict[int, int]) -> dict[str, Any]:
        if self.by is None:
            return {}
        counts: Counter[str] = Counter()
        for row, taken in times.items():
            counts[classes.names[classes.of[row]]] += taken
        many = len(counts) > CLASSES_KEPT
        return {"by": self.by, "classes": len(counts) if many else dict(sorted(counts.items()))}


class _Classes:
    """The class of each row, in a few bytes a row."""

    def __init__(self) -> None:
        self.of = array("L")
        self.names: list[str] = []
        self._index: dict[str, int] = {}

    def add(self, name: str) -> None:
        """Note the class of the next row."""
        if name not in self._index:
            self._index[name] = len(self.names)
            self.names.append(name)
        self.of.append(self._index[name])

    def sizes(self) -> list[int]:
        """Rows of each class."""
        counts = Counter(self.of)
        return [counts[i] for i in range(len(self.names))]

    def members(self) -> "list[array[int]]":
        """The rows of each class."""
        members = [array("L") for _ in self.names]
        for row, index in enumerate(self.of):
            members[index].append(row)
        return members


def _column(by: str, number: int, row: Row) -> str:
    text = text_by_name(row, by)
    if text is None:
        raise missing_text_error("by", by, number, row)
    return text


def _rendered(template: Any, number: int, row: Row) -> str:
    try:
        return render(template, "by", template_variables(row)).strip()
    except BadRow as error:
        raise DataError(error.what, where=row_label(number, row), fix=error.fix) from error


# -- several sources -------------------------------------------------------------------------------


NOT_TAKEN = "not-taken"


class Mix(Step, version="1"):
    """Mix rows of several sources in given proportions.

    Which rows of a source are taken depends only on each row and the seed, so added rows change
    little. If all rows of a source are needed, all are taken. The sources are interleaved at
    random, each in its own order. Rows are streamed. Rows that aren't taken are in `dropped.jsonl`.
    """

    rows: list[Dataset] = takes(help="The sources.")
    weights: list[float] = setting(
        [],
        help="Weight of each source, in the order of `rows`: [2, 1] takes two rows of the first "
        "for each row of the second. Default: equal weights.",
        examples=[[2, 1]],
    )
    total: int | None = setting(
        None,
        ge=1,
        help="Total number of rows. Default: as many as the weights allow without repeating a row.",
    )
    short: Literal["error", "repeat"] = setting(
        "error",
        help="What to do if a source has fewer rows than its part of `total`: stop with an error, "
        "or repeat its rows.",
    )
    shuffle: bool = setting(
        True, help="Shuffle the sources together. Otherwise they follow one after the other."
    )

    def check(self) -> None:
        """Raise `UsageError` for weights that don't go with the sources."""
        if self.weights and len(self.weights) != len(self.rows):
            raise UsageError(
                f"there are {len(self.rows)} sources, but {len(self.weights)} weights",
                where="weights",
                fix="write one weight for each source in `rows`, in the same order",
            )
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise UsageError(
                "a weight must be greater than 0", where="weights", fix="remove the source instead"
            )

    def run(self, job: Job) -> Dataset:
        """Write the rows taken; `meta` has how many of each source."""
        parts = self._parts()
        with Drops(job.out) as drops:
            dataset = Dataset.write(job.out, self._mixed(job, parts, drops))
        dataset.meta |= {"sources": parts, **drops.meta()}
        job.log(f"{len(dataset):,} rows: {', '.join(f'{n:,}' for n in parts)} of each source")
        return dataset

    def _parts(self) -> list[int]:
        """Rows to take of each source."""
        sizes = [len(source) for source in self.rows]
        weights = self.weights or [1.0] * len(sizes)
        if not all(sizes):
            raise DataError(
                f"source {sizes.index(0) + 1} of `rows` has no rows", fix="check its step"
            )
        if self.total is None:
            unit = min(size / weight for size, weight in zip(sizes, weights, strict=True))
            # 1e-9: 3 rows at the weight 0.3 are 10 units of it, whatever 3 / 0.3 gives.
            return [int(unit * weight + 1e-9) for weight in weights]
        parts = apportion(self.total, weights)
        for number, (size, part) in enumerate(zip(sizes, parts, strict=True), 1):
            if part > size and self.short == "error":
                raise DataError(
                    f"source {number} of `rows` has {size:,} rows, but its part of {self.total:,} "
                    f"is {part:,}",
                    fix="use a smaller total, or set short: repeat",
                )
        return parts

    def _mixed(self, job: Job, parts: list[int], drops: Drops) -> Iterator[Row]:
        sources = [
            self._taken(source, part, job.seed + index, drops)
            for index, (source, part) in enumerate(zip(self.rows, parts, strict=True))
        ]
        turns = array("L", (i for i, part in enumerate(parts) for _ in range(part)))
        if self.shuffle:
            random.Random(job.seed).shuffle(turns)
        for number, index in enumerate(turns):
            if number % 2_000 == 0:
                job.progress(number, len(turns), f"{number:,} rows")
            yield next(sources[index])
        for rest in sources:  # what comes after the last row taken is dropped too
            deque(rest, maxlen=0)

    def _taken(self, source: Dataset, part: int, seed: int, drops: Drops) -> Iterator[Row]:
        """The rows of a source that are taken, again from the start where some are repeated."""
        times = sample_counts(row_draws(source, seed), range(len(source)), part)
        for again in range(max(times.values(), default=1)):
            for index, row in enumerate(source):
                if times.get(index, 0) > again:
                    yield row
                elif again == 0:
                    drops.add(row, NOT_TAKEN, f"not drawn: {part:,} of {len(source):,} are taken")
