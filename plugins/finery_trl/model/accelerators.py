"""Libraries that make a training faster on a GPU. They are used if they work, and recorded."""

import importlib
import importlib.util
from typing import Any, NamedTuple

from finery import Job
from finery_trl.model.attention import use_flash


class Accelerators(NamedTuple):
    """The accelerators that a training uses.

    liger: Liger's Triton kernels for a model's layers. flash: FlashAttention 2. unsloth: Unsloth's
    kernels and layers, in trainings with Unsloth.
    """

    liger: bool = False
    flash: bool = False
    unsloth: bool = False

    @classmethod
    def of(cls, model: Any, dtype: Any, job: Job) -> "Accelerators":
        """Switch a loaded model to what is installed and works, and log what is left out.

        dtype: for computing.
        """
        import torch

        if not torch.cuda.is_available():
            return cls()
        return cls(liger=_has_liger(model, job), flash=use_flash(model, dtype, job))

    def names(self, *, padding_free: bool) -> list[str]:
        """The names of the accelerators in use, for the model's manifest.

        padding_free: whether the rows of a batch are concatenated instead of padded.
        """
        names = {
            "Liger kernels": self.liger,
            "FlashAttention 2, without padding": self.flash and padding_free,
            "FlashAttention 2": self.flash and not padding_free,
            "Unsloth": self.unsloth,
        }
        return [name for name, used in names.items() if used]


def _has_liger(model: Any, job: Job) -> bool:
    """Whether Liger has kernels for the architecture; it ignores others without an error."""
    if importlib.util.find_spec("liger_kernel") is None:
        return False
    try:
        patch: Any = importlib.import_module("liger_kernel.transformers.monkey_patch")
        from transformers.utils.import_utils import is_liger_kernel_available
    except Exception as error:  # Triton, too, is imported, and fails in its own ways
        job.log(f"liger-kernel isn't used: it can't be imported ({error})")
        return False
    kind = model.config.model_type
    if kind not in patch.MODEL_TYPE_TO_APPLY_LIGER_FN or not is_liger_kernel_available():
        job.log(f"liger-kernel isn't used: this version has no kernels for {kind} models")
        return False
    return True
