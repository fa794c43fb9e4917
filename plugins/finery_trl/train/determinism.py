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


VARIABLES = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
"""What cuBLAS needs and FlashAttention reads, unless the user has set them."""


@contextmanager
def deterministic(*, strict: bool) -> Iterator[None]:
    """Use deterministic kernels, and silence progress bars and warnings.

    Results are equal on one machine with one number of threads, since sums of floats depend on how
    they are split. strict: raise an error for an operation without such a kernel. Only then does
    torch choose the deterministic backward passes of its fused attention.
    """
    import torch

    from finery_transformers.loading import quiet

    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def lacks_kernel(error: Exception) -> bool:
    """Whether torch raised an error because an operation has no deterministic kernel here."""
    return "use_deterministic_algorithms(True" in str(error)


def lacking_operation(error: Exception) -> str:
    """The operation that such an error names."""
    return str(error).strip().partition(" ")[0]


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
