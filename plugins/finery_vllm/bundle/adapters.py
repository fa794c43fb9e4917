"""Which adapters vLLM can serve, according to its source (vllm/lora, vllm/config/lora.py).

It refuses some adapters when they are loaded, and silently answers like the base for others, so
finery checks them first. Weights aren't loaded: names and shapes come from the headers of the
files.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from finery import Model, StepError
from finery_local.formats.safetensors_file import shapes

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `--max-lora-rank`."""
PLAIN_STARTS = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
"""Ways to begin a training that leave the base's weights as they are."""
OTHER_WEIGHTS = {
    "use_dora": "it is a DoRA, whose magnitudes vLLM doesn't know",
    "lora_bias": "its matrices have biases (lora_bias)",
    "alora_invocation_tokens": "it is an activated LoRA (aLoRA)",
    "layer_replication": "it repeats layers (layer_replication)",
    "use_bdlora": "it is a block-diagonal LoRA (BD-LoRA)",
    "use_qalora": "it is a QALoRA",
    "target_parameters": "it tunes parameters outside linear layers (target_parameters)",
    "trainable_token_indices": "it trains tokens' embeddings (trainable_token_indices)",
}
"""Settings of PEFT that vLLM refuses or ignores → what they mean."""
ENDS = ("lm_head", "embed_tokens", "embed_in", "embed_out", "wte")
"""Layers at the ends of models, whose adapters vLLM serves for few architectures."""
MERGE = (
    "merge it into its base: `merge: true`, which then serves this model alone; or train it as a "
    "plain LoRA"
)
_MATRIX = re.compile(r"base_model\.model\.(.+)\.lora_[AB]\.weight")
_SHOWN = 3


def largest_rank(config: Mapping[str, Any]) -> int:
    """The largest rank in an adapter's configuration."""
    return max(int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values()), 1)


def smallest_limit(rank: int) -> int:
    """The smallest `--max-lora-rank` with room for a rank of at most 512."""
    return next(limit for limit in RANKS if limit >= rank)


def check_adapter(adapter: Model, config: Mapping[str, Any], name: str) -> None:
    """`StepError` with all reasons why vLLM can't serve an adapter together with its base.

    config: the content of its adapter_config.json. name: of the adapter in the recipe.
    """
    if reasons := [*_of_config(config), *_of_training(adapter), *_of_names(adapter)]:
        raise StepError(
            f"vLLM can't serve the adapter '{name}' with its base: {reasons[0]}",
            details=reasons[1:],
            fix=MERGE,
        )


def _of_config(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"it isn't a LoRA but {kind or 'of an unknown kind'}"
    if saved := config.get("modules_to_save"):
        yield f"it contains complete layers (modules_to_save: {', '.join(saved)})"
    for setting, meaning in OTHER_WEIGHTS.items():
        if config.get(setting):
            yield meaning
    if config.get("bias", "none") != "none":
        yield f"it trains biases (bias: {config['bias']})"
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        yield (
            f"it began with init_lora_weights: {start}, as PiSSA, OLoRA, CorDA and LoftQ do, which "
            "changes the base's weights"
        )
    if (rank := largest_rank(config)) > RANKS[-1]:
        yield f"its rank is {rank}, and vLLM's largest is {RANKS[-1]}"


def _of_training(adapter: Model) -> Iterator[str]:
    if adapter.meta.get("merge") == "dequantized":
        yield "it was trained on the base's 4-bit weights, and vLLM would add it to the 16-bit ones"


def _of_names(adapter: Model) -> Iterator[str]:
    """The faults of its matrices' names, which decide where vLLM adds them."""
    names = sorted(shapes(adapter.file("adapter_model.safetensors")))
    strange = [name for name in names if _MATRIX.fullmatch(name) is None]
    if strange:
        yield f"it holds tensors that aren't matrices of a LoRA: {_some(strange)}"
    layers = sorted({m[1] for name in names if (m := _MATRIX.fullmatch(name))})
    if not names:
        yield "its file holds no tensors"
    if ends := [layer for layer in layers if layer.rpartition(".")[2] in ENDS]:
        yield f"it tunes the ends of the model: {_some(ends)}"
    known = _layers(adapter)
    absent = [layer for layer in layers if known and layer not in known and layer not in ends]
    if absent:
        yield (
            f"its base has no layer {_some(absent)}: the base's layers have other names, e.g. "
            f"{_alike(absent[0], known)}, so vLLM would answer as the base"
        )


def _layers(adapter: Model) -> frozenset[str]:
    """The layers in the base's files; empty unless it is a Hugging Face folder."""
    base = adapter.refs.get("base")
    if not isinstance(base, Model) or base.format != "transformers":
        return frozenset()
    names = base.external or [path.name for path in base.path.glob("*.safetensors")]
    files = [name for name in names if name.endswith(".safetensors")]
    tensors = [tensor for name in files for tensor in shapes(base.file(name))]
    return frozenset(tensor.rpartition(".")[0] for tensor in tensors)


def _alike(layer: str, known: frozenset[str]) -> str:
    """A layer whose name has the same ending, or else any layer."""
    end = layer.rpartition(".")[2]
    return min((name for name in known if name.endswith(f".{end}")), default=min(known))


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
