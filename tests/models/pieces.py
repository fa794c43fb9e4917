"""A SentencePiece tokenizer for Gemma's architectures, whose file llama.cpp's converter reads."""

import io
import json
from pathlib import Path
from typing import Any

from models.families import Family
from models.rows import ANSWERS, THOUGHT, question

ARCHITECTURES = frozenset(("Gemma", "Gemma3", "Gemma4"))
UNNAMED = ("<pad>", "<unk>", "<mask>")
"""Special tokens that Gemma's tokenizers have, and chat templates don't use."""
TEXTS = (*ANSWERS, THOUGHT, str(question()["content"]), "Name the intent of the message.") * 4
SIZE = 448  # a multiple of 64, as in published models


def write_pieces(folder: Path, family: Family, template: str) -> Any:
    """Train the tokenizer on a few sentences, write it as published models do, and return it."""
    from transformers import GemmaTokenizer

    special = [str(family.bos), family.eos, *UNNAMED]
    special += [token for token in family.control if token not in special]
    (folder / "tokenizer.model").write_bytes(_trained(family, special[3:]))
    config = {"tokenizer_class": "GemmaTokenizer", "added_tokens_decoder": {}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    load: Any = GemmaTokenizer.from_pretrained
    tokenizer = load(folder, bos_token=family.bos, eos_token=family.eos)
    tokenizer.add_special_tokens({"additional_special_tokens": special[5:]})
    tokenizer.chat_template = template
    assert len(tokenizer) == SIZE
    tokenizer.save_pretrained(folder)
    return tokenizer


def _trained(family: Family, symbols: list[str]) -> bytes:
    """The file of a BPE model with bytes for unknown letters. symbols: kept whole."""
    from sentencepiece import SentencePieceTrainer

    buffer = io.BytesIO()
    train: Any = SentencePieceTrainer
    train.train(
        sentence_iterator=iter(TEXTS), model_writer=buffer, model_type="bpe", vocab_size=SIZE,
        byte_fallback=True, split_digits=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity",
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", bos_piece=family.bos,
        eos_piece=family.eos, unk_piece="<unk>",
        user_defined_symbols=[token for token in symbols if token not in UNNAMED[:2]],
        minloglevel=2,
    )  # fmt: skip
    return buffer.getvalue()
