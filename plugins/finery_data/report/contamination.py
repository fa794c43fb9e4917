"""How many training rows copy a test row, for the report of a build."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from finery import Dataset, Finding, Node, PageContext, Source, evaluates, row_sources, trains
from finery.rows.near import Common
from finery_data.duplicates.heldout import NEAR, HeldOut, prompt_entry

MOST = 5_000
"""Rows of each side that are compared."""
QUESTION = "Are test rows among the training rows?"


class Contamination(NamedTuple):
    """Training rows whose prompt copies, nearly copies or contains one of the test rows.

    train, test: names in the recipe. rows: training rows that were compared, of `total`.
    """

    train: str
    test: str
    counts: Counter[str]
    rows: int
    total: int


def contaminations(context: PageContext) -> Iterator[Contamination]:
    """Each pair of training rows and test rows that are built."""
    nodes = context.graph.nodes.values()
    learned = {s.ref for n in nodes for s in row_sources(n) if _teaches(n, s)}
    tests = {s.ref for n in nodes if evaluates(n) for s in row_sources(n)}
    for train in sorted(learned):
        for test in sorted(tests):
            rows, held = context.built(train), context.built(test)
            if isinstance(rows, Dataset) and isinstance(held, Dataset):
                context.progress(f"{train} against {test}", 0, 0)
                yield _compared(train, rows, test, held)


def _teaches(node: Node, source: Source) -> bool:
    """Whether a model learns from these rows; baselines do, too, though they aren't trainings."""
    return source.role == "train" or (source.role == "" and trains(node))


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
    return Contamination(train, test, counts, min(len(rows), MOST), len(rows))


def finding(found: list[Contamination]) -> Finding:
    """Whether the scores may be a test of memory."""
    if not found:
        text = "Not measured: no training rows or no test rows are built."
        return Finding(QUESTION, text, "open", 4)
    bad = [c for c in found if c.counts]
    if not bad:
        pairs = ", ".join(f"{c.train} and {c.test}" for c in found)
        return Finding(QUESTION, f"No copies or near copies of prompts in {pairs}.", "good", 4)
    parts = [
        f"{sum(c.counts.values()):,} of {c.rows:,} rows of {c.train} copy or nearly copy a prompt "
        f"of {c.test}"
        for c in bad
    ]
    return Finding(QUESTION, f"Yes: {'; '.join(parts)}.", "bad", 4)
