"""Whether llama.cpp runs on a GPU, found without loading it, and what the log says of it."""

import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from finery import outside_key
from finery.execute.gpus import visible_gpus
from finery_gguf.answering.choice import server
from finery_gguf.programs import SERVER, user_program

_BACKENDS = ("cuda", "hip", "metal", "sycl", "vulkan")
_SECONDS = 60.0


@outside_key
def can_use_gpu() -> bool:
    """Whether the llama.cpp that answers can use a GPU.

    For the user's llama-server, this depends on the devices that it lists; for the wheel, on the
    libraries that it contains.
    """
    if server() is not None:
        return bool(server_gpus())
    spec = find_spec("llama_cpp_py_sync")
    if spec is None or spec.origin is None:
        return False
    files = [path.name for path in Path(spec.origin).parent.glob("*ggml*")]
    return any(backend in name for name in files for backend in _BACKENDS)


def server_gpus() -> list[str]:
    """The devices that the user's llama-server offloads to, as it lists them."""
    own = user_program(SERVER)
    return [] if own is None else _listed(own.path)


@cache
def _listed(program: Path) -> list[str]:
    """The lines of `llama-server --list-devices` after its heading, without their space."""
    try:
        ran = subprocess.run(
            [program, "--list-devices"], capture_output=True, text=True, errors="replace",
            timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    _, _, listed = ran.stdout.partition("Available devices:\n")
    lines = [line.strip() for line in listed.splitlines()]
    return [line for line in lines if ":" in line and not line.startswith(("CPU", "BLAS"))]


@outside_key
def log_device(
    log: Callable[[str], None], answering: str | None, gpus: Callable[[], Sequence[str]]
) -> Sequence[str]:
    """Log which llama.cpp answers, and the GPU that it uses; returns the latter.

    Also says if it is built for none although there is one. answering: the server; None: the
    library, whose GPUs `gpus` finds.
    """
    found = gpus() if answering is None else server_gpus()
    if answering is not None:
        log(f"{answering} answers; the last digits depend on the rows at the same time")
    if found:
        log(f"llama.cpp: all layers on {', '.join(found)}")
    elif visible_gpus():
        log("llama.cpp: on the CPU, since the installed build has no support for this GPU")
    return found
