"""Tiny random models of real architectures, with real chat templates and a stand-in tokenizer.

The tokenizer has SmolLM2's vocabulary, the family's control tokens as single tokens, and splits
text into words nearly as the family's own does. So a test shows that each turn begins and ends with
the right tokens, and that the text between them is tokenized in one way in training, at inference
and in llama.cpp. It doesn't show that llama.cpp tokenizes the family's own vocabulary as
transformers does: `gguf.export` verifies that for each exported model. Models split text as SmolLM2
does, since llama.cpp's converter recognises a tokenizer by its tokens of a given text; Gemma's have
a SentencePiece tokenizer, see `pieces`.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

from conftest import smollm2_tokenizer
from models.families import SHAPES, Family, carried
from models.pieces import ARCHITECTURES, write_pieces

from finery import Model

SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {"smollm": "", "qwen2": _WORDS % "", "llama-bpe": _WORDS % "{1,3}"}
"""How text is split into words, by llama.cpp's name of it: a pattern, or SmolLM2's own way."""
MULTIPLE = 64
"""The embedding has a multiple of so many rows, as those of published models."""


def template_of(family: Family, smollm2: Path) -> str:
    """The family's chat template."""
    if not family.template:
        return str(smollm2_tokenizer(smollm2).chat_template)
    return carried()[family.template]


@lru_cache(maxsize=2)  # tests of one family run one after the other
def tokenizer_of(family: Family, smollm2: Path, split: str | None = None) -> Any:
    """The stand-in tokenizer with the family's control tokens and chat template, not to be changed.

    smollm2: the GGUF file of SmolLM2. split: a key of `SPLITS`, by default the family's.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer.from_str(smollm2_tokenizer(smollm2).backend_tokenizer.to_str())
    raw.post_processor = None  # none adds a BOS: the templates write it where there is one
    if pattern := SPLITS[split or family.split]:
        words = pre_tokenizers.Split(Regex(pattern), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        raw.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    for text in (family.bos, family.eos, *family.control):
        if text is not None:
            special = text not in family.plain
            raw.add_tokens([AddedToken(text, special=special, normalized=False)])
    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=raw,
        bos_token=family.bos,
        eos_token=family.eos,
        pad_token="<|endoftext|>",
        chat_template=template_of(family, smollm2),
    )


def write_model(folder: Path, family: Family, smollm2: Path) -> Model:
    """Write a model with random weights, always the same, and its tokenizer."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    if family.architecture in ARCHITECTURES:
        tokenizer = write_pieces(folder, family, template_of(family, smollm2))
    else:
        tokenizer = tokenizer_of(family, smollm2, "smollm")
    size = -(-len(tokenizer) // MULTIPLE) * MULTIPLE
    ids: dict[str, Any] = {
        "vocab_size": size,
        "vocab_size_per_layer_input": size,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = getattr(transformers, family.config)(**{**SHAPE, **ids, **SHAPES[family.config]})
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32)
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return Model(folder, meta={"format": "transformers", "name": family.architecture})
