"""What llama.cpp's converter reads in a config.json and transformers no longer writes there."""

import json
from pathlib import Path
from typing import Any

_PROPERTIES = ("num_hidden_layers", "hybrid_override_pattern")
"""Keys of published configurations that transformers computes from others, as in Nemotron-H."""


def complete(file: Path, config: Any) -> None:
    """Add the missing keys to a saved configuration. config: the one that was saved."""
    saved = json.loads(file.read_text("utf-8"))
    text = saved.get("text_config", saved)
    config = config.get_text_config()
    missing = {key: getattr(config, key, None) for key in _PROPERTIES if key not in text}
    missing |= _of_full_attention(text)
    text |= {key: value for key, value in missing.items() if value is not None}
    file.write_text(json.dumps(saved, indent=2), encoding="utf-8")


def _of_full_attention(text: dict[str, Any]) -> dict[str, Any]:
    """Gemma 4's sizes of layers with full attention, which transformers writes layer by layer."""
    if text.get("model_type") != "gemma4_text" or "global_head_dim" in text:
        return {}
    full = text["layer_types"].index("full_attention")
    own = text.get("per_layer_config", {}).get(str(full), {})
    heads = own.get("num_key_value_heads")
    return {
        "global_head_dim": own.get("head_dim", text["head_dim"]),
        "num_global_key_value_heads": heads,
    }
