"""GPU memory that a training saves apart from its batch settings: optimizers and the allocator."""

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from finery import StepError

if TYPE_CHECKING:
    from finery_trl.settings import Training

ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The environment variable that configures torch's allocator, and its name before torch 2.9."""


def allocator_environment() -> Mapping[str, str]:
    """Let torch enlarge blocks of GPU memory. Batches of many lengths otherwise leave gaps.

    It has no effect on a CPU, and a setting of the user's own is kept.
    """
    is_set = any(name in os.environ for name in ALLOCATOR)
    return {} if is_set else {ALLOCATOR[0]: "expandable_segments:True"}


def check_optimizer(step: "Training") -> None:
    """Raise `StepError` if the optimizer needs what this machine lacks."""
    import torch

    if not step.optim_needs_bitsandbytes:
        return
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StepError(
            f"optim: {step.optim} needs bitsandbytes, which isn't installed",
            where="optim",
            fix="pip install 'finery[train]'",
        )
    if step.optim.startswith("paged") and not torch.cuda.is_available():
        raise StepError(
            f"optim: {step.optim} moves memory between a GPU and the CPU, but there is no GPU",
            where="optim",
            fix="remove it, or optim: adamw_8bit",
        )
