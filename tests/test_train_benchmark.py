"""What `benchmarks/train.py` makes of the course of a training."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "train.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FILE.parent)  # as `python benchmarks/train.py` has it
        spec.loader.exec_module(module)
    return module


def test_validation_between_steps_is_no_training(bench: Any) -> None:
    events = [
        (10.0, "begin", 0.0), (12.0, "step", 0.0), (15.0, "validated", 0.5), (17.0, "step", 0.0),
        (20.0, "validated", 0.4),
    ]  # fmt: skip
    course = bench.course_of(events, 4.0, 21.0, None)
    assert (course.before, course.training, course.validation) == (6.0, 4.0, 6.0)
    assert (course.whole, course.losses) == (17.0, (0.5, 0.4))


def test_a_training_without_steps_has_failed(bench: Any) -> None:
    with pytest.raises(bench.RunError, match="no training"):
        bench.course_of([(1.0, "begin", 0.0)], 0.0, 2.0, None)


def test_sets_of_rows_share_none_and_hold_all_intents(bench: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    lines = [f"{intent} {n},{intent}" for n in range(4) for intent in sorted(bench.INTENTS)]
    file.write_text("\n".join(["text,category", *lines]), encoding="utf-8")
    first, second = bench.rows_of(file, 0, 18), bench.rows_of(file, 18, 18)
    asked = {row["prompt"][1]["content"] for row in [*first, *second]}
    assert len(asked) == 36
    assert {row["completion"][0]["content"] for row in second} == set(bench.INTENTS)
    with pytest.raises(bench.RunError, match="fewer than 37"):
        bench.rows_of(file, 18, 19)


def test_without_the_data_there_is_nothing_to_do(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--data", str(tmp_path)]) == 0
    assert "no train.csv and no test.csv" in capsys.readouterr().err


def test_llamafactory_needs_its_environment(bench: Any) -> None:
    with pytest.raises(SystemExit):
        bench.read_options(["--tools", "finery,llamafactory"])
    assert bench.read_options([]).tools == ("finery", "trl")
