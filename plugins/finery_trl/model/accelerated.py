"""What makes a training faster on a GPU, switched on where it is there, and recorded."""

import importlib.util
from typing import Any, NamedTuple


class Accelerated(NamedTuple):
    """What is there on this machine.

    liger: Liger's Triton kernels for a model's layers.
    flash: FlashAttention 2, with which rows of a batch lie end to end instead of being padded.
    unsloth: Unsloth's kernels and layers, where a training is made with Unsloth.
    """

    liger: bool
    flash: bool
    unsloth: bool = False

    @classmethod
    def here(cls, dtype: Any) -> "Accelerated":
        """Look. dtype: of the arithmetic; FlashAttention takes 16 bits only."""
        import torch

        if not torch.cuda.is_available():
            return cls(False, False)
        flash = dtype is torch.bfloat16 and _installed("flash_attn")
        return cls(_installed("liger_kernel"), flash)

    def names(self) -> list[str]:
        """What is switched on, for the model's manifest."""
        named = {
            "Liger kernels": self.liger,
            "FlashAttention 2, without padding": self.flash,
            "Unsloth": self.unsloth,
        }
        return [name for name, on in named.items() if on]


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
