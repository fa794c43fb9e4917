"""Adds to a saved model what llama.cpp's converter reads but transformers no longer saves."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "tokenizer.model"
"""The vocabulary file of SentencePiece."""
_PROPERTIES = ("num_hidden_layers", "hybrid_override_pattern")
"""Keys of published configurations that transformers computes from others, e.g. in Nemotron-H."""


def complete(file: Path, config: Any) -> None:
    """Add the missing keys to a saved configuration. config: the object that was saved."""
    saved = json.loads(file.read_text("utf-8"))
    text = saved.get("text_config", saved)
    config = config.get_text_config()
    missing = {key: getattr(config, key, None) for key in _PROPERTIES if key not in text}
    missing |= _of_full_attention(text)
    text |= {key: value for key, value in missing.items() if value is not None}
    file.write_text(json.dumps(saved, indent=2), encoding="utf-8")


def _of_full_attention(text: dict[str, Any]) -> dict[str, Any]:
    """The head sizes of Gemma 4's full-attention layers, which transformers saves per layer."""
    if text.get("model_type") != "gemma4_text" or "global_head_dim" in text:
        return {}
    full = text["layer_types"].index("full_attention")
    layer = text.get("per_layer_config", {}).get(str(full), {})
    return {
        "global_head_dim": layer.get("head_dim", text["head_dim"]),
        "num_global_key_value_heads": layer.get("num_key_value_heads"),
    }


def add_vocabulary(folder: Path, base: Path, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Copy `tokenizer.model` from the folder of a base if it matches the tokenizer's vocabulary.

    Also marks in tokenizer_config.json which tokens are special, because `tokenizer.model` doesn't
    record that. If there is no such file, nothing changes, and the converter reads tokenizer.json.
    """
    if not (base / NAME).is_file() or not _is_of(base / NAME, tokenizer):
        return
    shutil.copyfile(base / NAME, folder / NAME)
    file = folder / "tokenizer_config.json"
    added = {
        str(number): {"content": token.content, "special": token.special}
        for number, token in tokenizer.added_tokens_decoder.items()
    }
    config = json.loads(file.read_text("utf-8")) | {"added_tokens_decoder": added}
    file.write_text(json.dumps(config, ensure_ascii=False, indent=2), encoding="utf-8")


def _is_of(file: Path, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether a SentencePiece file has the tokenizer's pieces at the same ids."""
    from sentencepiece import SentencePieceProcessor

    pieces: Any = SentencePieceProcessor()
    try:
        pieces.LoadFromFile(str(file))
    except (OSError, RuntimeError):  # some models use this name for another kind of file
        return False
    texts = [pieces.IdToPiece(number) for number in range(pieces.GetPieceSize())]
    tokens: Any = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    plain = {number for number in range(len(texts)) if number not in tokenizer.added_tokens_decoder}
    return len(texts) <= len(tokens) and all(texts[number] == tokens[number] for number in plain)
