"""A training has the adapter that stock TRL trains from the same tokens, settings and seed."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset as Table  # type: ignore[import-untyped]
from tiny_llama import tiny_llama

from finery import Dataset, Model
from finery.rows import Row
from finery.testing import TestJob, dataset
from finery_trl.settings import Lora
from finery_trl.steps import Sft
from finery_trl.train.run import read

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, EPOCHS, SEED, RATE = 16, 6, 3, 1e-2
WORDS = ["late", "wrong", "card_arrival", "where is my card"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


def rows() -> list[Row]:
    """Answers of one to four words: the mean of the batches isn't the mean of the step."""
    return [
        {
            "prompt": [{"role": "user", "content": f"{'my card ' * (i % 5)}{i}"}],
            "completion": [{"role": "assistant", "content": " ".join(WORDS[: 1 + i // 4])}],
        }
        for i in range(ROWS)
    ]


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def stock(model: Model, examples: list[Any], out: Path, *, bf16: bool, size: int) -> dict[str, Any]:
    """The weights of an adapter that TRL's SFTTrainer trains, in the order of its own sampler."""
    import torch
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    columns = [
        {"input_ids": e.tokens, "completion_mask": [int(x != -100) for x in e.labels]}
        for e in examples
    ]
    trainer = SFTTrainer(
        model=str(model.path),
        args=SFTConfig(
            output_dir=str(out), seed=SEED, num_train_epochs=EPOCHS, learning_rate=RATE,
            lr_scheduler_type="cosine", warmup_steps=1, per_device_train_batch_size=size,
            gradient_accumulation_steps=ROWS // size, bf16=bf16, use_cpu=True,
            gradient_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True,
            completion_only_loss=True,
            model_init_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32},
        ),
        train_dataset=Table.from_list(columns),
        peft_config=LoraConfig(
            r=8, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out))
    return weights(out)


@pytest.mark.parametrize("size", [16, 4], ids=["one batch", "accumulated"])
@pytest.mark.parametrize("dtype", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_adapter_is_that_of_stock_trl(
    tiny: Model, tmp_path: Path, dtype: Any, size: int
) -> None:
    """With all rows in each optimizer step, the order of rows changes nothing but rounding."""
    table: Dataset = dataset(tmp_path / "rows", rows())
    job = TestJob(tmp_path / "job", seed=SEED)
    step = Sft(
        model=tiny, rows=[table], lora=Lora(r=8), epochs=EPOCHS, learning_rate=RATE, dtype=dtype,
        warmup_steps=1, effective_batch_size=ROWS, per_device_train_batch_size=size,
    )  # fmt: skip
    step.run(job)
    ours = weights(job.out)
    _, learned = read(step, TestJob(tmp_path / "reading", seed=SEED))
    theirs = stock(tiny, learned.learned, tmp_path / "stock", bf16=dtype == "bf16", size=size)
    assert ours.keys() == theirs.keys()
    far = max(
        float((weight.float() - theirs[name].float()).norm() / theirs[name].float().norm())
        for name, weight in ours.items()
    )
    # In bf16, each of the two is 0.08 from its own training in fp32.
    assert far < (1e-5 if dtype == "fp32" else 0.08)
