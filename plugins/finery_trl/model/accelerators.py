"""Libraries that make a training faster on a GPU. They are used if they work, and recorded."""

import importlib
import importlib.util
from typing import Any, NamedTuple

from finery import Job


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


FLASH = "flash_attention_2"
AMPERE = (8, 0)
"""The first compute capability with FlashAttention 2."""


def use_flash(model: Any, dtype: Any, job: Job) -> bool:
    """Switch a model to FlashAttention 2; False if that is impossible, with the reason in the log.

    A package of this name may be another build, or one for another torch or GPU, so it is tried.
    The model then keeps the attention of torch (SDPA).
    """
    import torch

    if dtype not in (torch.bfloat16, torch.float16) or not _is_installed():
        return False
    before = model.config._attn_implementation
    reason = _unusable() or _fails(dtype) or _refuses(model)
    if reason is None:
        return True
    if model.config._attn_implementation != before:
        model.set_attn_implementation(before)
    job.log(f"flash-attn is installed but isn't used: {reason}. Attention is computed by {before}")
    return False


def _is_installed() -> bool:
    return importlib.util.find_spec("flash_attn") is not None


def _unusable() -> str | None:
    """Why FlashAttention 2 isn't for this machine, without trying it."""
    import torch
    from transformers.utils.import_utils import is_flash_attn_2_available

    if not is_flash_attn_2_available():
        return "transformers finds no FlashAttention 2 of version 2.3.3 or later in it"
    # ROCm's versions differ, and its builds decide themselves.
    if torch.version.hip is None and torch.cuda.get_device_capability() < AMPERE:
        major, minor = torch.cuda.get_device_capability()
        return f"the GPU has compute capability {major}.{minor}, and it needs 8.0"
    return None


def _fails(dtype: Any) -> str | None:
    """The error of a small forward and backward pass."""
    import torch

    try:
        from flash_attn import flash_attn_func  # type: ignore[import-not-found]

        states = torch.ones(1, 16, 1, 64, dtype=dtype, device="cuda", requires_grad=True)
        flash_attn_func(states, states, states, causal=True).sum().backward()
        torch.cuda.synchronize()
    except Exception as error:  # whatever a build for another torch or GPU raises
        return f"it fails on this machine ({_first_line(error)})"
    return None


def _refuses(model: Any) -> str | None:
    """Why transformers doesn't run this model with it."""
    try:
        model.set_attn_implementation(FLASH)
    except (ValueError, ImportError) as error:
        return _first_line(error)
    if model.config._attn_implementation != FLASH:
        return f"{type(model).__name__} can't change its attention"
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
