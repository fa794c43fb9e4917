"""The dtype that a training computes in."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from finery_trl.settings import Training


def compute_dtype(step: "Training") -> "torch.dtype":
    """The dtype of frozen weights and of matrix products."""
    import torch

    from finery_transformers.loading import default_dtype

    named = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    return default_dtype() if step.dtype == "auto" else named[step.dtype]
