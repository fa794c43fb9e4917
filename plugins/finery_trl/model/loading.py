"""The model of a training for the trainer: frozen weights, adapter, reference."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from finery import DataError, Job, Model, UsageError, outside_key
from finery.advanced import nearest
from finery_local.facts import ModelFiles
from finery_transformers.loading import (
    base_of,
    default_dtype,
    load_adapter,
    load_model,
    load_quantized,
)
from finery_trl.model.accelerators import Accelerators
from finery_trl.settings import ALL_LINEAR, TARGET_MODULES

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from finery_trl.rows.example import Proven
    from finery_trl.settings import Training


class Prepared(NamedTuple):
    """A model for TRL.

    model: a plain model, or one with the adapter to train further. peft_config: of a new adapter.
    reference: the model that DPO compares with, if disabling an adapter doesn't yield it. masters:
    the weights of the adapter before TRL rounds them. accelerators: those that the model uses.
    """

    model: Any
    peft_config: "LoraConfig | None"
    reference: Any
    masters: "dict[str, torch.Tensor]"
    accelerators: Accelerators = Accelerators()

    @classmethod
    def of(cls, step: "Training", dtype: "torch.dtype", longest: int, job: Job) -> Self:
        """Load it: frozen weights in `dtype` or in 4 bits, trained weights in fp32.

        longest: tokens of the longest row. Raises `DataError` if the model's context is shorter.
        """
        continues = step.continues()
        model = _frozen(step, dtype, job)
        check_context(getattr(model.config, "max_position_embeddings", None), longest)
        accelerators = Accelerators.of(model, dtype, job)
        if continues:
            model = load_adapter(model, step.model, trainable=True)
        masters = {}
        if continues and step.quantization is not None:
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            masters = {n: p.detach().clone() for n, p in trained.items()}
        adapter = None if continues else step.peft_config()
        if adapter is not None:
            exclude_unadaptable(adapter, model)
        # An adapter can be switched off instead.
        copied = step.keeps_reference and step.lora is None
        reference = load_model(step.model, dtype) if copied else None
        return cls(model, adapter, reference, masters, accelerators)

    def keep_masters(self, trained: Any) -> None:
        """Restore trainable weights to fp32 if TRL rounded them to bf16.

        TRL rounds an adapter on 4-bit weights to save memory, which would lose updates that are
        too small for bf16.
        """
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                parameter.data = self.masters.get(name, parameter.data).float()


def _frozen(step: "Training", dtype: "torch.dtype", job: Job) -> "PreTrainedModel":
    """The model without the adapter to train; the whole model if there is none."""
    import torch

    under = base_of(step.model) if step.continues() else step.model
    if step.quantization is not None:
        return load_quantized(
            under, dtype, job.scratch, kind=step.quantization, double=step.double_quantization
        )
    return load_model(under, torch.float32 if step.lora is None else dtype)


@outside_key
def check_rows(name: str, rows: "Iterable[Proven]", model: Model) -> None:
    """Raise `DataError` if the longest row has more tokens than the model's context.

    name: of the rows in the error.
    """
    check_context(ModelFiles(model).context, max(row.size for row in rows), name)


@outside_key
def check_context(context: int | None, longest: int, name: str = "") -> None:
    """Raise `DataError` if the longest row has more tokens than the model's context.

    name: of the rows in the error.
    """
    if context is not None and longest > context:
        rows = f"{name}: " if name else ""
        raise DataError(
            f"{rows}the longest row has {longest} tokens, more than the model's context of "
            f"{context}",
            fix=f"max_length: {context}, and too_long: drop to drop longer rows",
        )


def compute_dtype(step: "Training") -> "torch.dtype":
    """The dtype of frozen weights and of matrix products."""
    import torch

    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return default_dtype() if step.dtype == "auto" else named[step.dtype]


# -- which layers an adapter takes -----------------------------------------------------------------


MAMBA = frozenset(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"))
"""Model types with a layer that computes with the weights of `OUTPUT` directly, past an adapter, so
that PEFT refuses one there."""
OUTPUT = "out_proj"


@outside_key
def check_targets(step: "Training") -> None:
    """Raise `UsageError` if `target_modules`, or a name in it, matches no layer of the model.

    Reads only the model's configuration.
    """
    if step.lora is None or step.lora.target_modules == ALL_LINEAR:
        return
    from finery_transformers.loading import load_skeleton

    skeleton = load_skeleton(step.model)
    targets, layers = step.lora.target_modules, layers_of(skeleton)
    if isinstance(targets, str):
        unknown = [] if matched(targets, layers) else [targets]
    else:
        unknown = [name for name in targets if not matched([name], layers)]
    if unknown:
        raise _unmatched(unknown, layers, pattern=isinstance(targets, str))
    refused = [layer for layer in matched(targets, layers) if layer.rpartition(".")[2] == OUTPUT]
    if refused and skeleton.config.model_type in MAMBA:
        raise UsageError(
            f"target_modules: '{OUTPUT}' of a Mamba layer can't have an adapter",
            where=TARGET_MODULES,
            details=[f"it matches {refused[0]}"],
            fix=f"remove it, or set target_modules: {ALL_LINEAR}, which leaves it out",
        )


def exclude_unadaptable(config: "LoraConfig", model: "PreTrainedModel") -> None:
    """Have all-linear leave out the layers of Mamba blocks that can't have an adapter."""
    if config.target_modules == ALL_LINEAR and model.config.model_type in MAMBA:
        config.exclude_modules = [OUTPUT]


def matched(targets: str | Sequence[str], layers: Iterable[str]) -> list[str]:
    """The layers, given by their paths, that `target_modules` matches.

    As in PEFT, a name matches layers with this path or a path that ends with `.name`, and a string
    matches full paths. `ALL_LINEAR` isn't resolved here, since it depends on the model's classes.
    """
    if isinstance(targets, str):
        return [layer for layer in layers if re.fullmatch(targets, layer)]
    ends = tuple(f".{name}" for name in targets)
    return [layer for layer in layers if f".{layer}".endswith(ends)]


def layers_of(model: "PreTrainedModel") -> dict[str, bool]:
    """Each layer that can get an adapter → whether it is a linear layer in the model's blocks."""
    import torch
    from transformers.pytorch_utils import Conv1D

    linear = (torch.nn.Linear, Conv1D)
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        name: isinstance(layer, linear) and layer is not head
        for name, layer in model.named_modules()
        if isinstance(layer, (*linear, torch.nn.Embedding))
    }


def _unmatched(unknown: Sequence[str], layers: dict[str, bool], *, pattern: bool) -> UsageError:
    names = sorted({layer.rpartition(".")[2] for layer, linear in layers.items() if linear})
    named = ", ".join(f"'{name}'" for name in unknown)
    if pattern:
        problem = f"target_modules: the pattern {named} matches the full path of no layer"
        is_name = unknown[0] in names
        fix = f"write it as a list: [{unknown[0]}]" if is_name else rf"e.g. '.*\.{names[0]}'"
    else:
        problem = f"target_modules: the model has no layer {named}"
        close = nearest(unknown[0], names)
        fix = f"did you mean '{close}'?" if close else f"name layers of the model, or {ALL_LINEAR}"
    return UsageError(
        problem, where=TARGET_MODULES, details=[f"it has: {', '.join(names)}"], fix=fix
    )
