"""The number of training rows that copy a test row, for the report of a build."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from finery import Dataset, Node, Source
from finery.rows.near import Common
from finery.views import Finding, PageContext
from finery_data.duplicates.heldout import NEAR, HeldOut, prompt_entry

MOST = 5_000
"""Rows of each side that are compared."""
QUESTION = "Are test rows among the training rows?"


class Contamination(NamedTuple):
    """Training rows whose prompt copies, nearly copies or contains one of the test rows.

    train, test: names in the recipe. rows, tests: training and test rows that were compared, of
    `total` and `test_total`.
    """

    train: str
    test: str
    counts: Counter[str]
    rows: int
    total: int
    tests: int
    test_total: int

    @property
    def compared(self) -> str:
        """Which rows were compared, if not all: `the first 5,000 of 100,000 rows of train`."""
        sides = (self.train, self.rows, self.total), (self.test, self.tests, self.test_total)
        parts = [
            f"the first {rows:,} of {total:,} rows of {name}"
            for name, rows, total in sides
            if rows < total
        ]
        return " and ".join(parts)


def contaminations(context: PageContext) -> Iterator[Contamination]:
    """Each pair of training rows and test rows that are built."""
    nodes = context.graph.nodes.values()
    learned = {s.ref for n in nodes for s in n.row_sources if _teaches(n, s)}
    tests = {s.ref for n in nodes if n.evaluates for s in n.row_sources}
    for train in sorted(learned):
        for test in sorted(tests):
            rows, held = context.built(train), context.built(test)
            if isinstance(rows, Dataset) and isinstance(held, Dataset):
                context.progress(f"{train} against {test}", 0, 0)
                yield _compared(train, rows, test, held)


def _teaches(node: Node, source: Source) -> bool:
    """Whether a model learns from these rows; baselines do, too, though they aren't trainings."""
    return source.role == "train" or (source.role == "" and node.trains)


def _compared(train: str, rows: Dataset, test: str, held_rows: Dataset) -> Contamination:
    common = Common()
    for dataset in (rows, held_rows):
        for row in islice(dataset, MOST):
            if (entry := prompt_entry(row)) is not None:
                common.add(entry)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="finery-report-") as folder:
        held = HeldOut(test, NEAR, Path(folder), common.pieces())
        for row in islice(held_rows, MOST):
            held.add(row, prompt_entry(row))
        leaks = (held.leak(prompt_entry(row)) for row in islice(rows, MOST))
        counts.update(leak.reason for leak in leaks if leak is not None)
    return Contamination(
        train,
        test,
        counts,
        rows=min(len(rows), MOST),
        total=len(rows),
        tests=min(len(held_rows), MOST),
        test_total=len(held_rows),
    )


def finding(found: list[Contamination]) -> Finding:
    """The finding on whether the scores only measure memory. Open if not all rows were compared."""
    if not found:
        text = "Not measured: no training rows or no test rows are built."
        return Finding(QUESTION, text, "open", 4)
    bad = [c for c in found if c.counts]
    if bad:
        return Finding(QUESTION, f"Yes: {'; '.join(map(_copies, bad))}.", "bad", 4)
    pairs = ", ".join(f"{c.train} and {c.test}{_limits(c)}" for c in found)
    if any(c.compared for c in found):
        text = f"Only partly measured: no copies or near copies of prompts in {pairs}."
        return Finding(QUESTION, text, "open", 4)
    return Finding(QUESTION, f"No copies or near copies of prompts in {pairs}.", "good", 4)


def _copies(pair: Contamination) -> str:
    count = sum(pair.counts.values())
    return (
        f"{count:,} of {pair.rows:,} rows of {pair.train} copy or nearly copy a prompt of "
        f"{pair.test}{_limits(pair)}"
    )


def _limits(pair: Contamination) -> str:
    return f" (compared: {pair.compared})" if pair.compared else ""
