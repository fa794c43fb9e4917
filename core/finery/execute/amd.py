"""The GPUs of AMD, by what its driver writes under /sys, without ROCm or torch.

ROCm numbers them in the order of the driver's nodes. `ROCR_VISIBLE_DEVICES` leaves some of them,
and `HIP_VISIBLE_DEVICES`, or else `CUDA_VISIBLE_DEVICES`, selects from those by their new numbers
(https://rocm.docs.amd.com/en/docs-7.1.1/reference/env-variables.html).
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from finery.execute.gpu import AMD_DRIVER, AMD_FILTER, AMD_VISIBLE, VISIBLE, Gpu

NODES = "/sys/class/kfd/kfd/topology/nodes"
DEVICES = "/dev/dri"
CARDS = "/sys/class/drm"
SMALL = 4 * 2**30
"""Bytes of memory below which a GPU is only used if the user names it: a processor's own one."""
LOCAL_HEAPS = ("1", "2")
"""The kinds of memory that are on the GPU: the part that the CPU can reach, and the rest."""


def amd_gpus(environment: Mapping[str, str]) -> list[Gpu]:
    """The GPUs that a process may use. Their ids are numbers for `HIP_VISIBLE_DEVICES`.

    environment: variables of the process. Empty without access to the driver, since then ROCm finds
    none, either.
    """
    if not os.access(AMD_DRIVER, os.R_OK | os.W_OK):
        return []
    filtered = _selected(list(_gpus()), environment.get(AMD_FILTER))
    numbered = [gpu._replace(id=str(number)) for number, gpu in enumerate(filtered)]
    wanted = environment.get(AMD_VISIBLE) or environment.get(VISIBLE)
    if wanted is None:
        return [gpu for gpu in numbered if gpu.memory >= SMALL]
    return _selected(numbered, wanted)


def _selected(gpus: Sequence[Gpu], wanted: str | None) -> list[Gpu]:
    """Those that a variable lists by index or UUID. A wrong entry ends the list, as in ROCm."""
    if wanted is None:
        return list(gpus)
    chosen: list[Gpu] = []
    for name in map(str.strip, wanted.split(",")):
        if name.isdecimal():
            meant = gpus[int(name) : int(name) + 1]
        else:
            meant = [gpu for gpu in gpus if name and gpu.uuid.lower() == name.lower()]
        if not meant:
            break
        chosen += meant
    return chosen


def _gpus() -> Iterator[Gpu]:
    """All GPUs that this process may open, in the order of the driver's nodes."""
    with suppress(OSError):
        for node in sorted(map(int, filter(str.isdecimal, os.listdir(NODES)))):
            facts = _facts(Path(NODES, str(node), "properties"))
            device = f"renderD{facts.get('drm_render_minor', '')}"
            is_gpu = facts.get("simd_count", "0") != "0"  # else it is a processor
            if is_gpu and os.access(f"{DEVICES}/{device}", os.R_OK | os.W_OK):
                yield _gpu(Path(NODES, str(node)), facts, Path(CARDS, device, "device"))


def _gpu(node: Path, facts: Mapping[str, str], card: Path) -> Gpu:
    # For example 90402: 9.4 and the step 2, which ROCm calls gfx942.
    major, rest = divmod(int(facts.get("gfx_target_version", 0)), 10_000)
    minor, step = divmod(rest, 100)
    banks = (_facts(path) for path in node.glob("mem_banks/*/properties"))
    memory = sum(int(b["size_in_bytes"]) for b in banks if b.get("heap_type") in LOCAL_HEAPS)
    serial = int(facts.get("unique_id", 0))
    place = f"{platform.node()}-{facts.get('domain', 0)}-{facts.get('location_id', 0)}"
    model = _text(card / "product_name") or "AMD GPU"
    return Gpu(
        id="",
        name=f"{model} gfx{major}{minor:x}{step:x}",
        capability=(major, minor),
        memory=memory,
        used=int(_text(card / "mem_info_vram_used") or 0),
        uuid=f"GPU-{serial:016x}" if serial else f"amd-{place}",
        variable=AMD_VISIBLE,
    )


def _facts(path: Path) -> dict[str, str]:
    """The lines of a file as name and value; empty for one that may not be read."""
    return dict(line.split(maxsplit=1) for line in _text(path).splitlines() if " " in line)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
