"""What the machine and its packages are, and whether Triton compiles a kernel."""

import importlib.metadata
import platform
import time
from collections.abc import Iterator

from gpu import models as making
from gpu.check import Facts, Failed, Missing, Place

PACKAGES = (
    "finery", "torch", "triton", "transformers", "trl", "peft", "accelerate", "datasets",
    "bitsandbytes", "liger-kernel", "flash-attn",
)  # fmt: skip
ABSENT = "not installed"


def versions(place: Place) -> Facts:
    """The versions of all packages, the GPU, its driver, and the dtype that finery chooses."""
    if _version("finery") == ABSENT:
        raise Missing("finery isn't installed: pip install 'finery[train]', or use --wheels")
    lacking = list(unmet("finery", ("train",), set()))
    if lacking:
        raise Missing(f"These packages are missing or too old: {', '.join(lacking)}")
    import torch

    from finery_transformers.precision import auto_dtype, unused_gpu

    facts: Facts = {"python": platform.python_version()}
    facts |= {name: _version(name) for name in PACKAGES}
    facts["dtype"] = auto_dtype()
    if place.device == "cpu":
        return facts
    unused = unused_gpu()
    if unused is not None:
        raise Failed(f"{unused.reason}. To fix this, {unused.fix}")
    properties = torch.cuda.get_device_properties(0)
    return {
        **facts,
        "gpu": properties.name,
        "gpus": torch.cuda.device_count(),
        "memory": f"{properties.total_memory / 2**30:.1f} GiB",
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "gpu_as_finery_sees_it": _seen(),
    }


def _seen() -> str:
    from finery.execute.gpus import visible_gpus

    gpu = visible_gpus()[0]
    return f"{gpu.name}, {gpu.memory / 2**30:.1f} GiB, {gpu.free / 2**30:.1f} GiB free"


def unmet(package: str, extras: tuple[str, ...], done: set[str]) -> Iterator[str]:
    """What a package requires, directly or not, and isn't installed in such a version.

    done: names of requirements that were looked at.
    """
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires(package) or ():
        wanted = Requirement(line)
        marker = wanted.marker
        applies = marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras))
        if not applies or wanted.name in done:
            continue
        done.add(wanted.name)
        version = _version(wanted.name)
        if version == ABSENT:
            yield str(wanted.name)
        elif not wanted.specifier.contains(version, prereleases=True):
            yield f"{wanted.name} {version} (needs {wanted.specifier})"
        else:
            yield from unmet(wanted.name, tuple(wanted.extras), done)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ABSENT


def triton(place: Place) -> Facts:
    """Compile a kernel with Triton, by torch's compiler as by Liger, and compare its result."""
    import torch

    @torch.compile
    def scaled(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x) * 2 + x.sum(-1, keepdim=True)

    torch.manual_seed(0)
    x = torch.randn(64, 512, device=place.device)
    expected = torch.nn.functional.silu(x) * 2 + x.sum(-1, keepdim=True)
    if not torch.allclose(scaled(x), expected, atol=1e-3):
        raise Failed("a compiled kernel gives another result than torch")
    return {}


def models(place: Place) -> Facts:
    """Make the models of all checks, so that no training has to wait for them."""
    facts: Facts = {}
    for name in dict.fromkeys(making.shape(place, name) for name in ("large", "small")):
        began = time.perf_counter()
        folder = making.model(place, name)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        took = time.perf_counter() - began
        facts[making.NAMES[name]] = f"{size / 2**30:.2f} GiB in {took:.0f} s"
    return facts
