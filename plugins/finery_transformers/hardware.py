"""What a step ran on, for the manifest of its outputs and for its log.

Not part of an output's identity: equal weights from two GPUs are the same model.
"""

from collections.abc import Callable
from typing import Any

from finery import Artifact
from finery_transformers.precision import unused_gpu, usable_gpus

HARDWARE = "hardware"
"""The entry in a manifest's `runtime`."""
_recorded: dict[str, Any] = {}
_configs: list[Any] = []


def record_config(config: Any) -> None:
    """Remember the configuration of a loaded model: a training may still change its attention."""
    _configs[:] = [config]


def record(**facts: Any) -> None:
    """Add facts about the running step, e.g. `deterministic=True`, to the manifest of its outputs.

    Reach this by name, so that it stays out of keys.
    """
    _recorded.update(facts)


def forget() -> None:
    """Forget the facts about an earlier step."""
    _recorded.clear()
    _configs.clear()


def add_facts(outputs: Any) -> None:
    """Add the device, its capability, the attention and what was recorded to a step's outputs."""
    facts = {**_device(), **_attention(), **_recorded}
    artifacts = outputs.values() if isinstance(outputs, dict) else [outputs, *_values(outputs)]
    for artifact in artifacts:
        if isinstance(artifact, Artifact):
            artifact.runtime[HARDWARE] = facts


def _values(outputs: Any) -> list[Any]:
    return [] if isinstance(outputs, Artifact) else list(getattr(outputs, "__dict__", {}).values())


def _attention() -> dict[str, Any]:
    return {"attention": _configs[0]._attn_implementation} if _configs else {}


def _device() -> dict[str, Any]:
    gpus = usable_gpus()
    if not gpus:
        return {"device": "cpu"}
    names = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    facts = {"device": names, "gpus": len(gpus)}
    if gpus[0].is_amd:  # its name has the version of its instructions
        return facts
    major, minor = gpus[0].capability
    return {**facts, "capability": f"{major}.{minor}"}


def log_unused_gpu(log: Callable[[str], None]) -> None:
    """Log why torch doesn't use the GPU of this machine, if so."""
    unused = unused_gpu()
    if unused is not None:
        log(f"warning: {unused.reason}, so it runs on the CPU. To fix this, {unused.fix}")
