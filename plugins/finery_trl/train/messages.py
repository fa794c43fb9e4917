"""What finery says about a training before it starts, and when resources run out.

The checks compare the settings with this machine and with what finery can save, so that a training
that can't end never starts: it would fail after hours, or in a library. Nothing here can change a
model. Imports torch inside functions.
"""

import errno
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery import File, Job, StepError, UsageError, outside_key
from finery_transformers.formats import base_name
from finery_transformers.hardware import accelerator, is_out_of_memory
from finery_trl.model.loading import compute_dtype
from finery_trl.settings import count_gpus
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens
    from finery_trl.settings import Training


@outside_key
def training_notes(step: "Training", schedule: Schedule, tokens: "Tokens") -> list[str]:
    """Notes on a training as a whole, whatever its rows.

    On settings that need more optimizer steps than it has, and on a chat template that writes
    today's date.
    """
    from finery_transformers.dates import writes_date

    notes = []
    validates = step.validation is not None or step.watch is not None
    if validates and step.eval_steps is not None and step.eval_steps > schedule.steps:
        notes.append(
            f"eval_steps is {step.eval_steps}, but the training has {schedule.steps} optimizer "
            "steps: its only validation is at the end"
        )
    date = writes_date(tokens.template) if type(step).__spec__.learns != "text" else None
    if date is None:
        return notes
    name = base_name(step.model)
    whose = f"the chat template of {name}" if name else "the model's chat template"
    fix = (
        f"`chat_template_kwargs: {{{date.argument}: {json.dumps(date.today)}}}`"
        if date.argument
        else "`chat_template: ./chat.jinja`, a copy of the template with a fixed date,"
    )
    return [
        *notes,
        f"{whose} writes today's date ({date.today}) in prompts: the model learns the day of its "
        f"training and is used on others, and a training on another day differs. Set {fix} on the "
        "model to write the same date everywhere",
    ]


@outside_key
def exhaustion(error: BaseException, step: "Training", schedule: Schedule) -> StepError | None:
    """The error to show if memory or disk space ran out, None for any other error."""
    text = str(error).strip()
    if is_out_of_memory(error):
        return StepError(
            f"not enough memory for {schedule.size} rows of up to {schedule.longest} tokens at "
            "once",
            details=text.splitlines()[:1],
            fix=", or ".join(
                [*ways_to_save(step, schedule.size), "a lower max_length", "a smaller model"]
            ),
        )
    cause: BaseException | None = error
    while cause is not None:  # an error, and those during whose handling it was raised
        if _lacks_space(cause):
            return StepError(
                "no disk space left for a checkpoint",
                where=str(schedule.folder),
                fix="free some space and build again: the training continues from its last "
                "checkpoint",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _lacks_space(error: BaseException) -> bool:
    # The file writer of torch has no exception class of its own; the second text follows the first
    # one, and sometimes comes alone (the disk is full when a file is closed).
    text = str(error)
    written = "file write failed" in text or "unexpected pos" in text
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or written


@outside_key
def ways_to_save(step: "Training", size: int, *, can_page: bool = False) -> list[str]:
    """Settings with which a training needs less memory. size: rows in memory at once.

    can_page: whether the states of its optimizer can be moved to main memory.
    """
    ways = [f"per_device_train_batch_size: {size // 2}"] if size > 1 else []
    ways += [] if step.gradient_checkpointing else ["gradient_checkpointing: true"]
    if step.lora is not None:
        return ways + (["quantization: nf4"] if step.quantization is None else [])
    ways += ["optim: paged_adamw_8bit"] if can_page and not step.optim.startswith("paged") else []
    return [*ways, "an adapter instead of all weights (lora: {})"]


PROCESSES = "launch.processes"
CONFIG = "launch.config"
FILE = "deepspeed_config_file"
"""Accelerate's name for a file for DeepSpeed. finery would see no change of a file named there."""
ZERO_2 = "zero_stage: 2, or FSDP with fsdp_version: 2 and fsdp_state_dict_type: FULL_STATE_DICT"


@outside_key
def check_processes(step: "Training", job: Job) -> None:
    """Raise `StepError` if there are fewer GPUs than processes. CPUs are shared."""
    gpus = count_gpus()
    count = step.processes // (step.nodes if job.on_nodes else 1)
    if gpus and count > gpus:
        fix = (
            "processes: auto takes all visible GPUs; gpus of the step and CUDA_VISIBLE_DEVICES "
            "decide which are"
        )
        if count > step.processes // step.nodes:
            fix = f"build with the executor slurm or ray, which give the step {step.nodes} machines"
        raise StepError(
            f"{count} processes need {count} GPUs, but this machine shows {gpus}",
            where=PROCESSES,
            fix=fix,
        )


@outside_key
def processes_note(step: "Training") -> str | None:
    """A line for the log about how many processes `auto` resolves to."""
    if step.launch is None or step.launch.processes != "auto":
        return None
    gpus = count_gpus()
    if step.processes == gpus:
        return f"training on all {gpus} visible GPUs" if gpus > 1 else "training on the only GPU"
    if not gpus:
        return "there is no GPU that torch can use: training in one process"
    return (
        f"training on {step.processes} of {gpus} visible GPUs, since effective_batch_size "
        f"{step.effective_batch_size} must be a multiple of them"
    )


@outside_key
def check_optimizer(step: "Training") -> None:
    """Raise `StepError` if the optimizer needs what this machine lacks."""
    device = accelerator()
    if device == "mps" and (step.quantization is not None or step.optim_needs_bitsandbytes):
        setting = "optim" if step.quantization is None else "quantization"
        raise StepError(
            f"{setting}: {getattr(step, setting)} needs bitsandbytes, which doesn't train on "
            "Apple's GPUs",
            where=setting,
            fix="remove it: the weights then have 16 or 32 bits; or build on a machine with an "
            "NVIDIA or AMD GPU",
        )
    if not step.optim_needs_bitsandbytes:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StepError(
            f"optim: {step.optim} needs bitsandbytes, which isn't installed",
            where="optim",
            fix="pip install 'finery[train]'",
        )
    if step.optim.startswith("paged") and device != "cuda":
        raise StepError(
            f"optim: {step.optim} moves memory between a GPU and the CPU, and there is no GPU",
            where="optim",
            fix="remove it, or optim: adamw_8bit",
        )


@outside_key
def check_half(step: "Training") -> None:
    """Raise `StepError` for fp16 without a GPU.

    accelerate has autocast and a gradient scaler for fp16 only there, and leaves them out elsewhere
    without an error. Small gradients would become zero.
    """
    import torch

    if accelerator() != "cpu" or compute_dtype(step) is not torch.float16:
        return
    decided = "FINERY_AUTO_DTYPE or a GPU that torch can't use decided that dtype: auto is fp16"
    raise StepError(
        "training in fp16 needs a GPU for its gradient scaler, and torch finds none",
        where="dtype",
        details=[decided] if step.dtype == "auto" else [],
        fix="dtype: fp32, or build on a machine with a GPU",
    )


@outside_key
def check_sharding(step: "Training") -> None:
    """Raise `StepError` if a training can't work with its `launch.config`."""
    if step.launch is None or step.launch.config is None or not step.launch.config.paths:
        return
    config = _read(step.launch.config.path)
    if int(config.get("num_machines") or 1) > 1:
        raise _unsuitable(
            f"num_machines is {config['num_machines']}, but the recipe decides that",
            f"num_machines: 1, and in the recipe launch.nodes: {config['num_machines']}",
        )
    kind = str(config.get("distributed_type", "")).upper()
    if kind == "FSDP":
        _check_fsdp(config.get("fsdp_config") or {}, step)
    elif kind == "DEEPSPEED":
        _check_deepspeed(config.get("deepspeed_config") or {}, step, step.launch.deepspeed)
    if kind != "DEEPSPEED" and step.launch.deepspeed is not None:
        raise _unsuitable(
            f"distributed_type is {kind or 'missing'}, so launch.deepspeed would be ignored",
            "distributed_type: DEEPSPEED, or remove launch.deepspeed",
        )


def _unsuitable(reason: str, fix: str) -> StepError:
    return StepError(reason, where=CONFIG, fix=fix)


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path.name} isn't YAML: {error}", where=CONFIG) from error
    if not isinstance(config, dict):
        raise UsageError(
            f"{path.name} isn't a configuration of accelerate",
            where=CONFIG,
            fix="create one with `accelerate config --config_file fsdp.yaml`",
        )
    return config


def _check_fsdp(fsdp: Mapping[str, Any], step: "Training") -> None:
    if step.quantization is not None:
        raise _unsuitable(
            "FSDP can't spread 4-bit weights, so each process would hold all of them anyway",
            "remove launch.config: each process then trains with its own copy",
        )
    first = int(fsdp.get("fsdp_version") or 1) == 1
    if first and step.lora is not None:
        raise _unsuitable(
            "FSDP 1 joins the weights of a layer into one tensor of one dtype, but the adapter is "
            "in fp32 and its base in the compute dtype",
            "fsdp_version: 2, see `accelerate to-fsdp2`",
        )
    default = "FULL_STATE_DICT" if first else "SHARDED_STATE_DICT"
    saved = str(fsdp.get("fsdp_state_dict_type") or default).upper()
    if saved != "FULL_STATE_DICT":
        raise _unsuitable(
            f"fsdp_state_dict_type {saved} saves parts of the weights, from which finery can't "
            "write the model",
            "fsdp_state_dict_type: FULL_STATE_DICT",
        )


def _check_deepspeed(deepspeed: Mapping[str, Any], step: "Training", file: File | None) -> None:
    if deepspeed.get(FILE):
        raise _unsuitable(
            f"{FILE} names a file that isn't in the recipe, so a change of it would not repeat the "
            "training",
            f"remove {FILE}, and add the file to the recipe: launch.deepspeed: {deepspeed[FILE]}",
        )
    stage, gathers = _zero(deepspeed, file)
    if stage != 3:
        return
    if step.lora is not None:
        raise _unsuitable(
            "ZeRO-3 fails on weights of different dtypes, but the adapter is in fp32 and its base "
            "in the compute dtype",
            ZERO_2,
        )
    if not gathers:
        raise _unsuitable(
            "ZeRO-3 would save parts of the weights, from which finery can't write the model",
            "zero3_save_16bit_model: true (in a file for DeepSpeed, "
            "stage3_gather_16bit_weights_on_model_save)",
        )


def _zero(deepspeed: Mapping[str, Any], file: File | None) -> tuple[int, bool]:
    """(stage, whether checkpoints contain all weights); 0 if a file can't be read here."""
    if file is None:
        gathers = str(deepspeed.get("zero3_save_16bit_model", False)).lower() == "true"
        return int(deepspeed.get("zero_stage", 2)), gathers
    try:
        zero = json.loads(file.path.read_text(encoding="utf-8")).get("zero_optimization") or {}
    except (OSError, ValueError, AttributeError):
        return 0, True  # DeepSpeed's own error says what is wrong with it
    return int(zero.get("stage", 0)), bool(zero.get("stage3_gather_16bit_weights_on_model_save"))
