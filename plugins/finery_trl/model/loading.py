"""The model of a training for the trainer: frozen weights, adapter, reference."""

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from finery import DataError, Job, Model, outside_key
from finery_local.facts import ModelFiles
from finery_transformers.loading import (
    base_of,
    default_dtype,
    load_adapter,
    load_model,
    load_quantized,
)
from finery_trl.model.accelerators import Accelerators
from finery_trl.model.targets import exclude_unadaptable

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
