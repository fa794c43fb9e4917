"""TRL as its documentation shows it, on the rows and the model of the check `sft`."""

import time
from typing import Any

from gpu import models, rows
from gpu.check import Facts, Place
from gpu.checks.trainings import STEPS, sizes, tokens


def sft(place: Place) -> Facts:
    """Ten steps of LoRA in bf16 without checkpointing, in the largest batch that fits."""
    import torch

    for size in sizes(place):
        try:
            return {**_trained(place, size), "rows_at_once": size}
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        torch.cuda.empty_cache()
    raise AssertionError


def _trained(place: Place, size: int) -> Facts:
    import torch

    trainer = _trainer(place, size)
    on_gpu = place.device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    clock = _clock(trainer)
    trainer.train()
    facts: Facts = {"tokens_per_second": round(clock["tokens"] / clock["seconds"])}
    if on_gpu:
        facts["peak_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    return {**facts, "steps": trainer.state.global_step}


def _clock(trainer: Any) -> dict[str, float]:
    """Seconds of optimizer steps and tokens of rows in them, counted as finery counts its own."""
    import torch
    from transformers import TrainerCallback

    clock = {"tokens": 0.0, "seconds": 0.0, "began": 0.0}
    step = trainer.training_step

    def counted(model: Any, inputs: Any, *more: Any) -> Any:
        clock["tokens"] += float(inputs["attention_mask"].sum())
        return step(model, inputs, *more)

    class Timer(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock["began"] = time.perf_counter()

        def on_optimizer_step(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock["seconds"] += time.perf_counter() - clock["began"]

    trainer.training_step = counted
    trainer.add_callback(Timer())
    return clock


def _trainer(place: Place, size: int) -> Any:
    from datasets import Dataset  # type: ignore[import-untyped]
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    data = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows.answer_rows(STEPS * size, tokens(place))
    ]
    config: dict[str, Any] = {
        "output_dir": str(place.folder / "trl"),
        "per_device_train_batch_size": size,
        "max_steps": STEPS,
        "learning_rate": 2e-4,
        "bf16": True,
        "use_cpu": place.device == "cpu",
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "bfloat16"},
    }
    adapter = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=str(models.model(place, "large")),
        args=SFTConfig(**config),
        train_dataset=Dataset.from_list(data),
        peft_config=adapter,
    )
