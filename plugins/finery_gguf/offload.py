"""Whether llama.cpp runs on a GPU, found without loading it, and what the log says of it.

Reached by name, since it can't change an answer.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from finery import visible_gpus

_BACKENDS = ("cuda", "hip", "metal", "sycl", "vulkan")


def can_use_gpu() -> bool:
    """Whether the installed llama.cpp has a backend for GPUs, by the libraries that it brings."""
    spec = find_spec("llama_cpp_py_sync")
    if spec is None or spec.origin is None:
        return False
    files = [path.name for path in Path(spec.origin).parent.glob("*ggml*")]
    return any(backend in name for name in files for backend in _BACKENDS)


def log_device(log: Callable[[str], None], gpus: Sequence[str]) -> None:
    """Log the GPU that llama.cpp uses, or that it is built for none although there is one.

    gpus: those that llama.cpp found.
    """
    if gpus:
        log(f"llama.cpp: all layers on {', '.join(gpus)}")
    elif visible_gpus():
        log("llama.cpp: on the CPU, since the installed build has no support for this GPU")
