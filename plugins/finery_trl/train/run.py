"""One training run: from rows to checkpoints in the job's scratch folder to the model."""

import gc
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Dataset, Job, Model, outside_key
from finery_transformers.hardware import accelerator, explained, record
from finery_transformers.imports import import_peft
from finery_trl.model.loading import check_rows, check_targets, compute_dtype
from finery_trl.rows.example import Proven
from finery_trl.rows.remarks import Remarks, summary
from finery_trl.rows.tokens import Tokens, read_rows
from finery_trl.train.checkpoints import (
    chosen,
    exhausted,
    history_of,
    is_stopped,
    last_whole,
    step_of,
)
from finery_trl.train.effective import used_settings
from finery_trl.train.messages import (
    check_half,
    check_optimizer,
    check_processes,
    check_sharding,
    exhaustion,
    processes_note,
    training_notes,
)
from finery_trl.train.save import Outcome, Trained, write_model
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    import torch

    from finery_trl.model.accelerators import Accelerators
    from finery_trl.settings import Training
    from finery_trl.train.launch import Train


class Rows(NamedTuple):
    """The rows of a training as verified tokens, and those held out for validation."""

    learned: list[Proven]
    held_out: list[Proven] | None


def run(step: "Training", job: Job) -> Model:
    """Read and verify the rows, train on them, write the model."""
    check_processes(step, job)
    for check in (check_sharding, check_optimizer, check_half, check_targets):
        check(step)
    tokens, rows = read(step, job)
    for name, examples in zip(("rows", "validation"), rows, strict=True):
        if examples is not None:
            check_rows(name, examples, step.model)
            job.log(summary(name, examples).line())
    schedule = Schedule.of_rows(step, rows.learned, job)
    for note in training_notes(step, schedule, tokens):
        job.log(note)
    if (about := processes_note(step)) is not None:
        job.log(about)
    last_whole(schedule.folder)  # also removes incomplete ones, before several processes look
    if step.is_launched:
        outcome = _launched(train_here, step, job)
    else:
        outcome = _train(step, schedule, tokens, rows, job)
    best, last = chosen(schedule.folder, step.best_by), last_whole(schedule.folder)
    assert last is not None  # else `chosen` raised
    record(**outcome.hardware)
    return write_model(step, Trained(best, last, outcome), tokens, rows.learned, job)


def read(step: "Training", job: Job) -> tuple[Tokens, Rows]:
    """The rows as verified tokens. Raises `DataError` and `StepError` with the invalid rows."""
    tokens = Tokens.of_model(step.model)
    job.progress(0, 1, "reading rows")
    learned = _read(step, "rows", step.rows, tokens, job)
    validation = step.validation
    held_out = None if validation is None else _read(step, "validation", [validation], tokens, job)
    return tokens, Rows(learned, held_out)


def _read(
    step: "Training", name: str, datasets: Sequence[Dataset], tokens: Tokens, job: Job
) -> list[Proven]:
    remarks = Remarks(step, tokens)
    examples = list(read_rows(step, datasets, step.reading(tokens, job, name), remarks))
    for line in remarks.lines():
        job.log(f"{name}: {line}")
    return examples


def train_here(step: "Training", job: Job) -> Outcome:
    """Train on the share of this process, one of several."""
    tokens, rows = read(step, job)
    return _train(step, Schedule.of_rows(step, rows.learned, job), tokens, rows, job)


def _train(step: "Training", schedule: Schedule, tokens: Tokens, rows: Rows, job: Job) -> Outcome:
    """Train to the end, with deterministic kernels if all operations have them.

    Raises `StepError` if the loss diverges, or if memory or disk space runs out.
    """
    with explained(lambda error: exhaustion(error, step, schedule)):
        try:
            return _train_with(step, schedule, tokens, rows, job, strict=True)
        except RuntimeError as error:
            if "use_deterministic_algorithms(True" not in str(error):
                raise
            operation = str(error).strip().partition(" ")[0]
            job.log(
                f"{operation} has no deterministic kernel on this machine: a training with equal "
                "inputs can end with other digits"
            )
        # Outside of the handler, whose error holds the model in memory.
        return _train_with(step, schedule, tokens, rows, job, strict=False)


def _train_with(
    step: "Training", schedule: Schedule, tokens: Tokens, rows: Rows, job: Job, *, strict: bool
) -> Outcome:
    """Train from the last complete checkpoint. strict: only with deterministic kernels."""
    with deterministic(strict=strict):
        last = last_whole(schedule.folder)
        if last is not None:
            job.log(f"continuing from optimizer step {step_of(last)} of {schedule.steps}")
        job.progress(step_of(last) if last else 0, schedule.steps, "loading the model")
        select_gpu()
        trainer = _trainer(step, schedule, tokens, rows, job)
        counts = _counts(trainer.model, adapter=step.lora is not None)  # before they are sharded
        trainer.prove_rows(tokens)
        if last is None or not _is_over(last, schedule, step):
            with without_input_casts(trainer.model, step):
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        names = trainer.accelerators.names(padding_free=getattr(trainer, "padding_free", False))
        hardware: dict[str, Any] = {"deterministic": strict}
        if not trainer.accelerators.unsloth:  # it has its own attention
            hardware["attention"] = trainer.model.config._attn_implementation
        used = used_settings(step, schedule, trainer)
        return Outcome(*counts, names, trainer.progress.measured(), hardware, used)


@outside_key
def _launched(train: "Train", step: "Training", job: Job) -> Outcome:
    """Train in several processes; `cache_key` has the code of trainings that do."""
    from finery_trl.train.launch import launch

    return launch(train, step, job)


@outside_key
def _watcher(step: "Training", tokens: Tokens, dtype: "torch.dtype", job: Job) -> Any:
    """What measures `watch`; `cache_key` has the code of trainings with one."""
    from finery_trl.train.watch import watcher

    return watcher(step, tokens, dtype, job)


def select_gpu() -> None:
    """Make this process's GPU the current one. Without this, all processes load to the first."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def _is_over(last: Path, schedule: Schedule, step: "Training") -> bool:
    """Whether a checkpoint is the last one. transformers would train another step from it."""
    history = history_of(last)
    stopped = exhausted(history, step.best_by, step.early_stopping_patience)
    return stopped or is_stopped(history) or step_of(last) >= schedule.steps


def _trainer(step: "Training", schedule: Schedule, tokens: Tokens, rows: Rows, job: Job) -> Any:
    import_peft()
    from finery_trl.train.callbacks import Callback, Progress

    dtype = compute_dtype(step)
    trainer_class, config, own = step.trainer()
    model = step.prepare(dtype, schedule.longest, job)
    if model.accelerators.flash and "padding_free" in own:
        own["padding_free"] = True
    watch = None if step.watch is None else _watcher(step, tokens, dtype, job)
    callback = Callback(step, schedule, job, validates=rows.held_out is not None, watch=watch)
    common = _arguments(step, schedule, dtype, model.accelerators, job.seed)
    fields = config.__dataclass_fields__  # those of on-policy trainers lack some
    arguments = config(**step.args, **{k: v for k, v in common.items() if k in fields}, **own)
    # TRL refuses batches that are spread over all visible GPUs; `launch` has a process for each.
    arguments._n_gpu = min(1, arguments.n_gpu)
    trainer = trainer_class(
        rows.learned,
        rows.held_out,
        callback,
        model=model.model,
        args=arguments,
        processing_class=tokens.tokenizer,
        peft_config=model.peft_config,
        **({"ref_model": model.reference} if model.reference is not None else {}),
        **step.arguments(tokens, job),
    )
    trainer.progress = Progress(job, step.logging_steps, callback)
    trainer.add_callback(trainer.progress)
    trainer.accelerators = model.accelerators
    model.keep_masters(trainer.model)
    return trainer


def _arguments(
    step: "Training",
    schedule: Schedule,
    dtype: "torch.dtype",
    accelerators: "Accelerators",
    seed: int,
) -> dict[str, Any]:
    """The arguments that all configurations of TRL share."""
    import torch

    from finery_trl.train.callbacks import ready_trackers

    device = accelerator()
    on_gpu = device == "cuda"
    return {
        "output_dir": str(schedule.folder),
        "seed": seed,
        "num_train_epochs": step.epochs,
        "learning_rate": step.learning_rate,
        "lr_scheduler_type": step.lr_scheduler_type,
        "warmup_steps": step.warmup(schedule.steps),
        "per_device_train_batch_size": schedule.size,
        # A process that validates on all rows has the batches of a training in one process.
        "per_device_eval_batch_size": schedule.grouped if step.compares else schedule.size,
        "gradient_accumulation_steps": schedule.accumulated,
        "gradient_checkpointing": step.gradient_checkpointing,
        "activation_offloading": step.activation_offloading and on_gpu,
        "optim": step.optim,
        "use_liger_kernel": accelerators.liger,
        "bf16": dtype is torch.bfloat16,
        "fp16": dtype is torch.float16,  # with a gradient scaler
        "use_cpu": device == "cpu",
        # No worker loads ahead: a batch of 16 rows takes 1 to 3 ms, since they are tokens already.
        "dataloader_pin_memory": on_gpu,
        "max_length": None,  # lengths are checked before, and no row is truncated
        "eval_strategy": "no",  # `Callback` decides when to validate and to save
        "save_strategy": "no",
        "logging_steps": 1,  # for the curve, which must not depend on how often the job reports
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
        "report_to": ready_trackers(step) if step.report_to else "none",
    }


def _counts(model: Any, *, adapter: bool) -> tuple[int, int]:
    """(parameters of the model, trainable ones)."""
    # PEFT keeps the initial state of a continued adapter, the reference of DPO, as `.ref.`.
    own_parameters = (p for name, p in model.named_parameters() if ".ref." not in name)
    sizes = [(_size(p), p.requires_grad) for p in own_parameters]
    trainable = sum(size for size, learns in sizes if learns)
    return sum(size for size, _ in sizes) - (trainable if adapter else 0), trainable


def _size(parameter: Any) -> int:
    """The number of weights in a parameter; bitsandbytes packs two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else math.prod(state.shape))


VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
"""What cuBLAS needs and FlashAttention reads, unless the user has set them."""


@contextmanager
def deterministic(*, strict: bool) -> Iterator[None]:
    """Use deterministic kernels, and silence progress bars and warnings.

    Results are equal on one machine with one number of threads, since sums of floats depend on how
    they are split. strict: raise an error for an operation without such a kernel. Only then does
    torch choose the deterministic backward passes of its fused attention.
    """
    import torch

    from finery_transformers.loading import quiet

    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        gc.collect()
        if accelerator() == "cuda":
            torch.cuda.empty_cache()
        elif accelerator() == "mps":
            torch.mps.empty_cache()


@contextmanager
def without_input_casts(model: Any, step: "Training") -> Iterator[None]:
    """Keep PEFT from casting activations to the adapter's fp32, which autocast would cast back.

    Autocast matches the dtypes of inputs and weights itself. This is 5 % faster with equal results.
    """
    from peft.helpers import disable_input_dtype_casting

    with ExitStack() as stack:
        # DoRA multiplies tensors itself, for which autocast can't match the dtypes.
        if step.lora is not None and not step.lora.use_dora:
            stack.enter_context(disable_input_dtype_casting(model))
        yield
