"""`data.mix`: several sources in given proportions."""

import random
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Literal

from finery import DataError, Dataset, Job, Step, UsageError, setting, takes
from finery.rows import Row
from finery.rows.chosen import apportion, row_draws, sample_counts
from finery.rows.dropped import Drops

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
