"""Dtypes, determinism and memory of trainings, as far as a CPU shows them."""

import math
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_llama import ANSWERS, card_rows, tiny_llama

from finery import Dataset, Model, StepError
from finery.testing import TestJob, dataset
from finery_transformers import hardware
from finery_trl.model.accelerators import Accelerators
from finery_trl.model.loading import Prepared, compute_dtype
from finery_trl.preflight import prove
from finery_trl.settings import Lora, Training
from finery_trl.steps import Dpo, Kto, Sft
from finery_trl.train import run
from finery_trl.train.callbacks import Callback, Overflow
from finery_trl.train.messages import check_half
from finery_trl.train.schedule import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return card_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return dataset(tmp_path_factory.mktemp("pairs"), [
        {
            "prompt": [{"role": "user", "content": f"{'my card ' * (i % 3)}{i}"}],
            "chosen": [{"role": "assistant", "content": ANSWERS[i % 3]}],
            "rejected": [{"role": "assistant", "content": ANSWERS[(i + 1) % 3]}],
        }
        for i in range(8)
    ])  # fmt: skip


SMALL: dict[str, Any] = {"epochs": 1, "effective_batch_size": 4, "learning_rate": 1e-2}


def trainer_of(step: Training, job: TestJob) -> tuple[Any, Any]:
    """(the trainer of a step, the rows as tokens)."""
    tokens, rows = run.read(step, job)
    schedule = Schedule.of_rows(step, rows.learned, job)
    return run._trainer(step, schedule, tokens, rows, job), rows


def test_packed_rows_are_verified_in_the_dtype_of_the_training(
    tiny: Model, data: Dataset, tmp_path: Path
) -> None:
    """All weights are trained in fp32, which FlashAttention takes only under autocast."""
    import torch

    from finery_trl.train.trainers import prove_apart

    step = Sft(model=tiny, rows=[data], lora=None, packing=True, dtype="bf16", **SMALL)
    trainer, rows = trainer_of(step, TestJob(tmp_path))
    attention = trainer.model.model.layers[0].self_attn
    dtypes = []
    attention.q_proj.register_forward_hook(lambda *given: dtypes.append(given[2].dtype))
    prove_apart(trainer, rows.learned)
    assert dtypes == [torch.bfloat16] * 2


@pytest.mark.parametrize("method", [Dpo, Kto])
def test_the_reference_is_loaded_in_the_compute_dtype(
    method: Any, tiny: Model, pairs: Dataset, tmp_path: Path
) -> None:
    import torch

    step = method(model=tiny, rows=[pairs], lora=None, dtype="bf16")
    prepared = Prepared.of(step, torch.bfloat16, 8, TestJob(tmp_path))
    assert prepared.reference.dtype is torch.bfloat16
    assert prepared.model.dtype is torch.float32


def test_a_reference_that_is_computed_before_is_not_loaded(
    tiny: Model, pairs: Dataset, tmp_path: Path
) -> None:
    """The losses are those of a training that keeps it."""
    losses = []
    for precomputed in (False, True):
        job = TestJob(tmp_path / str(precomputed))
        Dpo(
            model=tiny, rows=[pairs], validation=pairs, lora=None, dtype="fp32",
            precompute_ref_log_probs=precomputed, **SMALL,
        ).run(job)  # fmt: skip
        losses.append([e["value"] for e in job.events if e.get("name") in ("loss", "eval_loss")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    step = Dpo(model=tiny, rows=[pairs], lora=None, precompute_ref_log_probs=True)
    assert not step.keeps_reference


@pytest.fixture
def arguments(tiny: Model, data: Dataset, tmp_path: Path) -> Any:
    def of(dtype: Any, **settings: Any) -> dict[str, Any]:
        step = Sft(model=tiny, rows=[data], **SMALL, **settings)
        schedule = Schedule.of(step, 8, 20, TestJob(tmp_path))
        return run._arguments(step, schedule, dtype, Accelerators(), 1)

    return of


@pytest.mark.parametrize(("dtype", "machine", "expected"), [
    ("fp16", "bf16", "float16"), ("auto", "fp16", "float16"), ("auto", "bf16", "bfloat16"),
    ("bf16", "fp16", "bfloat16"), ("fp32", "fp16", "float32"),
])  # fmt: skip
def test_the_dtype_is_that_of_the_settings_or_of_the_machine(
    dtype: Any, machine: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("FINERY_AUTO_DTYPE", machine)
    step = Sft(model=Model.placeholder("m"), rows=[], dtype=dtype)
    assert compute_dtype(step) is getattr(torch, expected)


@pytest.mark.parametrize("dtype", ["fp16", "auto"])
def test_fp16_is_refused_without_a_gpu(
    dtype: Any, tiny: Model, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate has no scaler there and says nothing."""
    import torch

    monkeypatch.setenv("FINERY_AUTO_DTYPE", "fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    step = Sft(model=tiny, rows=[data], dtype=dtype, **SMALL)
    for refuse in (lambda: step.run(TestJob(tmp_path)), lambda: prove(step, TestJob(tmp_path), 1)):
        with pytest.raises(StepError, match="training in fp16 needs a GPU") as caught:
            refuse()
        assert caught.value.where == "dtype"
        assert bool(caught.value.details) == (dtype == "auto")
    check_half(Sft(model=tiny, rows=[data], dtype="fp32"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_half(step)


@pytest.mark.parametrize("lora", [Lora(), None])
def test_in_fp16_trained_weights_are_in_fp32(
    lora: Any, tiny: Model, data: Dataset, tmp_path: Path
) -> None:
    """The gradient scaler refuses gradients in fp16."""
    import torch

    step = Sft(model=tiny, rows=[data], dtype="fp16", lora=lora, **SMALL)
    trainer, _ = trainer_of(step, TestJob(tmp_path))
    trained = {p.dtype for p in trainer.model.parameters() if p.requires_grad}
    frozen = {p.dtype for p in trainer.model.parameters() if not p.requires_grad}
    assert trainer.args.fp16
    assert (trained, frozen) == ({torch.float32}, {torch.float16} if lora else set())


def test_fp16_trains_with_a_gradient_scaler(arguments: Any) -> None:
    import torch

    assert arguments(torch.float16)["fp16"]
    assert not arguments(torch.float16)["bf16"]
    assert not arguments(torch.bfloat16)["fp16"]


@pytest.mark.parametrize("fp16", [True, False])
def test_a_skipped_step_of_fp16_is_no_divergence(
    fp16: bool, tiny: Model, data: Dataset, tmp_path: Path
) -> None:
    job = TestJob(tmp_path)
    step = Sft(model=tiny, rows=[data], **SMALL)
    callback = Callback(step, Schedule.of(step, 8, 20, job), job, validates=False, watch=None)
    args, state = SimpleNamespace(fp16=fp16, learning_rate=1.0), SimpleNamespace(global_step=1)
    if fp16:
        callback.on_log(args, state, None, logs={"loss": 1.0, "grad_norm": math.inf})
    for logs in ({"loss": math.nan}, *([] if fp16 else [{"grad_norm": math.inf}])):
        with pytest.raises(StepError, match="training diverged") as caught:
            callback.on_log(args, state, None, logs=logs)
        assert ("dtype: fp32" in str(caught.value.fix)) == fp16


def stepped(overflow: Overflow, optimizer: Any, gradients: list[float], steps: int) -> None:
    """Take optimizer steps with these gradients, of a training with so many."""
    import torch

    (parameter,) = optimizer.param_groups[0]["params"]
    for step, gradient in enumerate(gradients, 1):
        loss = optimizer.scaler.scale(parameter.sum() * 0)
        loss.backward()
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        optimizer.zero_grad()
        overflow.after_step(optimizer, SimpleNamespace(global_step=step, max_steps=steps))


@pytest.fixture
def scaled() -> Any:
    """accelerate's optimizer with a gradient scaler, as trainings in fp16 have it on a GPU."""
    import torch
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)
    parameter = torch.nn.Parameter(torch.zeros(2))
    return AcceleratedOptimizer(torch.optim.AdamW([parameter]), scaler=torch.amp.GradScaler("cpu"))


def test_a_training_ends_that_fp16_is_too_narrow_for(scaled: Any, tmp_path: Path) -> None:
    job, inf = TestJob(tmp_path), math.inf
    with pytest.raises(StepError, match="overflowed in 20 optimizer steps in a row, up to step 22"):
        stepped(Overflow(job), scaled, [1.0, 1.0, *[inf] * 30], 100)
    assert scaled.scaler.get_scale() < 1
    with pytest.raises(StepError, match="in 3 optimizer steps in a row") as caught:
        stepped(Overflow(job), scaled, [inf] * 3, 3)
    assert "dtype: fp32, or dtype: bf16 on a GPU with compute capability 8.0" in str(
        caught.value.fix
    )


READING = ("item", "tolist", "cpu", "numpy", "__int__", "__float__", "__bool__")
"""Methods of tensors for which the CPU waits until a GPU has computed them."""


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts by package the calls for which the CPU would wait, while a trainer trains."""
    import sys

    import torch
    from transformers import Trainer

    calls: Counter[str] = Counter()
    packages = ("finery_trl", "trl", "transformers", "accelerate")

    def counting(name: str) -> Any:
        whole = getattr(torch.Tensor, name)

        def read(self: Any, *rest: Any, **named: Any) -> Any:
            path = Path(sys._getframe(1).f_code.co_filename).parts
            calls[next((p for p in packages if p in path), "others")] += 1
            return whole(self, *rest, **named)

        return read

    train = Trainer.train

    def counted(self: Any, *rest: Any, **named: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            for name in READING:
                patch.setattr(torch.Tensor, name, counting(name))
            return train(self, *rest, **named)

    monkeypatch.setattr(Trainer, "train", counted)
    return calls


@pytest.mark.parametrize(
    "method", [Sft, *(pytest.param(m, marks=pytest.mark.slow) for m in (Dpo, Kto))]
)
def test_finery_waits_for_a_gpu_once_a_step_and_not_in_each_batch(
    method: type[Training], tiny: Model, data: Dataset, pairs: Dataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, readers: Any,
) -> None:  # fmt: skip
    from finery_trl.train import trainers

    # What trainings do on a GPU, where the whole head is fused.
    monkeypatch.setattr(trainers, "_score_only_answers", lambda *_: False)
    monkeypatch.setattr(trainers.SftTrainer, "_is_on_gpu", lambda _: True)
    rows = [data if method is Sft else pairs]
    counts = []
    for size in (4, 2):
        readers.clear()
        step = method(
            model=tiny, rows=rows, epochs=1, effective_batch_size=4,
            per_device_train_batch_size=size,
        )  # fmt: skip
        model = step.run(TestJob(tmp_path / str(size)))
        assert readers["finery_trl"] == model.meta["steps"]  # the tokens of all batches
        counts.append(readers["trl"])
    if method is Sft:
        assert counts == [0, 0]
    else:  # TRL takes its statistics from each batch
        assert counts[1] > counts[0] > 0, counts


def test_kernels_are_strictly_deterministic(
    tiny: Model, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a warning only, torch takes backward passes of attention that aren't."""
    import torch

    chosen = []
    use = torch.use_deterministic_algorithms

    def remember(mode: bool, *, warn_only: bool = False) -> None:
        chosen.append((mode, warn_only))
        use(mode, warn_only=warn_only)

    monkeypatch.delenv("FLASH_ATTENTION_DETERMINISTIC", raising=False)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", remember)
    model = Sft(model=tiny, rows=[data], **SMALL).run(TestJob(tmp_path))
    assert chosen == [(True, False), (False, False)]
    hardware.add_facts(model)
    assert model.runtime["hardware"]["deterministic"]
    assert os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"


def test_the_model_knows_its_speed_and_memory_outside_of_its_identity(
    tiny: Model, data: Dataset, tmp_path: Path
) -> None:
    facts = Sft(model=tiny, rows=[data], **SMALL).run(TestJob(tmp_path)).runtime["training"]
    assert facts["tokens_per_second"] > 0
    assert facts["peak_memory"] > 2**20


def test_an_optimizer_with_states_in_8_bits_trains(
    tiny: Model, data: Dataset, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    step = Sft(model=tiny, rows=[data], lora=None, optim="adamw_8bit", **SMALL)
    assert "bitsandbytes" in step.cache_key().packages
    assert step.run(TestJob(tmp_path)).meta["steps"] == 2
