"""The GPU of a process, which is one even if it could use several.

Imports torch inside functions.
"""

import os
from typing import Any


def select_gpu() -> None:
    """Make this process's GPU the current one. Without this, all processes load to the first."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def on_one_gpu(arguments: Any) -> Any:
    """Keep a trainer from spreading batches over all visible GPUs, which TRL refuses.

    arguments: of the trainer. Several GPUs are used by `launch`, with a process for each.
    """
    arguments._n_gpu = min(1, arguments.n_gpu)  # as transformers does for a model on several GPUs
    return arguments
