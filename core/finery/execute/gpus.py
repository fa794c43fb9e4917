"""The GPUs, cores and memory of this machine, without CUDA, ROCm or torch.

NVML, the library of NVIDIA's driver, lists its GPUs in milliseconds. It doesn't initialise CUDA,
which would take memory on each GPU and couldn't be undone in this process.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from finery.errors import UsageError
from finery.execute.gpu import DRIVER_FILES, ORDER, VISIBLE
from finery.execute.gpu import Gpu as Gpu
from finery.util.files import text_or_empty

GPUS_FIELD = "gpus"
"""The setting of a step that lists the GPUs that it may use."""
_MAX_TEXT_BYTES = 96  # of a name or UUID in NVML


def cpu_count() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The name of this machine's processor, or its architecture where that is unknown."""
    text = text_or_empty(Path("/proc/cpuinfo"))
    names = (line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line)
    return next(names, "") or platform.machine()


def memory_bytes() -> int | None:
    """Bytes of this machine's memory; None if it is unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def visible_gpus(environment: Mapping[str, str] | None = None) -> list[Gpu]:
    """The GPUs that a process may use, in the order of `CUDA_VISIBLE_DEVICES`.

    Their ids are UUIDs, since the order of indices differs between NVML and CUDA. If the user wrote
    indices, the ids are these. environment: variables of the process; default: of this one.
    """
    environment = os.environ if environment is None else environment
    devices = _detect_gpus()
    visible = environment.get(VISIBLE)
    if visible is None or not devices:
        return devices
    ordered = environment.get(ORDER) == "PCI_BUS_ID"
    chosen: list[Gpu] = []
    for name in map(str.strip, visible.split(",")):
        if any(gpu.id == name for gpu in chosen):
            return []  # what CUDA makes of a GPU that is listed twice
        gpu = _gpu_by_name(name, devices, ordered=ordered)
        if gpu is None:
            break  # CUDA ignores the rest, too
        chosen.append(gpu._replace(id=name))
    return chosen


def _gpu_by_name(name: str, devices: list[Gpu], *, ordered: bool) -> Gpu | None:
    """The GPU that an entry of `CUDA_VISIBLE_DEVICES` means. ordered: as NVML lists them."""
    if name.isdecimal():
        if int(name) >= len(devices):
            return None
        if ordered or len({gpu[1:4] for gpu in devices}) == 1:
            return devices[int(name)]
        return _weakest_gpu(devices)
    if name.startswith("MIG-"):  # an instance, which isn't looked at
        return _weakest_gpu(devices)
    by_id = [gpu for gpu in devices if gpu.id.startswith(name)]
    return by_id[0] if len(by_id) == 1 and name.startswith("GPU-") else None


def named_gpus(
    names: Sequence[int | str], environment: Mapping[str, str] | None = None
) -> list[Gpu]:
    """The visible GPUs with these numbers or UUIDs, each once.

    names: numbers as `nvidia-smi` lists them, and UUIDs or how these begin, as a step's `gpus` has
    them. Where it is unknown which GPUs the indices in `CUDA_VISIBLE_DEVICES` mean, numbers are
    such indices. Raises `UsageError` for a name without a visible GPU.
    """
    visible = visible_gpus(environment)
    chosen: dict[str, Gpu] = {}
    for name in map(str, names):
        matching = [gpu for gpu in visible if _matches_name(name, gpu)]
        if not matching:
            raise _no_gpu(name, visible, os.environ if environment is None else environment)
        if not name.isdecimal() and len(matching) > 1:
            raise UsageError(
                f"{name} is the beginning of several UUIDs: {', '.join(g.uuid for g in matching)}",
                where=GPUS_FIELD,
                fix="write more of it",
            )
        chosen |= {gpu.id: gpu for gpu in matching}
    return list(chosen.values())


def _matches_name(name: str, gpu: Gpu) -> bool:
    if name.isdecimal():
        return gpu.id == name if gpu.number is None else gpu.number == int(name)
    return gpu.id == name or gpu.uuid.startswith(name)


def _no_gpu(name: str, visible: Sequence[Gpu], environment: Mapping[str, str]) -> UsageError:
    """The error for a name that no visible GPU has."""
    label = f"GPU {name}" if name.isdecimal() else name
    everywhere = {k: v for k, v in environment.items() if k != VISIBLE}
    if any(_matches_name(name, gpu) for gpu in visible_gpus(everywhere)):
        fix = f"change {VISIBLE}" + (f", or name one of: {_list_gpus(visible)}" if visible else "")
        problem = f"{label} is hidden by {VISIBLE}={environment[VISIBLE]}"
        return UsageError(problem, where=GPUS_FIELD, fix=fix)
    if not visible:
        return UsageError(
            f"there is no {label}: finery sees no GPU on this machine",
            where=GPUS_FIELD,
            fix="remove gpus, or build on a machine with that GPU; `nvidia-smi -L` lists them",
        )
    return UsageError(
        f"there is no {label} on this machine",
        where=GPUS_FIELD,
        fix=f"name one of: {_list_gpus(visible)}",
    )


def _list_gpus(gpus: Sequence[Gpu]) -> str:
    return ", ".join(
        f"{gpu.id if gpu.number is None else gpu.number}"
        + (f" ({', '.join(filter(None, [gpu.name, gpu.uuid]))})" if gpu.name or gpu.uuid else "")
        for gpu in gpus
    )


def _weakest_gpu(gpus: list[Gpu]) -> Gpu:
    """What is certain when CUDA decides which of several different GPUs an index means."""
    return Gpu(
        id="",
        name="",
        capability=min(gpu.capability for gpu in gpus),
        memory=min(gpu.memory for gpu in gpus),
        used=max(gpu.used for gpu in gpus),
    )


def driver_cuda() -> tuple[int, int] | None:
    """The newest version of CUDA that the driver supports; None without a driver."""
    version = _number("nvmlSystemGetCudaDriverVersion_v2")
    return None if version is None else (version // 1000, version % 1000 // 10)


def _detect_gpus() -> list[Gpu]:
    """The GPUs that NVML lists and that this process may use."""
    import ctypes

    gpus = []
    for number in range(_number("nvmlDeviceGetCount_v2") or 0):
        device, memory = ctypes.c_void_p(), (ctypes.c_ulonglong * 3)()  # total, free, used
        if not _call("nvmlDeviceGetHandleByIndex_v2", number, ctypes.byref(device)):
            continue
        major, minor = ctypes.c_int(), ctypes.c_int()
        function = "nvmlDeviceGetCudaComputeCapability"
        _call(function, device, ctypes.byref(major), ctypes.byref(minor))
        _call("nvmlDeviceGetMemoryInfo", device, ctypes.byref(memory))
        name, uuid = _text("nvmlDeviceGetName", device), _text("nvmlDeviceGetUUID", device)
        capability = major.value, minor.value
        gpus.append(Gpu(uuid, name, capability, memory[0], memory[2], uuid, number))
    return gpus


def _number(function: str) -> int | None:
    import ctypes

    number = ctypes.c_int()
    return number.value if _call(function, ctypes.byref(number)) else None


def _text(function: str, device: Any) -> str:
    import ctypes

    buffer = ctypes.create_string_buffer(_MAX_TEXT_BYTES)
    _call(function, device, buffer, ctypes.c_uint(_MAX_TEXT_BYTES))
    return buffer.value.decode("utf-8", "replace")


def _call(function: str, *arguments: Any) -> bool:
    """Call a function of NVML; whether it succeeded. An old driver may not have it."""
    nvml_function = getattr(_nvml(), function, None)
    return nvml_function is not None and nvml_function(*arguments) == 0


@cache
def _nvml() -> Any:
    """NVML, initialised; None without an NVIDIA driver."""
    if not any(map(os.path.exists, DRIVER_FILES)):
        return None
    import ctypes  # only here, since its import takes longer than the rest

    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        return None if nvml.nvmlInit_v2() else nvml
    except (OSError, AttributeError):  # no library, or one that is too old
        return None
