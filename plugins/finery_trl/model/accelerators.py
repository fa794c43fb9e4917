"""Libraries that make a training faster on a GPU. They are used if installed, and recorded."""

import importlib.util
from typing import Any, NamedTuple


class Accelerators(NamedTuple):
    """The accelerators that are installed and suit this machine.

    liger: Liger's Triton kernels for a model's layers.
    flash: FlashAttention 2, which takes the rows of a batch concatenated instead of padded.
    unsloth: Unsloth's kernels and layers, in trainings with Unsloth.
    """

    liger: bool
    flash: bool
    unsloth: bool = False

    @classmethod
    def here(cls, dtype: Any) -> "Accelerators":
        """The accelerators of this machine. dtype: for computing; FlashAttention needs 16 bits."""
        import torch

        if not torch.cuda.is_available():
            return cls(False, False)
        flash = dtype is torch.bfloat16 and _installed("flash_attn")
        return cls(_installed("liger_kernel"), flash)

    def names(self) -> list[str]:
        """The names of the accelerators in use, for the model's manifest."""
        names = {
            "Liger kernels": self.liger,
            "FlashAttention 2, without padding": self.flash,
            "Unsloth": self.unsloth,
        }
        return [name for name, used in names.items() if used]


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
