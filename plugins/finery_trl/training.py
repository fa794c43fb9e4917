"""One training run: from examples to checkpoints in the job's scratch folder."""

import errno
import gc
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from finery import DataError, Job, StepError
from finery.errors import did_you_mean
from finery_trl.checkpoints import chosen, last_whole, step_of
from finery_trl.tokens import NO_LOSS, Example, Tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from finery_trl.sft import Sft


class Trained(NamedTuple):
    """What a training left.

    checkpoint: the folder of the weights to ship. last: of the last ones, whose history is whole.
    parameters: of the model without an adapter. trainable: of those that were trained.
    """

    checkpoint: Path
    last: Path
    parameters: int
    trainable: int


class Plan(NamedTuple):
    """The size of a training: rows in memory at once, optimizer steps an epoch and in all."""

    folder: Path
    size: int
    epoch_steps: int
    steps: int
    longest: int

    @classmethod
    def of(cls, step: "Sft", examples: Sequence[Example], job: Job) -> Self:
        """Count as transformers does; the last optimizer step of an epoch may be a small one."""
        longest = max(len(e.tokens) for e in examples)
        size = step.batch_size(longest)
        batches = math.ceil(len(examples) / size)
        epoch_steps = math.ceil(batches / (step.effective_batch_size // size))
        steps = math.ceil(epoch_steps * step.epochs)
        return cls(job.scratch / "checkpoints", size, epoch_steps, steps, longest)


def train(
    step: "Sft", tokens: Tokens, examples: list[Example], held_out: list[Example] | None, job: Job
) -> Trained:
    """Train to the end, from the last whole checkpoint in `job.scratch` if there is one.

    Raises `StepError` where the loss diverges, or where memory or disk don't suffice.
    """
    plan = Plan.of(step, examples, job)
    with _surroundings(step, plan):
        job.progress(0, plan.steps, "loading the model")
        trainer = _trainer(step, plan, tokens, examples, held_out, job)
        _prove_batches(trainer, examples, tokens)
        last = last_whole(plan.folder)
        if last is not None:
            job.log(f"going on from optimizer step {step_of(last)} of {plan.steps}")
        # transformers would train a step too many from a checkpoint at the very end.
        if last is None or step_of(last) < plan.steps:
            with _without_input_casts(trainer.model, step):
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        counts = _counts(trainer.model, adapter=step.lora is not None)
    best = chosen(plan.folder)
    return Trained(best, plan.folder / f"checkpoint-{plan.steps}", *counts)


def _trainer(
    step: "Sft",
    plan: Plan,
    tokens: Tokens,
    examples: list[Example],
    held_out: list[Example] | None,
    job: Job,
) -> Any:
    from finery_trl.trainer import Course, Trainer

    dtype = arithmetic(step)
    course = Course(
        job,
        epoch_steps=plan.epoch_steps,
        validates=held_out is not None,
        eval_steps=step.eval_steps,
        save_steps=step.save_steps,
        logging_steps=step.logging_steps,
    )
    return Trainer(
        examples,
        held_out,
        model=_model(step, dtype, plan.longest),
        args=_config(step, plan, dtype, job.seed),
        processing_class=tokens.tokenizer,
        peft_config=step.peft_config(),
        callbacks=[course],
    )


def _config(step: "Sft", plan: Plan, dtype: "torch.dtype", seed: int) -> Any:
    """TRL's configuration."""
    import torch
    from trl.trainer.sft_config import SFTConfig

    return SFTConfig(
        output_dir=str(plan.folder),
        seed=seed,
        num_train_epochs=step.epochs,
        learning_rate=step.learning_rate,
        lr_scheduler_type=step.lr_scheduler_type,
        warmup_steps=step.warmup(plan.steps),
        per_device_train_batch_size=plan.size,
        per_device_eval_batch_size=plan.size,
        gradient_accumulation_steps=step.effective_batch_size // plan.size,
        weight_decay=step.weight_decay,
        max_grad_norm=step.max_grad_norm,
        gradient_checkpointing=step.gradient_checkpointing,
        optim="adamw_torch",
        bf16=dtype is torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        max_length=None,  # the rows' length is proven, none is ever cut
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="no",  # `Course` decides when to validate and to save
        save_strategy="no",
        logging_steps=1,  # for the curve, which mustn't depend on how often the job reports
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )


def arithmetic(step: "Sft") -> "torch.dtype":
    """The dtype that the step multiplies in."""
    import torch

    from finery_transformers.loading import default_dtype

    return {"auto": default_dtype(), "bf16": torch.bfloat16, "fp32": torch.float32}[step.dtype]


def _model(step: "Sft", dtype: "torch.dtype", longest: int) -> "PreTrainedModel":
    """The model to train. Frozen weights are in `dtype`; those that are trained need 32 bits."""
    import torch

    from finery_transformers.loading import load_model

    model = load_model(step.model, torch.float32 if step.lora is None else dtype)
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and longest > context:
        raise DataError(
            f"the longest row has {longest} tokens, more than the model's context of {context}",
            fix=f"max_length: {context}, and too_long: drop to leave such rows out",
        )
    if step.lora is not None:
        _check_targets(model, step.lora.target_modules)
    return model


def _check_targets(model: "PreTrainedModel", wanted: str | Sequence[str]) -> None:
    if wanted == "all-linear":
        return
    import torch

    kinds = (torch.nn.Linear, torch.nn.Embedding)
    names = {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, kinds)}
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name.rpartition(".")[2] not in names:
            raise StepError(
                f"target_modules: the model has no layer '{name}'", fix=did_you_mean(name, names)
            )


def _prove_batches(trainer: Any, examples: Sequence[Example], tokens: Tokens) -> None:
    """Look at all batches of the first epoch as the model will get them, before it does.

    Each row's loss must lie on the tokens themselves, begin behind the first one and end with an
    end of turn, and no loss may get lost or be added on the way.
    """
    import torch

    found = rows = 0
    with torch.random.fork_rng():  # a data loader draws from torch's random state
        for batch in trainer.get_train_dataloader():
            for ids, labels in zip(
                batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True
            ):
                learned = [i for i, label in enumerate(labels) if label != NO_LOSS]
                if (
                    not learned
                    or learned[0] == 0
                    or ids[learned[-1]] not in tokens.ends
                    or any(ids[i] != labels[i] for i in learned)
                ):
                    raise StepError(
                        "a batch isn't what its rows say; the collator of this TRL doesn't fit",
                        details=[repr(tokens.tokenizer.decode(ids))],
                        fix="install a version of trl that finery is tested with",
                    )
                found, rows = found + len(learned), rows + 1
    expected = sum(e.loss_tokens for e in examples)
    if (rows, found) != (len(examples), expected):
        raise StepError(
            f"an epoch has {rows} rows with {found} loss tokens, not {len(examples)} with "
            f"{expected}",
            fix="install a version of trl that finery is tested with",
        )


@contextmanager
def _surroundings(step: "Sft", plan: Plan) -> Iterator[None]:
    """Deterministic kernels, no bars and warnings, and plain words where resources run out.

    Determinism holds for one machine and one number of threads: sums of floats depend on how
    they are split.
    """
    import torch

    from finery_transformers.loading import quiet

    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RuntimeError, MemoryError, OSError) as error:
        if (explained := _explained(error, step, plan)) is None:
            raise
        raise explained from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        gc.collect()


def _explained(error: Exception, step: "Sft", plan: Plan) -> StepError | None:
    """The error to show where memory or disk ran out, None for any other."""
    import torch

    text = str(error).strip()
    # The CPU's allocator and torch's file writer have no classes of their own.
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if known or "can't allocate memory" in text:
        return StepError(
            f"memory doesn't suffice for {plan.size} rows of up to {plan.longest} tokens at once",
            details=text.splitlines()[:1],
            fix=_advice(step, plan.size),
        )
    if getattr(error, "errno", None) == errno.ENOSPC or "file write failed" in text:
        return StepError(
            "no disk space left for a checkpoint",
            where=str(plan.folder),
            fix="free some and build again: the training goes on from its last whole checkpoint",
        )
    return None


def _advice(step: "Sft", size: int) -> str:
    ways = [f"per_device_train_batch_size: {size // 2}"] if size > 1 else []
    ways += [] if step.gradient_checkpointing else ["gradient_checkpointing: true"]
    ways += [] if step.lora else ["an adapter instead of all weights (lora: {})"]
    return ", or ".join([*ways, "a lower max_length", "a smaller model"])


@contextmanager
def _without_input_casts(model: Any, step: "Sft") -> Iterator[None]:
    """Keep PEFT from casting activations to the adapter's fp32 and autocast from casting back.

    Autocast brings input and weights together by itself; 5 % faster, the same numbers.
    """
    from peft.helpers import disable_input_dtype_casting

    with ExitStack() as stack:
        # DoRA multiplies by itself what autocast would have to bring together.
        if step.lora is not None and not step.lora.use_dora:
            stack.enter_context(disable_input_dtype_casting(model))
        yield


def _counts(model: Any, *, adapter: bool) -> tuple[int, int]:
    """(parameters of the model, of those that were trained)."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trainable = sum(n for n, learns in sizes if learns)
    return sum(n for n, _ in sizes) - (trainable if adapter else 0), trainable
