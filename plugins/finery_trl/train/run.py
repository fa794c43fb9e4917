"""One training run: from examples to checkpoints in the job's scratch folder."""

import errno
import gc
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import Job, Model, StepError
from finery.rows import Row
from finery_trl.model.accelerated import Accelerated
from finery_trl.model.targets import check_targets
from finery_trl.preflight import count
from finery_trl.rows.control import Control
from finery_trl.rows.pairs import Pair
from finery_trl.rows.tokens import Tokens
from finery_trl.settings import Proven
from finery_trl.train.checkpoints import chosen, exhausted, history_of, last_whole, step_of
from finery_trl.train.plan import Plan
from finery_trl.train.watch import check_watched, watcher

if TYPE_CHECKING:
    import torch

    from finery_trl.settings import Training


class Trained(NamedTuple):
    """What a training left.

    checkpoint: the folder of the weights to ship. last: of the last ones, whose history is whole.
    parameters: of the model without an adapter. trainable: of those that were trained.
    """

    checkpoint: Path
    last: Path
    parameters: int
    trainable: int


class Rows(NamedTuple):
    """The rows of a training, in tokens and proven, and those held out for validation."""

    learned: list[Proven]
    held_out: list[Proven] | None


def run(step: "Training", job: Job) -> Model:
    """Read and prove the rows, train on them, write the model."""
    from finery_trl.train.launch import launch
    from finery_trl.train.output import write_model

    check_targets(step)
    tokens, rows = read(step, job)
    check_watched(step, job)
    for name, proven in zip(("rows", "validation"), rows, strict=True):
        if proven is not None:
            job.log(count(name, proven).line())
    plan = Plan.of_rows(step, rows.learned, job)
    for note in plan.notes(step):
        job.log(note)
    last_whole(plan.folder)  # and remove what isn't whole, before several processes look
    several = step.launch is not None
    counts = launch(step, job) if several else _train(step, plan, tokens, rows, job)
    best = chosen(plan.folder, step.best)
    last = last_whole(plan.folder)
    assert last is not None  # `chosen` found one
    return write_model(step, Trained(best, last, *counts), tokens, rows.learned, job)


def read(step: "Training", job: Job) -> tuple[Tokens, Rows]:
    """The rows in tokens, proven. Raises `DataError` and `StepError` naming those that aren't."""
    from finery_transformers.loading import load_tokenizer, template_arguments

    tokens = Tokens.of(load_tokenizer(step.model), template_arguments(step.model))
    job.progress(0, 1, "reading rows")
    every = (row for dataset in step.rows for row in dataset)
    learned = _read(step, "rows", every, tokens, job)
    held_out = None
    if step.validation is not None:
        held_out = _read(step, "validation", step.validation, tokens, job)
    return tokens, Rows(learned, held_out)


def _read(
    step: "Training", name: str, rows: Iterable[Row], tokens: Tokens, job: Job
) -> list[Proven]:
    control = Control(tokens.tokenizer)
    found = list(step.read(control.watch(rows), tokens, job, name))
    for note in control.notes():
        job.log(f"{name}: {note}")
    return found


def train_here(step: "Training", job: Job) -> tuple[int, int]:
    """One process of several: train on its share; (parameters, trained ones)."""
    tokens, rows = read(step, job)
    return _train(step, Plan.of_rows(step, rows.learned, job), tokens, rows, job)


def _train(step: "Training", plan: Plan, tokens: Tokens, rows: Rows, job: Job) -> tuple[int, int]:
    """Train to the end, from the last whole checkpoint there is; (parameters, trained ones).

    Raises `StepError` where the loss diverges, or where memory or disk don't suffice.
    """
    with _surroundings(step, plan):
        job.progress(0, plan.steps, "loading the model")
        trainer = _trainer(step, plan, tokens, rows, job)
        prove_batches(trainer, rows.learned, tokens)
        if getattr(trainer, "padding_free", False):
            prove_apart(trainer, rows.learned)
        last = last_whole(plan.folder)
        if last is not None:
            job.log(f"going on from optimizer step {step_of(last)} of {plan.steps}")
        if last is None or not _is_over(last, plan, step):
            with _without_input_casts(trainer.model, step):
                trainer.train(resume_from_checkpoint=str(last) if last else None)
        return _counts(trainer.model, adapter=step.lora is not None)


def _is_over(last: Path, plan: Plan, step: "Training") -> bool:
    """Whether a checkpoint is the last one: transformers would train a step too many from it."""
    stopped = exhausted(history_of(last), step.best, step.early_stopping_patience)
    return stopped or step_of(last) >= plan.steps


def _trainer(step: "Training", plan: Plan, tokens: Tokens, rows: Rows, job: Job) -> Any:
    from finery_trl.train.course import Course, Rhythm

    dtype = arithmetic(step)
    made, config, own = step.trainer()
    rhythm = Rhythm(
        epoch=plan.epoch_steps,
        validate=step.eval_steps or plan.epoch_steps,
        save=step.save_steps,
        report=step.logging_steps,
        patience=step.early_stopping_patience,
    )
    model = step.prepare(dtype, plan.longest, job)
    here = step.accelerated(dtype)
    if here.flash and "padding_free" in own:
        own["padding_free"] = True
    trainer = made(
        rows.learned,
        rows.held_out,
        Course(
            job,
            rhythm,
            validates=rows.held_out is not None,
            watch=watcher(step, tokens, dtype, job),
            best=step.best,
        ),
        model=model.model,
        args=config(**_arguments(step, plan, dtype, here, job.seed), **own),
        processing_class=tokens.tokenizer,
        peft_config=model.peft_config,
        **({"ref_model": model.reference} if model.reference is not None else {}),
    )
    model.keep_masters(trainer.model)
    return trainer


def _arguments(
    step: "Training", plan: Plan, dtype: "torch.dtype", here: Accelerated, seed: int
) -> dict[str, Any]:
    """What all of TRL's configurations take."""
    import torch

    from finery_trl.train.trackers import tracking

    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(plan.folder),
        "seed": seed,
        "num_train_epochs": step.epochs,
        "learning_rate": step.learning_rate,
        "lr_scheduler_type": step.lr_scheduler_type,
        "warmup_steps": step.warmup(plan.steps),
        "per_device_train_batch_size": plan.size,
        "per_device_eval_batch_size": plan.size,
        "gradient_accumulation_steps": plan.accumulated,
        "weight_decay": step.weight_decay,
        "max_grad_norm": step.max_grad_norm,
        "gradient_checkpointing": step.gradient_checkpointing,
        "optim": "adamw_torch_fused",  # one kernel, on CPUs too
        "use_liger_kernel": here.liger,
        "bf16": dtype is torch.bfloat16,
        "use_cpu": not on_gpu,
        "dataloader_pin_memory": on_gpu,
        "max_length": None,  # the rows' length is proven, none is ever cut
        "eval_strategy": "no",  # `Course` decides when to validate and to save
        "save_strategy": "no",
        "logging_steps": 1,  # for the curve, which mustn't depend on how often the job reports
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "ddp_find_unused_parameters": False,
        **tracking(step),
    }


def arithmetic(step: "Training") -> "torch.dtype":
    """The dtype that the step multiplies in."""
    import torch

    from finery_transformers.loading import default_dtype

    return {"auto": default_dtype(), "bf16": torch.bfloat16, "fp32": torch.float32}[step.dtype]


def prove_batches(trainer: Any, examples: Sequence[Proven], tokens: Tokens) -> None:
    """Look at all batches of the first epoch as the model will get them, before it does.

    Each row's loss must lie on the tokens themselves, begin behind the first one and end with an
    end of turn, and no loss may get lost or be added on the way.
    """
    import torch

    found = rows = 0
    with torch.random.fork_rng():  # a data loader draws from torch's random state
        for batch in trainer.get_train_dataloader():
            for ids, learned in trainer.learned(batch):
                if not learned or learned[0] == 0 or ids[learned[-1]] not in tokens.ends:
                    raise StepError(
                        "a batch isn't what its rows say; the collator of this TRL doesn't fit",
                        details=[repr(tokens.tokenizer.decode(ids))],
                        fix="install a version of trl that finery is tested with",
                    )
                found, rows = found + len(learned), rows + 1
    sequences = sum(2 if isinstance(e, Pair) else 1 for e in examples)
    if trainer.accelerator.num_processes > 1:  # each has its share, evened out
        return
    expected = sum(e.loss_tokens for e in examples)
    if (rows, found) != (sequences, expected):
        raise StepError(
            f"an epoch has {rows} sequences with {found} loss tokens, not {sequences} with "
            f"{expected}",
            fix="install a version of trl that finery is tested with",
        )


def prove_apart(trainer: Any, examples: Sequence[Proven]) -> None:
    """Ask the model for a row behind two different neighbours: its logits mustn't differ.

    Rows that are packed are told apart by their positions alone, which an attention has to heed.
    """
    import torch

    columns = sorted((e.columns()["input_ids"] for e in examples), key=len)
    row, neighbour = columns[0], columns[-1]
    model = trainer.model
    asked = []
    for other in (neighbour, neighbour[::-1]):
        ids = torch.tensor([[*other, *row]], device=model.device)
        places = torch.tensor([[*range(len(other)), *range(len(row))]], device=model.device)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            logits = model(input_ids=ids, position_ids=places, use_cache=False).logits
        asked.append(logits[0, len(other) :].float())
    # Bit-equal on most kernels; a contaminated row differs by far more than rounding.
    if (asked[0] - asked[1]).abs().max() > 0.01 * asked[0].abs().max():
        raise StepError(
            "packing would let rows see their neighbours: this model's attention doesn't keep "
            "the rows of a sequence apart",
            fix="packing: false",
        )


@contextmanager
def _surroundings(step: "Training", plan: Plan) -> Iterator[None]:
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


def _explained(error: Exception, step: "Training", plan: Plan) -> StepError | None:
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


def _advice(step: "Training", size: int) -> str:
    ways = [f"per_device_train_batch_size: {size // 2}"] if size > 1 else []
    ways += [] if step.gradient_checkpointing else ["gradient_checkpointing: true"]
    ways += [] if step.lora else ["an adapter instead of all weights (lora: {})"]
    return ", or ".join([*ways, "a lower max_length", "a smaller model"])


@contextmanager
def _without_input_casts(model: Any, step: "Training") -> Iterator[None]:
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
    # Beside the adapter that is trained lies its start, as DPO's reference.
    own = (p for name, p in model.named_parameters() if ".ref." not in name)
    sizes = [(_size(p), p.requires_grad) for p in own]
    trainable = sum(n for n, learns in sizes if learns)
    return sum(n for n, _ in sizes) - (trainable if adapter else 0), trainable


def _size(parameter: Any) -> int:
    """How many weights it holds; bitsandbytes packs two in a byte."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else math.prod(state.shape))
