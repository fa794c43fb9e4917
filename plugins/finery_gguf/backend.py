"""Which llama.cpp answers: the library or a server, how many rows at once, and on which GPU.

None of it is code in keys: the server's build is in the key as a fact, and the library's answers
don't depend on the number of rows.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from finery import UsageError, outside_key
from finery.advanced import visible_gpus
from finery_gguf.programs import SERVER, server_build, user_program
from finery_serve.processes import run_program

ENGINE = "FINERY_GGUF_ENGINE"
"""`library` or `server`. The default is the server if the user has installed llama.cpp."""
SLOTS = "FINERY_GGUF_SLOTS"
"""Number of rows that are answered at once."""
LIBRARY, REMOTE = "library", "server"
MOST_SLOTS, DEFAULT_SLOTS = 64, 16


@outside_key
def server() -> str | None:
    """The server's build, e.g. `llama-server 6123 (0ce8cd1)`; None if the library answers."""
    chosen = os.environ.get(ENGINE, "")
    if chosen not in ("", LIBRARY, REMOTE):
        raise UsageError(
            f"{ENGINE} must be `{LIBRARY}` or `{REMOTE}`, but is {chosen!r}",
            fix=f"unset it to use {SERVER} if it is installed, and else the library",
        )
    if chosen == REMOTE or (not chosen and user_program(SERVER) is not None):
        return server_build()
    return None


@outside_key
def rows_at_once() -> int:
    """The maximum number of rows at once; the memory for their caches may allow fewer."""
    chosen = os.environ.get(SLOTS, "")
    if not chosen:
        return DEFAULT_SLOTS
    if not re.fullmatch(r"\d{1,3}", chosen) or not 1 <= int(chosen) <= MOST_SLOTS:
        raise UsageError(
            f"{SLOTS} must be a number from 1 to {MOST_SLOTS}, but is {chosen!r}",
            fix=f"unset it to answer {DEFAULT_SLOTS} rows at once",
        )
    return int(chosen)


_BACKENDS = ("cuda", "hip", "metal", "sycl", "vulkan")
_LIST_SECONDS = 60.0


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
    program = user_program(SERVER)
    return [] if program is None else _device_lines(program.path)


@cache
def _device_lines(program: Path) -> list[str]:
    """The lines of `llama-server --list-devices` after its heading, without their space."""
    try:
        ran = run_program([program, "--list-devices"], _LIST_SECONDS)
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
    devices = gpus() if answering is None else server_gpus()
    if answering is not None:
        log(f"{answering} answers; the last digits depend on the rows at the same time")
    if devices:
        log(f"llama.cpp: all layers on {', '.join(devices)}")
    elif visible_gpus():
        log("llama.cpp: on the CPU, since the installed build has no support for this GPU")
    return devices
