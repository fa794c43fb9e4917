"""The hardware of steps: GPUs, why torch doesn't use them, and errors about their memory."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from finery import Artifact, StepError, outside_key
from finery_transformers.precision import unused_gpu, usable_gpus

HARDWARE = "hardware"
"""The entry in a manifest's `runtime`."""
_recorded: dict[str, Any] = {}
_configs: list[Any] = []


def accelerator() -> str:
    """Where torch computes: `cuda` (also with ROCm), `mps` (Apple's GPUs) or `cpu`.

    `FINERY_MPS=0` leaves out Apple's.
    """
    import torch

    if torch.cuda.is_available():
        return "cuda"
    has_mps = torch.backends.mps.is_available() and os.environ.get("FINERY_MPS") != "0"
    return "mps" if has_mps else "cpu"


@outside_key
def record_config(config: Any) -> None:
    """Remember the configuration of a loaded model: a training may still change its attention."""
    _configs[:] = [config]


@outside_key
def record(**facts: Any) -> None:
    """Add facts about the running step, e.g. `deterministic=True`, to the manifest of outputs."""
    _recorded.update(facts)


def forget() -> None:
    """Forget the facts about an earlier step."""
    _recorded.clear()
    _configs.clear()


def add_facts(outputs: Any) -> None:
    """Add the device, its capability, the attention and what was recorded to a step's outputs."""
    attention = {"attention": _configs[0]._attn_implementation} if _configs else {}
    facts = {**_device(), **attention, **_recorded}
    several = outputs if isinstance(outputs, dict) else getattr(outputs, "__dict__", {})
    for artifact in [outputs] if isinstance(outputs, Artifact) else several.values():
        if isinstance(artifact, Artifact):
            artifact.runtime[HARDWARE] = facts


def _device() -> dict[str, Any]:
    gpus = usable_gpus()
    if not gpus:  # a step that doesn't compute with torch hasn't imported it
        return {"device": accelerator() if "torch" in sys.modules else "cpu"}
    names = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    facts = {"device": names, "gpus": len(gpus)}
    major, minor = gpus[0].capability
    return {**facts, "capability": f"{major}.{minor}"}


@outside_key
def log_unused_gpu(log: Callable[[str], None]) -> None:
    """Log why torch doesn't use the GPU of this machine, if so."""
    unused = unused_gpu()
    if unused is not None:
        log(f"warning: {unused.reason}, so it runs on the CPU. To fix this, {unused.fix}")


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
    # Some of these have no class.
    return isinstance(error, RuntimeError) and any(t in str(error) for t in _OUT_OF_MEMORY)


@outside_key
def exhausted(error: BaseException, purpose: str, fix: str = ANSWERING) -> StepError | None:
    """The error to show if memory ran out, None for any other error. purpose: what it was for."""
    if not is_out_of_memory(error):
        return None
    text = str(error).strip()
    where = "GPU " if any(name in text for name in ("CUDA", "CUBLAS", "HIP", "MPS")) else ""
    others = ", or end other programs that use the GPU" if where else ""
    return StepError(
        f"not enough {where}memory {purpose}", details=text.splitlines()[:1], fix=f"{fix}{others}"
    )


@outside_key
@contextmanager
def explained(explain: Callable[[BaseException], StepError | None]) -> Iterator[None]:
    """Turn an error into the `StepError` that explains it, if it does."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        other = explain(error)
        if other is None:
            raise
        raise other from error


@outside_key
def not_loaded(error: BaseException) -> StepError | None:
    """The error to show if a model can't be loaded for a reason that isn't in its files."""
    text = str(error).strip()
    if "bitsandbytes" in text.lower() and isinstance(error, (RuntimeError, ImportError)):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        named = [line for line in lines if line.startswith("Original error:")]
        return StepError(
            "quantization needs bitsandbytes, which can't be used here",
            details=(named or lines)[:1],
            fix="`python -m bitsandbytes` shows what is missing; or remove `quantization`",
        )
    if "compressed" in text and isinstance(error, ImportError):
        return StepError(
            "the model is rounded for vLLM, and transformers can't load it without "
            "compressed-tensors",
            fix="let vLLM answer: `{use: vllm.model, model: …}`; or pip install compressed-tensors",
        )
    return exhausted(error, "to load the model", LOADING)
