"""The data steps on a real data set: Banking77 (10,003 queries in 77 intents, CC-BY-4.0)."""

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from needs import may_lack

from finery import Dataset, Files
from finery.rows.dropped import dropped
from finery.testing import TestJob, dataset
from finery_data.sources.columns import Columns
from finery_data.steps.file import File
from finery_data.steps.split import Split, prompt_key

TRAIN = Path(__file__).parents[3] / "shared" / "data" / "banking77" / "train.csv"
pytestmark = pytest.mark.skipif(not TRAIN.exists(), reason=may_lack("needs the data of Banking77"))
COLUMNS = Columns(
    system="Name the intent.",
    user="{{ text }}",
    assistant="{{ category }}",
    label="{{ category }}",
)


@pytest.fixture(scope="module")
def banking77(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("banking77")
    return File(path=Files(["train.csv"], [TRAIN]), columns=COLUMNS).run(TestJob(folder))


def test_every_query_is_a_row(banking77: Dataset) -> None:
    with TRAIN.open(newline="", encoding="utf-8") as lines:
        expected = [(r["text"], r["category"]) for r in csv.DictReader(lines)]
    found = [(r["messages"][1]["content"], r["label"]) for r in banking77]
    assert found == expected
    assert (banking77.meta["rows"], banking77.meta["duplicates"]) == (10_003, 0)


def test_splits_are_near_what_was_asked(banking77: Dataset, tmp_path: Path) -> None:
    made = Split(rows=[banking77], stratify="label").run(TestJob(tmp_path, seed=17))
    parts = (made.train, made.validation, made.test)
    gone = [sum(d.meta.get("dropped", {}).values()) for d in parts]
    sizes = [(len(d) + n) / 10_003 for d, n in zip(parts, gone, strict=True)]
    assert sizes == pytest.approx([0.7, 0.1, 0.2], abs=0.02)
    assert sum(sizes) == 1
    # Of ten thousand questions to one bank some are asked alike: 4 % of train.
    assert [n / (len(d) + n) < 0.06 for d, n in zip(parts, gone, strict=True)] == [True] * 3
    assert gone[2] == 0
    assert len(made.test.meta["strata"]) == len(made.validation.meta["strata"]) == 77


def test_no_query_leaks_by_case_or_punctuation(banking77: Dataset, tmp_path: Path) -> None:
    made = Split(rows=[banking77]).run(TestJob(tmp_path, seed=17))
    keys = [{prompt_key(r) for r in d} for d in (made.train, made.validation, made.test)]
    assert sum(map(len, keys)) == len(set.union(*keys)) < 10_003


def moved(banking77: Dataset, folder: Path, **settings: Any) -> float:
    """The share of half of the rows that the other half, added, moves to another split."""
    half = dataset(folder / "half", [r for i, r in enumerate(banking77) if i % 2])
    splits = [
        Split(rows=[rows], stratify="label", **settings).run(TestJob(folder / name, seed=5))
        for name, rows in (("before", half), ("after", banking77))
    ]
    lost = 0
    for name in ("train", "validation", "test"):
        old, new = (Counter(r["id"] for r in getattr(s, name)) for s in splits)
        near_copies = {line["id"] for line in dropped(getattr(splits[1], name))}
        lost += sum(n for key, n in (old - new).items() if key not in near_copies)
    return lost / len(half)


def test_added_rows_move_no_row_of_stable_splits(banking77: Dataset, tmp_path: Path) -> None:
    assert moved(banking77, tmp_path, sizes="stable") == 0


def test_added_rows_move_few_rows_of_exact_splits(banking77: Dataset, tmp_path: Path) -> None:
    assert 0 < moved(banking77, tmp_path) < 0.05
