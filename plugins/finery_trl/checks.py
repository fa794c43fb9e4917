"""Checks of a training's settings, as far as a recipe alone shows what is wrong.

`args` has arguments of TRL's configuration class that finery has no setting for. The class is read
from its source, since importing TRL takes seconds and `finery plan` checks a recipe in a fraction
of one.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from finery import UsageError
from finery.advanced import did_you_mean
from finery_trl.settings import ALL_LINEAR, TARGET_MODULES, Launch, Lora, Training

DECIDED = {
    "finery writes checkpoints and models itself": "output_dir save_* load_best_model_at_end "
    "resume_from_checkpoint restore_callback_states_from_checkpoint ignore_data_skip push_to_hub "
    "hub_* enable_jit_checkpoint",
    "`epochs`, `effective_batch_size` and `per_device_train_batch_size` decide it": "max_steps "
    "num_train_epochs gradient_accumulation_steps auto_find_batch_size per_device_eval_batch_size",
    "`dtype` decides it": "bf16* fp16* use_cpu",
    "`seed` of the step decides it": "seed data_seed full_determinism",
    "finery reads, verifies and orders the rows itself": "assistant_only_loss chat_template_path "
    "completion_only_loss dataloader_* dataset_* eos_token eval_packing label_names "
    "label_smoothing_factor length_column_name pad_* padding_free packing_strategy "
    "precompute_ref_batch_size remove_unused_columns shuffle_dataset train_sampling_strategy "
    "truncation_mode",
    "finery computes the loss, and `sft_weight` of trl.dpo adds another": "loss_type loss_weights",
    "finery validates and reports itself": "batch_eval_metrics debug disable_tqdm do_* eval_* "
    "greater_is_better include_* log_* logging_* prediction_loss_only project run_name "
    "skip_memory_metrics trackio_*",
    "the step's own settings and rows decide what is answered": "generation_batch_size "
    "steps_per_generation num_generations_eval chat_template_kwargs generation_kwargs sync_ref_* "
    "ref_model_* reward_weights max_tool_calling_iterations",
    "`launch` decides it": "accelerator_config average_tokens_across_devices ddp_* deepspeed fsdp* "
    "local_rank parallelism_config",
    "finery loads models itself": "activation_checkpointing* liger_kernel_config "
    "model_init_kwargs teacher_model_* trust_remote_code use_cache use_liger_kernel",
}  # fmt: skip
"""Why an argument is refused → patterns of names."""
PLAIN = {"bool": bool, "str": str, "dict": dict, "list": list}


def check_settings(step: Training) -> None:
    """Raise `UsageError` if settings contradict each other."""
    _check_batches(step)
    if step.launch is not None:
        _check_launch(step, step.launch)
    _check_adapter(step)
    _check_arguments(step)
    if step.warmup_steps is not None and step.warmup_ratio is not None:
        raise UsageError(
            "warmup_steps and warmup_ratio are both set",
            where="warmup_ratio",
            fix="remove one of them",
        )
    _check_best(step)


def _check_batches(step: Training) -> None:
    rows_per_update, each = step.effective_batch_size, step.per_device_train_batch_size or 1
    fixed = step.fewest_processes
    together = each * fixed
    if rows_per_update % together:
        parts = [f"per_device_train_batch_size {each}"] if each > 1 else []
        parts += [f"{fixed} processes"] if fixed > 1 else []
        raise UsageError(
            f"effective_batch_size {rows_per_update} is not a multiple of {' times '.join(parts)}",
            where="effective_batch_size",
            fix=f"effective_batch_size: {max(1, round(rows_per_update / together)) * together}",
        )


def _check_launch(step: Training, launch: Launch) -> None:
    if launch.nodes > 1 and (launch.processes == "auto" or launch.processes % launch.nodes):
        raise UsageError(
            f"launch.processes is {launch.processes}, which can't be divided among {launch.nodes} "
            "nodes",
            where="launch.processes",
            fix=f"write the number of all processes, e.g. {8 * launch.nodes}: 8 on each node",
        )
    if launch.config is None and launch.deepspeed is not None:
        raise UsageError(
            "launch.deepspeed needs a configuration file for accelerate",
            where="launch.deepspeed",
            fix="add launch.config: a file with `distributed_type: DEEPSPEED`",
        )
    if launch.config is not None and step.watch is not None:
        raise UsageError(
            "a watched evaluator needs the complete model, which may be spread over processes",
            where="watch",
            fix="remove watch or launch.config",
        )


def _check_best(step: Training) -> None:
    best, watched = step.best_by, []
    if step.watch is not None:
        if getattr(step.watch, "require", None):
            raise UsageError(
                "a watched evaluator can't have `require`: it doesn't stop the training",
                where="watch.require",
                fix="evaluate the trained model in a step of the section evaluate",
            )
        if step.watch.resources().gpus:  # for the files of models that it loads itself
            raise UsageError(
                "a watched evaluator asks the model in training; this one loads finished models",
                where="watch",
                fix="evaluate the trained model in a step of the section evaluate",
            )
        names: Callable[[], list[str]] = getattr(step.watch, "metric_names", list)
        watched = names()
    if best != "eval_loss" and best not in watched:
        raise UsageError(
            f"metric_for_best_model: nothing measures '{best}'",
            where="metric_for_best_model",
            fix=did_you_mean(best, ["eval_loss", *watched]),
        )
    if step.early_stopping_patience and best == "eval_loss" and step.validation is None:
        raise UsageError(
            "early_stopping_patience needs validations",
            where="early_stopping_patience",
            fix="add watch: an evaluator on held-out rows"
            if step.on_policy
            else "add validation: split.validation",
        )


def _check_adapter(step: Training) -> None:
    if step.lora is not None:
        _check_pattern(step.lora.target_modules)
        if step.continues() and step.lora != Lora():
            raise UsageError(
                "lora describes a new adapter, but the adapter in `model` is trained further",
                where="lora",
                fix="remove lora to train that adapter further, or set adapter: new to merge "
                "it and train a new one on top",
            )
        if step.merge != "16-bit" and step.quantization is None:
            raise UsageError(
                "merge: dequantized applies only to QLoRA adapters",
                where="merge",
                fix="remove it, or set quantization: nf4",
            )
        return
    if step.quantization is not None:
        raise UsageError(
            "quantized weights can't be trained: QLoRA trains an adapter on them",
            where="quantization",
            fix="remove `lora: null` or `quantization`",
        )


def _check_pattern(pattern: str | Sequence[str]) -> None:
    """Raise `UsageError` for an invalid regular expression or an empty list of layers."""
    if not pattern:
        raise UsageError(
            "target_modules is empty", where=TARGET_MODULES, fix=f"target_modules: {ALL_LINEAR}"
        )
    try:
        re.compile(pattern if isinstance(pattern, str) else "")
    except (re.error, RecursionError) as error:
        raise UsageError(
            f"target_modules: {pattern!r} is not a regular expression: {error}",
            where=TARGET_MODULES,
            fix="correct it, or list the names of layers",
        ) from None


def _check_arguments(step: Training) -> None:
    """Raise `UsageError` for an argument that the class lacks, or that finery sets.

    Values are checked against those annotations of the class that are plain types. If the package
    isn't installed, nothing is checked, because the step can't run anyway.
    """
    types = annotations_of(step.config) if step.args else {}
    for name, value in step.args.items():
        where = f"args.{name}"
        if name in step.__struct_fields__:
            fix = "write it next to `args`"
            raise UsageError(f"'{name}' is a setting of the step", where=where, fix=fix)
        for reason, patterns in DECIDED.items():
            if any(fnmatchcase(name, pattern) for pattern in patterns.split()):
                raise UsageError(f"'{name}' can't be set: {reason}", where=where, fix="remove it")
        if types and name not in types:
            problem = (
                f"{step.config.partition(':')[2]} of the installed TRL has no argument '{name}'"
            )
            raise UsageError(problem, where=where, fix=did_you_mean(name, types))
        if types and not _fits(value, ast.parse(types[name], mode="eval").body):
            raise UsageError(
                f"'{name}' expects {types[name]}, but is {value!r}", where=where, fix="correct it"
            )


@cache
def annotations_of(config: str) -> Mapping[str, str]:
    """Field → annotation of a dataclass and its bases, as `module:Class`; empty if not found."""
    module, _, name = config.partition(":")
    tree = _source(module)
    if tree is None:
        return {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            inherited: dict[str, str] = {}
            for base in reversed(node.bases):
                inherited |= annotations_of(f"{module}:{ast.unparse(base)}")
            own_arguments = {
                ast.unparse(field.target): ast.unparse(field.annotation)
                for field in node.body
                if isinstance(field, ast.AnnAssign)
            }
            return inherited | own_arguments
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            package = module.rsplit(".", node.level)[0] + "." if node.level else ""
            source = f"{package}{node.module}"
            return annotations_of(LAZY.get(f"{source}:{name}", f"{source}:{name}"))
    return {}


LAZY = {"transformers:TrainingArguments": "transformers.training_args:TrainingArguments"}
"""Names of a package that loads its modules when they are used."""


def _source(module: str) -> ast.Module | None:
    """A module's syntax tree, without importing it or its packages."""
    package, *attributes = module.split(".")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent.joinpath(*attributes).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8")) if path.is_file() else None


def _fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a value of a recipe has a type; also true if the type isn't a plain one."""
    match annotation:
        case ast.BinOp(op=ast.BitOr(), left=left, right=right):
            return _fits(value, left) or _fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id=name) if name in PLAIN:
            return isinstance(value, PLAIN[name])
        case ast.Subscript(value=ast.Name(id="Literal"), slice=ast.Tuple(elts=choices)):
            return value in [ast.literal_eval(choice) for choice in choices]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choice):
            return bool(value == ast.literal_eval(choice))
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(_fits(v, item) for v in value)
        case ast.Subscript(value=ast.Name(id="dict")):
            return isinstance(value, dict)
    return isinstance(value, str)  # the name of a member of an enumeration
