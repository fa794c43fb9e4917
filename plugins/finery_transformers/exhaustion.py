"""Errors of a GPU and its libraries in words: memory that ran out, and a broken bitsandbytes.

Reached by name, since errors can't change an output.
"""

from finery import StepError

_OUT_OF_MEMORY = (
    "out of memory",  # torch's allocator, and CUDA itself
    "can't allocate memory",  # torch's allocator on a CPU
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
LOADING = "use a smaller model, or, in a training, quantization: nf4"
ANSWERING = "lower max_tokens, shorten the longest prompts, or use a smaller model"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or elsewhere."""
    if isinstance(error, MemoryError):
        return True
    # Not all of these have a class of their own.
    return isinstance(error, RuntimeError) and any(t in str(error) for t in _OUT_OF_MEMORY)


def exhausted(error: BaseException, purpose: str, fix: str) -> StepError | None:
    """The error to show if memory ran out, None for any other error. purpose: what it was for."""
    if not is_out_of_memory(error):
        return None
    text = str(error).strip()
    where = "GPU " if "CUDA" in text or "CUBLAS" in text or "HIP" in text else ""
    others = ", or end other programs that use the GPU" if where else ""
    return StepError(
        f"not enough {where}memory {purpose}", details=text.splitlines()[:1], fix=f"{fix}{others}"
    )


def not_loaded(error: BaseException) -> StepError | None:
    """The error to show if a model can't be loaded for a reason that isn't in its files."""
    text = str(error).strip()
    if "bitsandbytes" in text.lower() and isinstance(error, (RuntimeError, ImportError)):
        return StepError(
            "quantization needs bitsandbytes, which can't be used here",
            details=[_cause(text)],
            fix="`python -m bitsandbytes` shows what is missing; or remove `quantization`",
        )
    return exhausted(error, "to load the model", LOADING)


def _cause(text: str) -> str:
    """The line of bitsandbytes' long text that names the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if line.startswith("Original error:")]
    return (named or lines)[0]
