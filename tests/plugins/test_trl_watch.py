"""What evaluates the model in training: where its files are."""

from pathlib import Path

import pytest
from tiny_llama import tiny_llama

from finery import Dataset, File, Job, Metrics, Model, Step, UsageError
from finery.rows.report import Report, Score
from finery.testing import TestJob, dataset
from finery_eval.steps.preference import Preference
from finery_retention.retention import Retention
from finery_trl.rows.tokens import Tokens
from finery_trl.steps import Sft
from finery_trl.train.watch import watcher


class Half(Step, seeded=False):
    """Half of the rows are right, whichever they are."""

    def run(self, job: Job) -> Metrics:
        """Write the score."""
        return Metrics.write(job.out, Report(rows=2, scores={"model": {"accuracy": Score(0.5)}}))


def test_each_of_several_processes_has_files_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    model, job = tiny_llama(tmp_path / "model"), TestJob(tmp_path / "job")
    step = Sft(model=model, rows=[], watch=Half())
    watch = watcher(step, Tokens.of_model(model), torch.float32, job)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert watch(None, 3) == {"accuracy": 0.5}
    assert len(list(job.scratch.rglob("metrics.json"))) == 2


def test_an_evaluator_that_loads_models_itself_cannot_watch() -> None:
    model, rows = Model.placeholder("base"), Dataset.placeholder("rows")
    watch = Preference(models=[model], rows=rows)
    with pytest.raises(UsageError, match="loads finished models") as caught:
        Sft(model=model, rows=[rows], watch=watch).check()
    assert caught.value.where == "watch"


def test_tasks_of_retention_can_watch(tmp_path: Path) -> None:
    """Without a text, it only asks the model in training, whose format it doesn't know."""
    pytest.importorskip("reasoning_gym")
    rows = dataset(tmp_path / "rows", [{"prompt": "my card", "completion": "late"}] * 4)
    watch = Retention(
        models=[Model.placeholder("base")],
        text=File(["none"]),
        tasks=["sums"],
        items=5,
        shots=0,
    )
    model = tiny_llama(tmp_path / "model")
    step = Sft(model=model, rows=[rows], validation=rows, watch=watch, epochs=1)
    step.run(job := TestJob(tmp_path / "job"))
    assert list(job.scratch.glob("watch/*/metrics.json"))
