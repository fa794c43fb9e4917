"""A GGUF with the tokenizer and chat template of a family, and weights that don't matter."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.tiny import SHAPE


def write_stand_in(path: Path, tokenizer: Any, split: str) -> Path:
    """Write a GGUF with this tokenizer and chat template, and the weights of a tiny Llama.

    split: how the tokenizer splits text, see `tiny.SPLITS`. A prompt depends on nothing else, so
    the file serves for architectures that llama.cpp lacks.
    """
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_context_length(SHAPE["max_position_embeddings"])
    width, heads = 8, 1
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(width)
    writer.add_head_count(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width)
    _add_tokenizer(writer, tokenizer, split)
    square = np.zeros((width, width), np.float32)
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    for name in names:
        writer.add_tensor(f"blk.0.{name}.weight", square)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    writer.add_tensor("token_embd.weight", np.zeros((len(tokenizer), width), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, tokenizer: Any, split: str) -> None:
    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {token["id"]: token for token in raw["added_tokens"]}
    kinds = [_kind(added.get(i)) for i in range(len(tokenizer))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(split)
    writer.add_token_list(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in raw["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)


def _kind(added: Mapping[str, Any] | None) -> int:
    """The token's type in GGUF: 1 normal, 3 control, 4 user-defined."""
    if added is None:
        return 1
    return 3 if added["special"] else 4
