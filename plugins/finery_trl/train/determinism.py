"""Equal bytes from equal trainings: deterministic kernels, and no redundant casts.

Imports torch inside functions.
"""

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finery_trl.settings import Training


@contextmanager
def deterministic() -> Iterator[None]:
    """Use deterministic kernels, and silence progress bars and warnings.

    Results are equal on one machine with one number of threads, since sums of floats depend on how
    they are split.
    """
    import torch

    from finery_transformers.loading import quiet

    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by cuBLAS
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        gc.collect()


@contextmanager
def without_input_casts(model: Any, step: "Training") -> Iterator[None]:
    """Keep PEFT from casting activations to the adapter's fp32, which autocast would cast back.

    Autocast matches the dtypes of inputs and weights itself. This is 5 % faster with equal results.
    """
    from peft.helpers import disable_input_dtype_casting

    with ExitStack() as stack:
        # DoRA multiplies tensors itself, for which autocast can't match the dtypes.
        if step.lora is not None and not step.lora.use_dora:
            stack.enter_context(disable_input_dtype_casting(model))
        yield
