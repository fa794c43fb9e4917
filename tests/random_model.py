"""Models of many families in memory: random weights, two layers, 120 tokens."""

from typing import Any

import torch


def model_of(kind: str, dtype: torch.dtype = torch.float64, **settings: Any) -> Any:
    """A model in evaluation mode, the same every time. kind: transformers' `model_type`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=120, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0,
        bos_token_id=None, eos_token_id=1, **settings,
    )  # fmt: skip
    make: Any = AutoModelForCausalLM.from_config
    return make(config).to(dtype).eval()
