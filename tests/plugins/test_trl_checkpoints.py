"""Checkpoints: only whole ones count, and only useful ones stay."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from finery import StepError
from finery_trl.train.checkpoints import best_step, chosen, last_whole, mark, prune, step_of


def saved(folder: Path, step: int, history: list[dict[str, Any]] | None = None) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    state = {"log_history": history or []}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    (checkpoint / "weights").write_bytes(b"1234")
    mark(checkpoint)
    return checkpoint


def evaluated(*losses: float) -> list[dict[str, Any]]:
    return [{"step": step, "eval_loss": loss} for step, loss in enumerate(losses, 1)]


def test_the_newest_counts_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        saved(tmp_path, step)
    last = last_whole(tmp_path)
    assert last is not None
    assert step_of(last) == 10


@pytest.mark.parametrize("damage", ["no mark", "cut", "file gone", "mark cut"])
def test_one_that_is_not_whole_is_removed(tmp_path: Path, damage: str) -> None:
    whole, broken = saved(tmp_path, 1), saved(tmp_path, 2)
    if damage == "no mark":
        (broken / "complete.json").unlink()
    elif damage == "cut":
        (broken / "weights").write_bytes(b"12")
    elif damage == "file gone":
        (broken / "weights").unlink()
    else:
        (broken / "complete.json").write_text("{")
    assert last_whole(tmp_path) == whole
    assert not broken.exists()


def test_the_best_and_the_last_two_stay(tmp_path: Path) -> None:
    history = evaluated(3.0, 1.0, 2.0, 2.5, 4.0)
    for step in range(1, 6):
        saved(tmp_path, step, history)
    prune(tmp_path, history)
    assert sorted(step_of(p) for p in tmp_path.iterdir()) == [2, 4, 5]


def watched(*values: float) -> list[dict[str, Any]]:
    return [{"step": step, "watch": {"f1": value}} for step, value in enumerate(values, 1)]


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "best"),
    [((NAN, 0.5, 0.9), 3), ((0.5, NAN, 0.2), 1), ((-3.0, NAN), 1), ((NAN, -3.0), 2), ((NAN,), 1)],
)
def test_a_metric_that_is_not_a_number_is_the_worst(values: tuple[float, ...], best: int) -> None:
    assert best_step(watched(*values), "f1") == best


def test_a_best_checkpoint_that_is_gone_is_an_error(tmp_path: Path) -> None:
    saved(tmp_path, 2, evaluated(1.0, 2.0))
    with pytest.raises(StepError, match="checkpoint-1, is missing"):
        chosen(tmp_path)
