"""The settings that a training used: what its trainer and model have, and why that is no setting.

Read after the training, from the objects of TRL, transformers and PEFT that trained, so that a
value which got lost on the way to them is seen. Nothing here can change the model.
"""

from typing import TYPE_CHECKING, Any

from finery import outside_key
from finery_trl.train.checkpoints import last_whole, step_of
from finery_trl.train.schedule import Schedule

if TYPE_CHECKING:
    from finery_trl.settings import Training

USED = "settings"
"""The entry in a model's `runtime`, see `finery.Artifact`."""
LIBRARY_DEFAULTS = (
    "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon",
    "neftune_noise_alpha",
)  # fmt: skip
"""Arguments of TRL's configuration that change the model, and that people ask for."""
VALIDATED = ("eval_steps", "metric_for_best_model", "early_stopping_patience")
"""Settings that only matter with `validation` or `watch`."""
Used = dict[str, tuple[Any, str]]
"""Setting → (its value in the training, why that differs from what was asked)."""


@outside_key
def used_settings(step: "Training", schedule: Schedule, trainer: Any) -> Used:
    """What a trainer used, which has trained. Plain data, the same in each run."""
    args, model = trainer.args, trainer.model
    fields, last = type(step).__finery_fields__.items(), last_whole(schedule.folder)
    steps, processes = step_of(last) if last is not None else 0, args.world_size
    size, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    quantized: Any = getattr(model.config, "quantization_config", None)
    in_each = f" x {processes} processes" if processes > 1 else ""
    library = [n for n in LIBRARY_DEFAULTS if n not in step.args and hasattr(args, n)]
    values = {n: getattr(args, n) for n, info in fields if info.affects_output and hasattr(args, n)}
    values |= {f"args.{name}": getattr(args, name) for name in [*step.args, *library]}
    values |= {
        "epochs": round(steps / schedule.epoch_steps, 4),
        "effective_batch_size": size * accumulated * processes,
        "warmup_ratio": step.warmup_ratio and round(args.warmup_steps / schedule.steps, 4),
        "max_length": step.max_length,
        "eval_steps": schedule.validate,
        "dtype": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "quantization": getattr(quantized, "bnb_4bit_quant_type", None),
        "double_quantization": getattr(quantized, "bnb_4bit_use_double_quant", None),
        "merge": step.merge if quantized is not None else None,
        "adapter": "continue" if step.continues() else "new",
    }
    values |= {"packing": trainer.padding_free} if hasattr(step, "packing") else {}
    values |= {"launch.processes": processes} if step.launch is not None else {}
    validates = step.validation is not None or step.watch is not None
    values |= {} if validates else dict.fromkeys(VALIDATED)
    reasons = {f"args.{name}": "the library's default" for name in library} | {
        "epochs": f"{steps:,} optimizer steps; an epoch has {schedule.epoch_steps:,}",
        "effective_batch_size": f"{size} rows in memory x {accumulated}{in_each}",
        "max_length": f"the longest row has {schedule.longest:,} tokens",
    }
    defaults = {
        "per_device_train_batch_size": f"as many as fit in {step.batch_tokens:,} tokens",
        "warmup_steps": f"10, but at most a tenth of {schedule.steps:,} optimizer steps",
        "warmup_ratio": "`warmup_steps` decides",
        "eval_steps": "one validation per epoch",
    }
    reasons |= {name: why for name, why in defaults.items() if getattr(step, name) is None}
    if step.warmup_ratio is not None:
        reasons["warmup_steps"] = f"{step.warmup_ratio} of {schedule.steps:,} optimizer steps"
    if step.dtype == "auto":
        reasons["dtype"] = f"what this {'CPU' if args.use_cpu else 'GPU'} multiplies"
    if step.activation_offloading and not values.get("activation_offloading"):
        reasons["activation_offloading"] = "no effect without a GPU"
    if quantized is None:
        reasons |= dict.fromkeys(("double_quantization", "merge"), "nothing is quantized")
    if not validates:
        reasons |= dict.fromkeys(VALIDATED, "no `validation`: the last weights are kept")
    if values.get("packing") and not getattr(step, "packing", True):
        reasons["packing"] = "FlashAttention needs no padding"
    if step.adapter == "continue" and not step.continues():
        reasons["adapter"] = "`model` is no adapter"
    if step.lora is None:
        return _plain(values | {"lora": None}, reasons)
    made = next(iter(model.peft_config.values()))
    adapter = {f"lora.{name}": getattr(made, name) for name in type(step.lora).__finery_fields__}
    adapter["lora.target_modules"] = {n.rpartition(".")[2] for n in model.targeted_module_names}
    kept = "as the adapter has it that is trained further"
    about = dict.fromkeys(adapter, kept if step.continues() else "")
    if not step.continues():
        about["lora.target_modules"] = "the layers that match"
        about["lora.lora_alpha"] = "as r" if step.lora.lora_alpha is None else ""
    return _plain(values | adapter, reasons | about)


def _plain(values: dict[str, Any], reasons: dict[str, str]) -> Used:
    return {name: (_as_json(value), reasons.get(name, "")) for name, value in values.items()}


def _as_json(value: Any) -> Any:
    """A value of a configuration as JSON has it."""
    value = getattr(value, "value", value)  # an enumeration's
    if isinstance(value, set | tuple | list):
        values = [_as_json(each) for each in (sorted(value) if isinstance(value, set) else value)]
        return values[0] if len(values) == 1 else values
    return value if isinstance(value, str | int | float | bool | dict | None) else str(value)
