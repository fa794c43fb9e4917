"""The model of a training for the trainer: frozen weights, adapter, reference."""

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from finery import DataError, Job
from finery_trl.model.accelerators import Accelerators
from finery_trl.model.targets import exclude_unadaptable

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel

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
            model = _with_adapter(model, step)
        masters = {}
        if continues and step.quantization is not None:
            trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
            masters = {n: p.detach().clone() for n, p in trained.items()}
        adapter = None if continues else step.peft_config()
        if adapter is not None:
            exclude_unadaptable(adapter, model)
        return cls(model, adapter, _reference(step, dtype), masters, accelerators)

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

    from finery_transformers.loading import base_of, load_model, load_quantized

    under = base_of(step.model) if step.continues() else step.model
    if step.quantization is not None:
        return load_quantized(
            under, dtype, job.scratch, kind=step.quantization, double=step.double_quantization
        )
    return load_model(under, torch.float32 if step.lora is None else dtype)


def _reference(step: "Training", dtype: "torch.dtype") -> "PreTrainedModel | None":
    """The untrained model in the compute dtype, if no adapter can be switched off instead."""
    from finery_transformers.loading import load_model

    return load_model(step.model, dtype) if step.keeps_reference and step.lora is None else None


def _with_adapter(model: "PreTrainedModel", step: "Training") -> Any:
    from finery_transformers.loading import load_adapter

    return load_adapter(model, step.model, trainable=True)


def check_context(context: int | None, longest: int) -> None:
    """Raise `DataError` if the longest row has more tokens than the model's context."""
    if context is not None and longest > context:
        raise DataError(
            f"the longest row has {longest} tokens, more than the model's context of {context}",
            fix=f"max_length: {context}, and too_long: drop to drop longer rows",
        )
