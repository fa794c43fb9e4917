"""The dtype of `dtype: auto` on this machine, and whether torch can use its GPUs.

Imports no torch, so that keys and plans can ask. The dtype is part of keys as a value, so this code
isn't.
"""

import os
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from finery import UsageError, outside_key
from finery.advanced import Gpu, did_you_mean, driver_cuda, visible_gpus

AUTO_DTYPE = "FINERY_AUTO_DTYPE"
"""The environment variable that decides. Steps get it from the main process, which knows all GPUs
that a step may run on."""
_CHOOSE_GPUS = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
)  # fmt: skip
DTYPES = ("fp32", "fp16", "bf16")
"""From what every machine has to what the newest have."""
AMPERE, VOLTA = (8, 0), (7, 0)
"""The first capabilities with hardware for bf16 and for fast products in fp16."""
_CUDA = re.compile(r"^cuda\b[^=]*= *'(\d+)\.(\d+)", re.MULTILINE)
_HIP = re.compile(r"^hip\b[^=]*= *'", re.MULTILINE)
_FLAGS_BYTES = 8192
"""Of /proc/cpuinfo, with the flags of the first core. All of it takes long with many cores."""


class Unused(NamedTuple):
    """Why torch doesn't use the GPU of this machine, and what to do."""

    reason: str
    fix: str


@outside_key
def auto_dtype() -> str:
    """The dtype of `dtype: auto`: `bf16` if the hardware multiplies it, else `fp16` or `fp32`.

    A GPU before Ampere emulates bf16 slowly. A CPU without AVX512-BF16 or AMX does so, too, and
    isn't faster in fp16. On a machine with different GPUs, it is what all of them can do, since a
    step may get any of them. Raises `UsageError` for an unknown value of `FINERY_AUTO_DTYPE`.
    """
    chosen = os.environ.get(AUTO_DTYPE)
    if chosen and chosen not in DTYPES:
        fix = did_you_mean(chosen, DTYPES)
        raise UsageError(f"{AUTO_DTYPE} is not a dtype: {chosen!r}", fix=fix)
    return chosen or _auto_dtype(*map(os.environ.get, _CHOOSE_GPUS))


@cache
def _auto_dtype(*_variables: str | None) -> str:
    gpus = usable_gpus()
    if gpus:
        return min((dtype_of(gpu.capability) for gpu in gpus), key=DTYPES.index)
    # Finery doesn't list AMD's GPUs, which torch uses by ROCm. They multiply bf16.
    if os.path.exists("/dev/kfd") and _HIP.search(_torch_version() or ""):
        return "bf16"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = file.read(_FLAGS_BYTES)
    except OSError:
        return "fp32"
    return "bf16" if "avx512_bf16" in flags or "amx_bf16" in flags else "fp32"


@outside_key
def dtype_of(capability: tuple[int, int]) -> str:
    """The dtype for an NVIDIA GPU of this capability."""
    if capability >= AMPERE:
        return "bf16"
    return "fp16" if capability >= VOLTA else "fp32"


@outside_key
def usable_gpus() -> list[Gpu]:
    """The visible GPUs, if the installed torch can use them."""
    gpus = visible_gpus()
    return [] if not gpus or unused_gpu() is not None else gpus


def unused_gpu() -> Unused | None:
    """Why torch would run on the CPU although there is a GPU; None if it wouldn't."""
    gpus, text = visible_gpus(), _torch_version()
    if not gpus or text is None:
        return None
    name = gpus[0].name or "the GPU"
    built = _CUDA.search(text)
    if built is None:
        return Unused(
            f"{name} isn't used: the installed torch is built without CUDA",
            "install a torch with CUDA, see https://pytorch.org/get-started",
        )
    needed, known = (int(built[1]), int(built[2])), driver_cuda()
    # A driver runs everything that was built for a minor version of the CUDA that it knows.
    if known is None or known[0] >= needed[0]:
        return None
    return Unused(
        f"{name} isn't used: its driver supports CUDA up to {known[0]}.{known[1]}, and the "
        f"installed torch needs {needed[0]}.{needed[1]}",
        f"update the driver, or install a torch for CUDA {known[0]}, see "
        "https://pytorch.org/get-started/previous-versions",
    )


@cache
def _torch_version() -> str | None:
    """The file with torch's version, and those of CUDA and ROCm; None without torch."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        return Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
