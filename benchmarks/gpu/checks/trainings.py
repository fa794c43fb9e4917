"""Trainings of ten optimizer steps: their speed, and their memory against finery's estimate."""

from collections.abc import Callable, Sequence
from typing import Any

from gpu import models, rows
from gpu.check import Facts, Failed, Missing, Place
from gpu.project import Project, end_of, recipe

STEPS = 10
TOLERANCE = 0.15
"""How far the measured memory may be from the estimate."""
SIZES = (8, 4, 2, 1)
"""Rows in memory at once: the most that fit are used."""
TOKENS = 512
TINY_ROWS, TINY_TOKENS = 2, 48


def sft(place: Place) -> Facts:
    """LoRA in bf16 without more kernels: torch's attention, no Liger."""
    return trained(place, "large", {})


def liger(place: Place) -> Facts:
    """The same with Liger's kernels."""
    return trained(place, "large", {}, use=["liger_kernel"], accelerator="Liger kernels")


def flash(place: Place) -> Facts:
    """The same with FlashAttention 2, without padding."""
    name = "FlashAttention 2, without padding"
    return trained(place, "large", {}, use=["flash_attn"], accelerator=name)


def checkpointing(place: Place) -> Facts:
    """The same with gradient checkpointing."""
    return trained(place, "large", {"gradient_checkpointing": True})


def nf4(place: Place) -> Facts:
    """QLoRA with NF4 weights."""
    return trained(place, "large", {"quantization": "nf4"})


def fp4(place: Place) -> Facts:
    """QLoRA with FP4 weights."""
    return trained(place, "large", {"quantization": "fp4"})


def dora(place: Place) -> Facts:
    """LoRA that also learns magnitudes."""
    return trained(place, "small", {"lora": {"use_dora": True}})


def full(place: Place) -> Facts:
    """All weights of the small model."""
    return trained(place, "small", {"lora": None, "learning_rate": 1e-5})


def dpo(place: Place) -> Facts:
    """Preferences."""
    return trained(place, "small", {"use": "trl.dpo"}, rows.preference_rows)


def kto(place: Place) -> Facts:
    """Rated answers."""
    return trained(place, "small", {"use": "trl.kto"}, rows.rated_rows)


def watch(place: Place) -> Facts:
    """SFT with validations and an evaluator that tests the model at each of them."""
    watched = {"use": "eval.exact", "rows": "rows", "max_tokens": 8}
    settings = {"validation": "rows", "watch": watched, "eval_steps": STEPS // 2}
    return trained(place, "small", settings)


def merge(place: Place) -> Facts:
    """QLoRA adapters of both kinds, merged both ways, answer prompts."""
    kinds = [(kind, way) for kind in ("nf4", "fp4") for way in ("16-bit", "dequantized")]
    if place.tiny:  # each takes seconds to import what it needs
        kinds = [("nf4", "dequantized")]
    trainings = {
        f"{kind}_{way.replace('-', '')}": {**common(2), "quantization": kind, "merge": way}
        for kind, way in kinds
    }
    test = {"use": "eval.exact", "models": [*trainings], "rows": "rows", "max_tokens": 8}
    data = rows.answer_rows(4, TINY_TOKENS)
    made = recipe(
        place.folder,
        models.model(place, "small"),
        data,
        train=trainings,
        evaluate={"test": test},
    )
    project = Project(place.folder, made)
    project.build()
    return {"merged": ", ".join(f"{kind} {way}" for kind, way in kinds)}


# -- one training --------------------------------------------------------------------------------


def trained(
    place: Place,
    name: str,
    settings: dict[str, Any],
    make: Callable[[int, int], list[rows.Row]] = rows.answer_rows,
    *,
    use: Sequence[str] = (),
    accelerator: str | None = None,
) -> Facts:
    """Build a training; its figures.

    make: the rows, from their number and tokens. accelerator: what the manifest must name.
    """
    folder = models.model(place, name)
    for size in sizes(place):
        step = {**common(size), **settings}
        data = make(STEPS * size, tokens(place))
        made = recipe(place.folder, folder, data, train={"training": step})
        project = Project(place.folder, made, use=use)
        estimate = project.estimate("training")
        if "memory_bytes" not in estimate:
            raise Failed(f"finery estimates no memory: {estimate}")
        if estimate["memory_bytes"] <= 0.95 * estimate["available_bytes"]:
            break
    else:
        need = estimate["memory_bytes"] / 2**30
        raise Missing(f"It needs about {need:.0f} GiB of memory for one row of {TOKENS} tokens")
    text = project.build()
    return figures(place, project, estimate, text, accelerator) | {"rows_at_once": size}


def figures(
    place: Place, project: Project, estimate: Facts, text: str, accelerator: str | None
) -> Facts:
    """The speed and memory of a training. Raises `Failed` if they aren't as they should be."""
    manifest = project.manifest("training")
    measured, hardware = manifest["runtime"]["training"], manifest["runtime"]["hardware"]
    peak = measured.get("peak_gpu_memory", measured.get("peak_memory", 0))
    expected = estimate["memory_bytes"]
    if "peak_gpu_memory" in measured:  # torch counts neither the context nor libraries
        expected -= estimate["memory"]["runtime"]
    off = peak / expected - 1
    facts: Facts = {
        "tokens_per_second": measured["tokens_per_second"],
        "peak_gib": round(peak / 2**30, 2),
        "estimated_gib": round(expected / 2**30, 2),
        "off_percent": round(100 * off),
        "deterministic": hardware["deterministic"],
        "accelerated_by": manifest["meta"].get("accelerated_by", []),
        "attention": hardware.get("attention"),
        "steps": manifest["meta"]["steps"],
    }
    if accelerator is not None and accelerator not in facts["accelerated_by"]:
        raise Failed(f"{accelerator} wasn't used: {end_of(text)}")
    if place.judges and abs(off) > TOLERANCE:
        raise Failed(
            f"the peak is {facts['peak_gib']} GiB, {off:+.0%} from the estimate of "
            f"{facts['estimated_gib']} GiB ({facts['tokens_per_second']} tokens/s)"
        )
    return facts


def common(size: int) -> dict[str, Any]:
    """The settings of all trainings, with `size` rows at once."""
    return {
        "use": "trl.sft",
        "model": "base",
        "rows": "rows",
        "epochs": 1,
        "effective_batch_size": size,
        "per_device_train_batch_size": size,
    }


def sizes(place: Place) -> Sequence[int]:
    """Rows at once to try, the most first."""
    return (TINY_ROWS,) if place.tiny else SIZES


def tokens(place: Place) -> int:
    """Tokens of a row."""
    return TINY_TOKENS if place.tiny else TOKENS
