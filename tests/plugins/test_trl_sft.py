"""Supervised fine-tuning on a tiny model: it learns, repeats itself byte by byte, and resumes."""

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_llama

from finery import Dataset, Model, StepError, UsageError
from finery.rows import Row
from finery.step.inspect import FILE_MODULE
from finery.testing import TestJob, dataset
from finery_transformers import hardware
from finery_trl.settings import Launch, Lora
from finery_trl.steps import Sft

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

ANSWERS = ["late", "wrong", "card_arrival"]


def rows(number: int) -> list[Row]:
    """Questions of different lengths, whose answer is their last word."""
    return [
        {
            "prompt": [{"role": "user", "content": f"{'my card ' * (i % 5)}{i}: {ANSWERS[i % 3]}"}],
            "completion": [{"role": "assistant", "content": ANSWERS[i % 3]}],
        }
        for i in range(number)
    ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("rows"), rows(22))


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("validation"), rows(30)[22:])


Train = Callable[..., tuple[Model, TestJob]]


@pytest.fixture
def train(tmp_path: Path, tiny: Model, data: Dataset) -> Train:
    """Train and return (model, job); `folder` and `seed` are the job's, the rest are settings."""

    def run(folder: str = "job", seed: int = 1, **settings: Any) -> tuple[Model, TestJob]:
        job = TestJob(tmp_path / folder, seed=seed)
        small: dict[str, Any] = {
            "epochs": 1, "effective_batch_size": 8, "learning_rate": 1e-2,
        }  # fmt: skip
        return Sft(**{"model": tiny, "rows": [data], **small, **settings}).run(job), job

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def curve(job: TestJob) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = json.loads((job.out / "curve.json").read_text())
    return points


def metric(job: TestJob, name: str) -> list[tuple[float, float]]:
    return [(e["at"], e["value"]) for e in job.events if e.get("name") == name]


@pytest.mark.quick
def test_it_learns_to_answer_and_to_stop(train: Train, data: Dataset) -> None:
    model, job = train(epochs=40, lora=None)
    prompts = [row["prompt"] for row in data]
    answers = TestJob(seed=None).engine(model).generate(prompts, max_tokens=16)
    assert [a.text for a in answers] == [ANSWERS[i % 3] for i in range(22)]
    assert {a.finish_reason for a in answers} == {"stop"}
    assert curve(job)[-1]["loss"] < 0.1


def test_used_settings_are_those_of_the_trainer_and_the_adapter(
    train: Train, validation: Dataset
) -> None:
    model, _ = train(
        validation=validation, epochs=2, warmup_ratio=0.5, dtype="fp32", activation_offloading=True,
        lora=Lora(r=4, target_modules=["q_proj"]), args={"weight_decay": 0.5},
    )  # fmt: skip
    used = {name: value for name, (value, _) in model.runtime["settings"].items()}
    reasons = {name: why for name, (_, why) in model.runtime["settings"].items()}
    assert used["epochs"] == 2
    assert reasons["epochs"] == "6 optimizer steps; an epoch has 3"
    assert (used["warmup_steps"], reasons["warmup_steps"]) == (3, "0.5 of 6 optimizer steps")
    assert (used["lora.r"], used["lora.lora_alpha"]) == (4, 4)
    assert used["lora.target_modules"] == "q_proj"
    assert (used["activation_offloading"], used["dtype"]) == (False, "fp32")
    assert reasons["activation_offloading"] == "no effect without a GPU"
    assert (used["args.weight_decay"], reasons["args.weight_decay"]) == (0.5, "")
    assert reasons["args.max_grad_norm"] == "the library's default"
    assert used["eval_steps"] == 3


def test_used_settings_are_the_same_after_an_interruption(train: Train) -> None:
    """All of it was trained before, so that the trainer doesn't train."""
    first, job = train(epochs=2)
    shutil.rmtree(job.out)
    job.out.mkdir()
    again, _ = train(epochs=2)
    assert again.runtime["settings"] == first.runtime["settings"]


def test_an_adapter_has_its_base_tokenizer_and_facts(train: Train, tiny: Model) -> None:
    model, job = train()
    assert model.refs == {"base": tiny}
    assert sorted(files(job.out)) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chat_template.jinja",
        "curve.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert model.meta["format"] == "adapter"
    assert (model.meta["rows"], model.meta["steps"], model.meta["best_step"]) == (22, 3, 3)
    assert 0 < model.meta["trainable_parameters"] < model.meta["parameters"]
    assert 0 < model.meta["loss_tokens"] < model.meta["tokens"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    train: Train, validation: Dataset
) -> None:
    settings: dict[str, Any] = {"lora": Lora(lora_dropout=0.1), "validation": validation}
    first, again = train("one", **settings), train("two", logging_steps=2, save_steps=1, **settings)
    assert files(first[1].out) == files(again[1].out)
    assert first[0].meta == again[0].meta
    weights = "adapter_model.safetensors"
    other = files(train("three", seed=2, **settings)[1].out)
    assert other[weights] != files(first[1].out)[weights]


def test_the_curve_and_the_metrics_say_the_same(train: Train, validation: Dataset) -> None:
    _, job = train(epochs=2, validation=validation)
    points = curve(job)
    assert [p["step"] for p in points] == [1, 2, 3, 4, 5, 6]
    assert metric(job, "loss") == [(p["step"], p["loss"]) for p in points]
    assert metric(job, "learning_rate") == [(p["step"], p["learning_rate"]) for p in points]
    assert [p["step"] for p in points if "eval_loss" in p] == [3, 6]
    assert metric(job, "eval_loss") == [(p["step"], p["eval_loss"]) for p in points[2::3]]
    assert {k for p in points for k in p} == {"step", "epoch", "loss", "learning_rate", "eval_loss"}


def test_the_weights_with_the_lowest_validation_loss_are_kept(train: Train, tmp_path: Path) -> None:
    spoilt = rows(3)
    for row, answer in zip(spoilt, ["xyz", "qqq", "00000"], strict=True):
        row["completion"][0]["content"] = answer  # the better it learns, the worse for these
    held_out = dataset(tmp_path / "spoilt", spoilt)
    model, job = train(epochs=6, validation=held_out, learning_rate=3e-2, eval_steps=1)
    losses = {p["step"]: p["eval_loss"] for p in curve(job)}
    assert model.meta["best_step"] == min(losses, key=lambda step: losses[step]) < max(losses)
    kept = job.scratch / "checkpoints" / f"checkpoint-{model.meta['best_step']}"
    weights = "adapter_model.safetensors"
    assert (kept / weights).read_bytes() == (job.out / weights).read_bytes()


def test_all_weights_can_be_trained(train: Train, validation: Dataset) -> None:
    model, job = train(lora=None, validation=validation)
    assert model.meta["format"] == "transformers"
    assert model.refs == {}
    assert model.meta["trainable_parameters"] == model.meta["parameters"]
    assert {"model.safetensors", "config.json", "chat_template.jinja"} <= set(files(job.out))
    prompts = [row["prompt"] for row in validation]
    assert len(TestJob(seed=None).engine(model).generate(prompts, max_tokens=2)) == 8


def test_an_adapter_can_be_trained_on_an_adapter(train: Train) -> None:
    first, _ = train("first")
    second, _ = train("second", model=first)
    assert second.refs == {"base": first}
    prompt = rows(1)[0]["prompt"]
    assert len(TestJob(seed=None).engine(second).generate([prompt], max_tokens=2)) == 1


@pytest.mark.parametrize(
    "lora", [Lora(use_dora=True, target_modules=["q_proj"]), Lora(use_rslora=True, lora_alpha=32)]
)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_variants_of_lora_train(train: Train, lora: Lora, dtype: str) -> None:
    _, job = train(lora=lora, dtype=dtype, gradient_checkpointing=True)
    assert curve(job)[-1]["loss"] < curve(job)[0]["loss"]


def test_a_training_that_diverges_stops(train: Train) -> None:
    with pytest.raises(StepError, match="training diverged") as caught:
        train(lora=None, learning_rate=1e30, args={"max_grad_norm": 0.0}, epochs=3, dtype="fp32")
    assert "lower learning_rate (now 1e+30)" in str(caught.value.fix)


@pytest.mark.quick
def test_batch_sizes_that_do_not_divide_are_refused(tiny: Model, data: Dataset) -> None:
    step = Sft(model=tiny, rows=[data], effective_batch_size=10, per_device_train_batch_size=4)
    with pytest.raises(UsageError, match="10 is not a multiple of per_device_train_batch_size 4"):
        step.check()


def test_the_batch_size_follows_from_the_longest_row(tiny: Model, data: Dataset) -> None:
    step = Sft(model=tiny, rows=[data], effective_batch_size=12)
    assert [step.batch_size(longest) for longest in (10, 1400, 3000, 9000)] == [12, 4, 2, 1]


KILLED = """
import os, signal, sys
from importlib.util import find_spec
from pathlib import Path

from finery import Dataset, Model
from finery.testing import TestJob
from finery_trl.model.loading import Prepared
from finery_trl.settings import Launch, Lora
from finery_trl.steps import Sft


class Killed(TestJob):
    def progress(self, done, total, text=""):
        if (done, total) == (5, 9):
            os.kill(os.getpid(), signal.SIGKILL)


model, data, validation, job = map(Path, sys.argv[1:])
Sft(
    model=Model(model, meta={"format": "transformers", "name": "tiny"}),
    rows=[Dataset(data, meta={"rows": 22})],
    validation=Dataset(validation, meta={"rows": 8}),
    lora=Lora(lora_dropout=0.1),
    epochs=3,
    effective_batch_size=8,
    per_device_train_batch_size=4,
    learning_rate=1e-2,
    save_steps=2,
).run(Killed(job, seed=1))
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    train: Train, tmp_path: Path, tiny: Model, data: Dataset, validation: Dataset
) -> None:
    settings: dict[str, Any] = {
        "validation": validation, "lora": Lora(lora_dropout=0.1), "epochs": 3,
        "per_device_train_batch_size": 4, "save_steps": 2,
    }  # fmt: skip
    folders = [str(p) for p in (tiny.path, data.path, validation.path, tmp_path / "killed")]
    command = [sys.executable, "-c", KILLED, *folders]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env=environment, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    whole, job = train("whole", **settings)
    assert whole.meta["steps"] == 9
    # Two more ways to be cut off: at an epoch's end, and while a checkpoint was written.
    shutil.copytree(tmp_path / "killed", tmp_path / "half")
    os.truncate(tmp_path / "half/scratch/checkpoints/checkpoint-4/optimizer.pt", 100)
    for folder, step in (("killed", 4), ("half", 3)):
        model, resumed = train(folder, **settings)
        logged = [e["message"] for e in resumed.events if e["event"] == "log"]
        assert logged[-1] == f"continuing from optimizer step {step} of 9"
        assert logged[0].startswith("rows: 22 rows, ")
        assert files(resumed.out) == files(job.out)
        assert model.meta == whole.meta


def test_a_long_epoch_has_checkpoints(
    train: Train, tmp_path: Path, tiny: Model, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finery_trl.train import callbacks

    class Cut(TestJob):
        def progress(self, done: float, total: float, text: str = "") -> None:
            if (done, total) == (2, 3):
                raise KeyboardInterrupt

    _, whole = train("whole")
    monkeypatch.setattr(callbacks, "UNSAVED", 0.0)
    with pytest.raises(KeyboardInterrupt):
        Sft(
            model=tiny, rows=[data], epochs=1, effective_batch_size=8, learning_rate=1e-2
        ).run(Cut(tmp_path / "cut", seed=1))  # fmt: skip
    _, resumed = train("cut")
    logged = [e["message"] for e in resumed.events if e["event"] == "log"]
    assert logged[-1] == "continuing from optimizer step 1 of 3"
    assert files(resumed.out) == files(whole.out)


def test_a_training_cut_off_after_its_last_checkpoint_only_writes(train: Train) -> None:
    settings: dict[str, Any] = {"epochs": 1.5}
    model, job = train(**settings)
    before = files(job.out)
    shutil.rmtree(job.out)
    again, _ = train(**settings)
    assert files(job.out) == before
    assert (again.meta, again.meta["steps"]) == (model.meta, 5)


def test_training_can_go_on_with_an_adapter(train: Train, tiny: Model) -> None:
    first, _ = train("first")
    more, _ = train("second", model=first, adapter="continue")
    assert more.refs == {"base": tiny}
    assert files(first.path)["adapter_config.json"] == files(more.path)["adapter_config.json"]


def test_packed_rows_train_like_padded_ones(train: Train, validation: Dataset) -> None:
    settings: dict[str, Any] = {"validation": validation, "dtype": "fp32", "epochs": 2}
    _, padded = train("padded", **settings)
    _, packed = train("packed", packing=True, **settings)
    for name in ("loss", "eval_loss"):
        values = [[p[name] for p in curve(job) if name in p] for job in (padded, packed)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_packing_is_refused_where_rows_would_see_each_other(
    train: Train, tiny: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    honest = LlamaForCausalLM.forward

    def careless(self: Any, *args: Any, position_ids: Any = None, **named: Any) -> Any:
        return honest(self, *args, **named)

    careless.__signature__ = inspect.signature(honest)  # type: ignore[attr-defined]
    monkeypatch.setattr(LlamaForCausalLM, "forward", careless)
    with pytest.raises(StepError, match="packing"):
        train(packing=True)


def test_training_stops_early(train: Train, validation: Dataset) -> None:
    model, job = train(
        epochs=30, validation=validation, learning_rate=2.0, early_stopping_patience=2
    )
    losses = [p["eval_loss"] for p in curve(job) if "eval_loss" in p]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 30
    assert model.meta["best_step"] == 3 * (best + 1)
    assert model.meta["epochs"] == best + 3


def test_the_task_is_watched_and_picks_the_weights(train: Train, data: Dataset) -> None:
    from finery_eval.steps.exact import Exact

    asked = Model.placeholder("model")
    watch = Exact(models=[asked], rows=data, max_tokens=8)
    settings: dict[str, Any] = {"watch": watch, "metric_for_best_model": "accuracy"}
    model, job = train(epochs=12, lora=None, **settings)
    scores = {p["step"]: p["watch"]["accuracy"] for p in curve(job) if "watch" in p}
    assert list(scores) == [3 * n for n in range(1, 13)]
    assert scores[model.meta["best_step"]] == max(scores.values()) > 0
    assert metric(job, "watch.accuracy") == list(scores.items())


def test_watching_changes_no_weights(train: Train, data: Dataset) -> None:
    from finery_eval.steps.exact import Exact

    watch = Exact(models=[Model.placeholder("model")], rows=data, max_tokens=4)
    lora = Lora(lora_dropout=0.1)
    alone, watched = train("alone", lora=lora)[1], train("watched", lora=lora, watch=watch)[1]
    weights = "adapter_model.safetensors"
    assert files(alone.out)[weights] == files(watched.out)[weights]


@pytest.mark.quick
def test_nothing_chooses_by_what_nothing_measures(tiny: Model, data: Dataset) -> None:
    with pytest.raises(UsageError, match="nothing measures 'accuracy'"):
        Sft(model=tiny, rows=[data], metric_for_best_model="accuracy").check()


@pytest.fixture
def quantized(train: Train) -> Callable[..., tuple[Model, TestJob]]:
    """Train with 4-bit weights, in a model wide enough for bitsandbytes' blocks."""
    pytest.importorskip("bitsandbytes")
    return lambda folder="job", **settings: train(folder, quantization="nf4", **settings)


def test_qlora_trains_repeats_itself_and_says_how_it_is_merged(quantized: Any) -> None:
    model, job = quantized("one", epochs=3)
    again, _ = quantized("two", epochs=3)
    assert files(model.path) == files(again.path)
    assert curve(job)[-1]["loss"] < curve(job)[0]["loss"]
    assert model.meta["quantization"] == {"kind": "nf4", "double": True}
    assert model.meta["merge"] == "16-bit"


def test_a_qlora_adapter_is_merged_as_its_recipe_says(quantized: Any) -> None:
    import torch

    from finery_transformers.loading import load_model

    onto = {m: quantized(m, merge=m)[0] for m in ("16-bit", "dequantized")}
    merged = {m: load_model(model, torch.float32) for m, model in onto.items()}
    one, other = (m.model.layers[0].mlp.up_proj.weight for m in merged.values())
    assert not torch.equal(one, other)
    head = "model.embed_tokens.weight"
    same = [m.state_dict()[head] for m in merged.values()]
    assert torch.equal(*same)


def test_trackers_get_the_curve(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard isn't installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    _, plain = train("plain")
    _, job = train("job", report_to=["tensorboard"], tracking_dir=str(tmp_path / "runs"))
    found = EventAccumulator(str(tmp_path / "runs" / "tensorboard")).Reload()
    kept = [event.value for event in found.Scalars("train/loss")]
    assert kept == pytest.approx([p["loss"] for p in curve(job)], rel=1e-5)
    assert files(plain.out) == files(job.out)


@pytest.fixture
def no_plugin_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has the plugin files of one recipe; this process may have those of other tests."""
    for name in [name for name in sys.modules if name.startswith(FILE_MODULE)]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("no_plugin_files")
def test_two_processes_train_what_one_would(train: Train, tmp_path: Path) -> None:
    """Also the last optimizer step of an epoch, whose two rows leave one process without any.

    Nor are the five rows of the validation equal shares.
    """
    from safetensors.numpy import load_file

    data = [dataset(tmp_path / "rows", rows(18))]
    validation = dataset(tmp_path / "validation", rows(23)[18:])
    settings: dict[str, Any] = {"validation": validation, "dtype": "fp32", "epochs": 2}
    alone, job = train("alone", rows=data, **settings)
    hardware.forget()
    shared, both = train("shared", rows=data, launch=Launch(processes=2), **settings)
    hardware.add_facts(shared)  # of the processes, which loaded the model
    assert {"attention", "deterministic"} <= set(shared.runtime["hardware"])
    for name in ("loss", "eval_loss"):
        values = [[p[name] for p in curve(j) if name in p] for j in (job, both)]
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    one, two = (load_file(m.file("adapter_model.safetensors")) for m in (alone, shared))
    assert all(abs(one[name] - two[name]).max() < 1e-3 for name in one)
    assert metric(both, "loss")


@pytest.mark.usefixtures("no_plugin_files")
def test_an_error_in_one_of_several_processes_is_the_steps_error(train: Train) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e30, "args": {"max_grad_norm": 0.0}, "epochs": 3}
    with pytest.raises(StepError, match="training diverged"):
        train(launch=Launch(processes=2), lora=None, dtype="fp32", **settings)
