"""How many rows a model answers at once. Imports no torch."""

import json
from typing import Any, NamedTuple, Self

from finery import Model, load_reference

ROWS = 16
"""On AVX512 cores, 16 rows reach 1.6 times the tokens per second of four; 32 reach no more."""
CHARACTERS = 64 * 1024
"""Limit of rows × longest row of a batch, some 16,000 tokens of cache."""
MOST_ROWS = 256
CACHE_SHARE = 0.25
"""Of a GPU's memory beside the weights. The rest is for longer answers than prompts, for
activations, and for other programs."""
CHARACTERS_A_TOKEN = 4
CACHE_BYTES = 2
"""Of a number in the cache of keys and values."""
GPUS = "finery_transformers.precision:usable_gpus"
"""By name: a batch is the unit of the record cache, so its rows are in the key of each record."""


class Room(NamedTuple):
    """Limits of a batch: its rows, and rows × characters of the longest one."""

    rows: int = ROWS
    characters: int = CHARACTERS

    @classmethod
    def of(cls, model: Model) -> Self:
        """The room on this machine: more on a GPU with memory for it, by powers of two.

        It depends on the GPU's whole memory and not on what is free, since the other rows of a
        batch can change the last digits of a row's logits.
        """
        gpus = load_reference(GPUS)()
        sizes = _sizes(model)
        if not gpus or sizes is None:
            return cls()
        cache = CACHE_SHARE * (gpus[0].memory - 2 * sizes.parameters)
        wanted = CHARACTERS / CHARACTERS_A_TOKEN * sizes.cache_bytes
        factor = 1
        while ROWS * factor < MOST_ROWS and 2 * factor * wanted <= cache:
            factor *= 2
        return cls(ROWS * factor, CHARACTERS * factor)


class _Sizes(NamedTuple):
    """Of a model: bytes in the cache for each token, and about how many parameters."""

    cache_bytes: float
    parameters: float


def _sizes(model: Model) -> _Sizes | None:
    """The sizes in a model's config.json; None without these numbers."""
    if model.format == "adapter":
        base = model.refs.get("base")
        return _sizes(base) if isinstance(base, Model) else None
    try:
        config = json.loads(model.file("config.json").read_bytes())
        return _of_config(config.get("text_config") or config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _of_config(config: dict[str, Any]) -> _Sizes:
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    inside = config.get("intermediate_size") or 4 * hidden
    block = hidden * (2 * head * (heads + kv_heads) + 3 * inside)
    embedding = config["vocab_size"] * hidden
    return _Sizes(2 * layers * kv_heads * head * CACHE_BYTES, layers * block + 2 * embedding)
