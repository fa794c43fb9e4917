"""A training that stops in one step and goes on in another ends like one that ran through."""

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import card_rows, tiny_llama

from finery import Dataset, Model, UsageError
from finery.testing import TestJob
from finery_trl.settings import Lora
from finery_trl.steps.sft import Sft

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

Inputs = tuple[Model, Dataset, Dataset]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs")
    return tiny_llama(folder / "model"), card_rows(folder / "rows"), card_rows(folder / "held")


def train(folder: Path, inputs: Inputs, **settings: Any) -> tuple[Model, TestJob]:
    model, rows, held_out = inputs
    job = TestJob(folder, seed=1)
    step = Sft(
        model=model,
        rows=[rows],
        validation=held_out,
        **{
            "epochs": 4,
            "effective_batch_size": 3,  # three optimizer steps an epoch, so stops are inside one
            "learning_rate": 3e-2,
            "lora": Lora(r=4, lora_dropout=0.1),
            **settings,
        },
    )
    return step.run(job), job


def files(job: TestJob) -> dict[str, bytes]:
    found = (p for p in job.out.rglob("*") if p.is_file())
    return {p.relative_to(job.out).as_posix(): p.read_bytes() for p in found}


@pytest.mark.parametrize("whole", [False, True], ids=["adapter", "all weights"])
def test_going_on_twice_gives_the_bytes_of_a_training_that_ran_through(
    tmp_path: Path, inputs: Inputs, whole: bool
) -> None:
    settings: dict[str, Any] = {"lora": None, "learning_rate": 1e-2} if whole else {}
    through, job = train(tmp_path / "through", inputs, **settings)
    first, stopped = train(tmp_path / "first", inputs, stop_at=0.35, **settings)
    second, _ = train(tmp_path / "second", inputs, stop_at=0.6, resume_from=first, **settings)
    last, resumed = train(tmp_path / "last", inputs, resume_from=second, **settings)
    assert (first.meta["steps"], second.meta["steps"], last.meta["steps"]) == (5, 8, 12)
    assert files(resumed) == files(job)
    assert last.meta == through.meta
    for name, content in files(stopped).items():
        assert str(tmp_path).encode() not in content, name
    assert b"runtime" not in files(stopped)["state/checkpoint-5/trainer_state.json"]


@pytest.mark.quick
def test_other_settings_or_a_finished_training_are_refused(tmp_path: Path, inputs: Inputs) -> None:
    first, _ = train(tmp_path / "first", inputs, stop_at=0.3)
    with pytest.raises(UsageError, match=r"another learning_rate: 0\.03, here 0\.01"):
        train(tmp_path / "other", inputs, resume_from=first, learning_rate=1e-2)
    with pytest.raises(UsageError, match=r"resume_from was stopped at 0\.3"):
        train(tmp_path / "back", inputs, resume_from=first, stop_at=0.2)
    with pytest.raises(UsageError, match="not a stopped training"):
        train(tmp_path / "finished", inputs, resume_from=inputs[0])


@pytest.mark.parametrize(("place", "what"), [(0, "model"), (1, "rows"), (2, "validation")])
def test_other_inputs_are_refused(
    tmp_path: Path, inputs: Inputs, monkeypatch: pytest.MonkeyPatch, place: int, what: str
) -> None:
    """Inputs of builds have digests, those of tests have none, so they get one."""
    first, _ = train(tmp_path / "first", inputs, stop_at=0.3)
    monkeypatch.setattr(inputs[place], "digest", "another")
    with pytest.raises(UsageError, match=f"has (an)?other {what}"):
        train(tmp_path / "next", inputs, resume_from=first)
