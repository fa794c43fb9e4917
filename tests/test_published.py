"""`benchmarks/published.py`: its splits, its threshold, and a run that goes on."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from needs import may_lack, need

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
sys.path.append(str(ROOT / "benchmarks"))

from published import (  # noqa: E402
    SETS,
    Corpus,
    Results,
    best_threshold,
    clinc,
    drawn,
    first_of_each,
    main,
    read_corpus,
)

needs_data = pytest.mark.skipif(
    not all((DATA / name / "few_shot.json").is_file() for name in SETS),
    reason=may_lack("needs Banking77 and CLINC150"),
)


@needs_data
@pytest.mark.parametrize(("name", "intents", "test"), [(SETS[0], 77, 3_080), (SETS[1], 150, 4_500)])
def test_the_splits_are_the_published_ones(name: str, intents: int, test: int) -> None:
    corpus = read_corpus(DATA, name)
    assert len(corpus.test) == test
    for shots in (5, 8, 10, 16):
        rows = drawn(corpus, str(shots), 0)
        assert Counter(Counter(label for _, label in rows).values()) == {shots: intents}
        assert set(rows) <= set(corpus.train)
        assert drawn(corpus, str(shots), 1) != rows


@needs_data
def test_out_of_scope_is_apart() -> None:
    sizes = {part: len(rows) for part, rows in clinc(DATA).items()}
    assert (sizes["oos_train"], sizes["oos_val"], sizes["oos_test"]) == (100, 100, 1_000)
    assert all(label != "oos" for _, label in clinc(DATA)["test"])


def test_a_draw_has_the_same_rows_each_time() -> None:
    rows = [(f"{label}{n}", label) for label in "ab" for n in range(20)]
    corpus = Corpus(rows, [], {"5": [0, 1, 20]})
    assert drawn(corpus, "5", 0) == [rows[0], rows[1], rows[20]]
    assert drawn(corpus, "8", 0) == drawn(corpus, "8", 0) != drawn(corpus, "8", 1)
    assert first_of_each([21, 3, 22, 23, 4], rows, 2) == [21, 3, 22, 4]


def test_the_threshold_has_the_highest_accuracy() -> None:
    inside = [(0.9, True, False), (0.8, True, False), (0.3, True, False), (0.2, False, False)]
    outside = [(0.1, False, True), (0.4, False, True), (0.5, False, True)]
    assert best_threshold(inside + outside) == pytest.approx(0.65)
    assert 0 < best_threshold(inside) < 0.2
    assert best_threshold([(0.5, False, True), (0.5, True, False)]) < 0.5


def test_results_of_other_code_and_torn_lines_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    Results(file).measure("one", 1, 10, lambda: {"right": 1})
    Results(file).measure("one", 1, 10, lambda: pytest.fail("measured again"))
    Results(file).measure("long", 601, 10, lambda: pytest.fail("takes too long"))
    (line,) = file.read_text("utf-8").splitlines()
    other = json.dumps({**json.loads(line), "code": "other"})
    file.write_text(f"{other}\n{line[: len(line) // 2]}", "utf-8")
    assert Results(file).lines == {}


@needs_data
@pytest.mark.slow
def test_a_second_run_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("sklearn")
    file = tmp_path / "results.jsonl"
    command = ["--tasks", "shots", "--sets", "banking77", "--models", "linear", "--shots", "5"]
    options = [*command, "--data", str(DATA), "--results", str(file)]
    assert main(options) == 0
    result = json.loads(file.read_text("utf-8"))
    assert result["rows"] == 385
    assert result["right"] / result["test"] == pytest.approx(0.66, abs=0.02)
    assert main(options) == 0
    assert len(file.read_text("utf-8").splitlines()) == 1
    assert "| banking77 | 5 | linear | 65." in capsys.readouterr().out
