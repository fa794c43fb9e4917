"""Preferences on a tiny model: what is proven, and that the better answer becomes likelier."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_llama

from finery import DataError, Dataset, Model
from finery.rows import Row
from finery.step.inspect import FILE_MODULE
from finery.testing import TestJob, dataset
from finery_trl.settings import Launch, Lora
from finery_trl.steps import Dpo, Kto, Sft

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

WORDS = ["late", "wrong", "card_arrival"]


def preferences(number: int) -> list[Row]:
    """Questions of different lengths; the good answer is their last word, the bad one another."""
    return [
        {
            "prompt": [{"role": "user", "content": f"{'my card ' * (i % 3)}{i}: {WORDS[i % 3]}"}],
            "chosen": [{"role": "assistant", "content": WORDS[i % 3]}],
            "rejected": [{"role": "assistant", "content": WORDS[(i + 1) % 3]}],
        }
        for i in range(number)
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, tiny: Model) -> Model:
    folder = tmp_path_factory.mktemp("sft")
    rows = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in preferences(12)]
    step = Sft(model=tiny, rows=[dataset(folder / "rows", rows)], epochs=1, learning_rate=1e-2)
    return step.run(TestJob(folder / "job"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("pairs"), preferences(12))


Run = Callable[..., tuple[Model, list[dict[str, Any]]]]


@pytest.fixture
def run(tmp_path: Path, sft: Model, pairs: Dataset) -> Run:
    """Train; (model, its curve)."""

    def train(kind: Any = Dpo, folder: str = "job", **settings: Any) -> Any:
        small = {"epochs": 4, "effective_batch_size": 4, "learning_rate": 1e-2}
        job = TestJob(tmp_path / folder, seed=1)
        step = kind(**{"model": sft, "rows": [pairs], "validation": pairs, **small, **settings})
        model = step.run(job)
        return model, json.loads((job.out / "curve.json").read_text())

    return train


@pytest.mark.quick
def test_dpo_makes_the_chosen_answer_likelier_than_the_rejected_one(run: Run) -> None:
    model, curve = run()
    measured = [p["eval_preference_accuracy"] for p in curve if "eval_loss" in p]
    assert measured[-1] > 0.9
    assert model.meta["eval_preference_accuracy"] > 0.9
    assert curve[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # nothing moved yet: -log 1/2


def test_an_adapter_is_gone_on_with_on_its_own_base(run: Run, sft: Model, tiny: Model) -> None:
    model, _ = run(epochs=1)
    assert model.refs == {"base": tiny}
    before, after = (m.file("adapter_config.json").read_text() for m in (sft, model))
    assert json.loads(before) == json.loads(after)
    weights = "adapter_model.safetensors"
    assert sft.file(weights).read_bytes() != model.file(weights).read_bytes()
    assert not any("ref" in p.name for p in model.path.iterdir())


def test_a_new_adapter_lies_on_the_merged_model(run: Run, sft: Model) -> None:
    model, curve = run(epochs=1, adapter="new", lora=Lora(r=2))
    assert model.refs == {"base": sft}
    assert curve[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_all_weights_are_compared_with_a_copy_of_the_model(run: Run) -> None:
    model, curve = run(epochs=1, lora=None, learning_rate=1e-3)
    assert model.refs == {}
    assert curve[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_the_same_seed_gives_the_same_bytes(run: Run) -> None:
    first, again = run(folder="one", epochs=1)[0], run(folder="two", epochs=1)[0]
    files = sorted(p.name for p in first.path.iterdir())
    assert all(first.file(f).read_bytes() == again.file(f).read_bytes() for f in files)


@pytest.mark.parametrize("rated", [pytest.param(True, marks=pytest.mark.quick), False])
def test_kto_learns_from_ratings_and_from_pairs(run: Run, tmp_path: Path, rated: bool) -> None:
    ratings = [
        {"prompt": r["prompt"], "completion": r[side], "label": side == "chosen"}
        for r in preferences(12)
        for side in ("chosen", "rejected")
    ]
    more = {"rows": [dataset(tmp_path / "rated", ratings)]} if rated else {}
    _, curve = run(Kto, **more)
    losses = [p["eval_loss"] for p in curve if "eval_loss" in p]
    assert losses[-1] < losses[0]


def test_the_loss_is_what_trl_itself_measures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import finery_trl.train.trainers

    _, ours = run(folder="ours", epochs=1)
    monkeypatch.setattr(
        finery_trl.train.trainers, "_score_only_answers", lambda model, longest: False
    )
    _, theirs = run(folder="theirs", epochs=1)
    for name in ("loss", "preference_accuracy", "reward_margin"):
        assert [p[name] for p in ours] == pytest.approx([p[name] for p in theirs], abs=2e-3)


def test_a_second_loss_keeps_the_chosen_answers_likely(run: Run) -> None:
    from finery_transformers.scoring import likelihoods

    def chosen(weight: float) -> float:
        model, _ = run(folder=f"weight-{weight}", sft_weight=weight)
        answered = [(row["prompt"], row["chosen"], None) for row in preferences(12)]
        return sum(found.logprob for found in likelihoods(model, answered, lambda *_: None))

    assert chosen(1.0) > chosen(0.0) + 1


def test_rows_to_learn_are_no_preferences(run: Run, tmp_path: Path) -> None:
    rows = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in preferences(2)]
    with pytest.raises(DataError, match="2 rows have no chosen and rejected answer"):
        run(rows=[dataset(tmp_path / "rows", rows)])
    with pytest.raises(DataError, match="2 rows have no rating"):
        run(Kto, rows=[dataset(tmp_path / "rows", rows)])


def test_a_pair_with_one_answer_too_long_is_left_out_whole(run: Run, tmp_path: Path) -> None:
    long = [{"role": "assistant", "content": "late " * 60}]
    rows = [{**preferences(1)[0], "rejected": long}, *preferences(4)]
    data = [dataset(tmp_path / "rows", rows)]
    model, _ = run(epochs=1, rows=data, max_length=64, too_long="drop")
    assert model.meta["rows"] == 4
    with pytest.raises(DataError, match=r"rows \(rejected\): 1 of 5 rows are longer"):
        run(folder="strict", epochs=1, rows=data, max_length=64)


def test_two_processes_validate_on_each_row_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith(FILE_MODULE)]:
        monkeypatch.delitem(sys.modules, name)  # files of other tests that no process could load
    rows = [dataset(tmp_path / "rows", preferences(8))]
    validation = dataset(tmp_path / "validation", preferences(13)[8:])
    settings: dict[str, Any] = {"rows": rows, "validation": validation, "dtype": "fp32"}
    curves = [
        run(folder=str(launch), epochs=1, launch=launch and Launch(processes=launch), **settings)[1]
        for launch in (None, 2)
    ]
    for name in ("loss", "eval_loss", "eval_preference_accuracy", "eval_reward_margin"):
        alone, shared = ([p[name] for p in curve if name in p] for curve in curves)
        assert alone == pytest.approx(shared, rel=1e-4)
        assert alone
