"""Checks if this machine can train in fp16."""

from typing import TYPE_CHECKING

from finery import StepError
from finery_trl.model.dtype import compute_dtype

if TYPE_CHECKING:
    from finery_trl.settings import Training


def check_half(step: "Training") -> None:
    """Raise `StepError` for fp16 without a GPU.

    accelerate has autocast and a gradient scaler for fp16 only there, and leaves them out elsewhere
    without an error. Small gradients would become zero.
    """
    import torch

    if torch.cuda.is_available() or compute_dtype(step) is not torch.float16:
        return
    decided = "FINERY_AUTO_DTYPE or a GPU that torch can't use decided that dtype: auto is fp16"
    raise StepError(
        "training in fp16 needs a GPU for its gradient scaler, and torch finds none",
        where="dtype",
        details=[decided] if step.dtype == "auto" else [],
        fix="dtype: fp32, or build on a machine with a GPU",
    )
