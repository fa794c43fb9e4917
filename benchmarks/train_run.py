"""One part of `benchmarks/train.py`, in a process and an environment of its own.

    python benchmarks/train_run.py PART JOB.json

Parts: `prepare`, `convert`, `trl`, `llamafactory`, `loss`, `profile`. The job is what `train.py` or
`quality.py` wrote down.
Only the trainers' own packages are needed for `trl` and `llamafactory`.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]
TOP = 25
"""Operations that a profile shows."""


def prepare(job: Job) -> None:
    """Turn the GGUF into a Hugging Face folder, unless it is there; count the rows' tokens."""
    if not (Path(job["model"]) / "config.json").exists():
        convert(job)
    sets = ("train", "validation", "test")
    lengths = {name: [len(e.tokens) for e in _examples(job, name)] for name in sets}
    longest = max(n for found in lengths.values() for n in found)
    _write(job["facts"], {"tokens": sum(lengths["train"]), "longest": longest})


def convert(job: Job) -> None:
    """Turn the GGUF into a Hugging Face folder."""
    from finery import Model
    from finery_transformers.loading import load_merged

    gguf = Path(job["gguf"])
    model, tokenizer = load_merged(Model(gguf.parent, meta={"format": "gguf", "file": gguf.name}))
    model.save_pretrained(job["model"])
    tokenizer.save_pretrained(job["model"])


def trl(job: Job) -> None:
    """Train as TRL's documentation shows it: rows with prompt and completion, and an adapter."""
    import torch
    from datasets import load_dataset  # type: ignore[import-untyped]
    from peft import LoraConfig
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    files = {name: job[name] for name in ("train", "validation") if name in job}
    rows = load_dataset("json", data_files=files, cache_dir=f"{job['out']}/cache")
    trainer = SFTTrainer(
        model=job["model"],
        args=SFTConfig(
            **_arguments(job),
            max_length=job["max_length"],
            bf16=job["dtype"] != "fp32",
            gradient_checkpointing=job["gradient_checkpointing"],
            use_cpu=not torch.cuda.is_available(),
            model_init_kwargs={"dtype": "bfloat16" if job["dtype"] == "bf16" else "float32"},
        ),
        train_dataset=rows["train"],
        eval_dataset=rows.get("validation"),
        peft_config=LoraConfig(
            r=job["r"],
            lora_alpha=job["lora_alpha"],
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        callbacks=[_clock(job["course"])],
    )
    trainer.train()
    trainer.save_model(job["out"])


def llamafactory(job: Job) -> None:
    """Train with LLaMA-Factory: the same settings by its names for them."""
    import torch

    try:
        import torchaudio  # type: ignore[import-not-found]  # noqa: F401
    except (ImportError, OSError):
        # LLaMA-Factory imports it for speech alone, and it doesn't load beside torch for the CPU.
        sys.modules["torchaudio"] = module_from_spec(ModuleSpec("torchaudio", None))
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found]

    settings = {
        **_arguments(job),
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": job["model"],
        "finetuning_type": "lora",
        "lora_rank": job["r"],
        "lora_alpha": job["lora_alpha"],
        "lora_target": "all",
        "dataset_dir": job["dataset_dir"],
        "dataset": "train",
        "eval_dataset": "validation",
        "template": "smollm2",
        "cutoff_len": job["max_length"],
        "bf16": job["dtype"] != "fp32",
        "disable_gradient_checkpointing": not job["gradient_checkpointing"],
        "use_cpu": not torch.cuda.is_available(),
        "overwrite_cache": True,
    }
    run_exp(settings, callbacks=[_clock(job["course"])])


def loss(job: Job) -> None:
    """The validation loss of each adapter, all by one measure.

    In nats: the mean negative log-likelihood over all tokens of the completions up to the end of
    the turn, row by row without padding, in fp32.
    """
    import torch

    from finery import Model
    from finery_transformers.loading import load_model

    base = Model(Path(job["model"]), meta={"format": "transformers"})
    found = {}
    for name, folder in job["adapters"].items():
        adapter = Model(Path(folder), meta={"format": "adapter"}, refs={"base": base})
        model, total, count = load_model(adapter, torch.float32), 0.0, 0
        for example in _examples(job, "validation"):
            tokens, n = torch.tensor([example.tokens]), example.loss_tokens
            with torch.inference_mode():
                logits = model(tokens).logits[0, -n - 1 : -1]
            losses = torch.nn.functional.cross_entropy(logits, tokens[0, -n:], reduction="sum")
            total, count = total + float(losses), count + n
        found[name] = total / count
    _write(job["losses"], found)


def profile(job: Job) -> None:
    """Print the operations that take most of a short training's time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    run = trl if job["tool"] == "trl" else _finery
    with profiler(activities=[ProfilerActivity.CPU]) as measured:
        run(job)
    print(measured.key_averages().table(sort_by="self_cpu_time_total", row_limit=TOP))


def _finery(job: Job) -> None:
    """The step by itself, without a build around it, so that the profiler sees its process."""
    from finery import Model
    from finery.testing import TestJob, dataset
    from finery_trl.settings import Lora
    from finery_trl.steps import Sft

    out = Path(job["out"])
    step = Sft(
        model=Model(Path(job["model"]), meta={"format": "transformers"}),
        rows=[dataset(out / "train", _rows(job["train"]))],
        validation=dataset(out / "validation", _rows(job["validation"])),
        lora=Lora(r=job["r"], lora_alpha=job["lora_alpha"]),
        epochs=job["epochs"],
        learning_rate=job["learning_rate"],
        effective_batch_size=job["size"] * job["accumulation"],
        per_device_train_batch_size=job["size"],
    )
    step.run(TestJob(out / "job", seed=job["seed"]))


def _arguments(job: Job) -> dict[str, Any]:
    """What both trainers call by transformers' names."""
    return {
        "output_dir": job["out"],
        "seed": job["seed"],
        "num_train_epochs": job["epochs"],
        "learning_rate": job["learning_rate"],
        "lr_scheduler_type": "cosine",
        "warmup_steps": job["warmup_steps"],
        "per_device_train_batch_size": job["size"],
        "per_device_eval_batch_size": job["size"],
        "gradient_accumulation_steps": job["accumulation"],
        "eval_strategy": "epoch" if "validation" in job else "no",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
    }


def _clock(file: str) -> Any:
    """A callback that writes down when training began, steps ended and validation was done."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.events: list[tuple[float, str, float]] = []

        def note(self, kind: str, value: float = 0.0) -> None:
            self.events.append((time.time(), kind, value))

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.note("begin")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.note("step")

        def on_log(self, args: Any, state: Any, control: Any, **context: Any) -> None:
            if "eval_loss" in context["logs"]:
                self.note("validated", context["logs"]["eval_loss"])

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            _write(file, self.events)

    return Clock()


def _examples(job: Job, name: str) -> Any:
    from finery import Model
    from finery.testing import TestJob
    from finery_transformers.loading import load_tokenizer
    from finery_trl.rows.tokens import Reading, Tokens, examples_of

    model = Model(Path(job["model"]), meta={"format": "transformers"})
    tokens, limit = Tokens.of(load_tokenizer(model), {}), job["max_length"]
    rows = _rows(job[name])
    return examples_of(rows, Reading(tokens, TestJob(), name, limit))


def _rows(file: str) -> list[Any]:
    """Rows with an id each: their line number."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "id": str(n)} for n, line in enumerate(lines, 1)]


def _write(file: str, value: Any) -> None:
    Path(file).write_text(json.dumps(value), encoding="utf-8")


PARTS: dict[str, Callable[[Job], None]] = {
    "convert": convert,
    "prepare": prepare,
    "trl": trl,
    "llamafactory": llamafactory,
    "loss": loss,
    "profile": profile,
}

if __name__ == "__main__":
    part, path = sys.argv[1:]
    PARTS[part](json.loads(Path(path).read_text(encoding="utf-8")))
