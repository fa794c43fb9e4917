"""A tiny random GGUF with a byte-level tokenizer, and the same tokenizer for transformers."""

from pathlib import Path
from typing import Any

import numpy as np

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("2", "2"), ("Ċ", "Ċ")]
WIDTH, HIDDEN, HEADS, LAYERS = 64, 128, 4, 2


def tokens() -> list[str]:
    """The vocabulary: special tokens, the bytes as GPT-2 writes them, merged pairs."""
    return [*SPECIAL, *_byte_characters(), *(a + b for a, b in MERGES)]


def write_tiny_gguf(
    path: Path,
    *,
    template: str | None = CHATML,
    pre: str = "gpt-2",
    flags: dict[str, bool] | None = None,
    context: int = 1024,
    sampling: dict[str, float] | None = None,
    experts: int = 0,
    architecture: str = "llama",
    letters: bool = False,
    alignment: int | None = None,
) -> Path:
    """Write a GGUF of two layers with random weights.

    architecture: another one than llama's only has llama.cpp read the vocabulary. letters: answers
    have only ASCII letters, so that they are text in UTF-8.
    pre: the pre-tokenizer's name in llama.cpp. flags: e.g. `{"add_bos_token": True}`. sampling:
    how servers shall answer, e.g. `{"temp": 1.5}`. experts: of a layer; a token uses two of them.
    alignment: of tensors, in bytes.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_context_length(context)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    _add_tokenizer(writer, template, pre, flags or {})
    for name, value in (sampling or {}).items():
        writer.add_float32(f"general.sampling.{name}", value)
    weights = tiny_weights(experts)
    if letters:
        silent = [not (token.isascii() and token.isalpha()) for token in tokens()]
        weights["output.weight"][silent] = 0
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_tokenizer(template: str = CHATML) -> Any:
    """The tokenizer of `write_tiny_gguf` with `pre="gpt-2"`, for transformers."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(tokens())}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=made,
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[2],
        chat_template=template,
    )


def _add_tokenizer(writer: Any, template: str | None, pre: str, flags: dict[str, bool]) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens())
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens()) - len(SPECIAL)))
    writer.add_token_merges([f"{a} {b}" for a, b in MERGES])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for flag, value in flags.items():
        writer.add_bool(f"tokenizer.ggml.{flag}", value)
    if template is not None:
        writer.add_chat_template(template)


def tiny_weights(experts: int = 0) -> dict[str, Any]:
    """The weights of `write_tiny_gguf` by name."""
    draw, keys = np.random.default_rng(0), WIDTH // 2
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (len(tokens()), WIDTH),
        "output": (len(tokens()), WIDTH),
    }
    for i in range(LAYERS):
        shapes |= {
            f"blk.{i}.attn_q": (WIDTH, WIDTH),
            f"blk.{i}.attn_k": (keys, WIDTH),
            f"blk.{i}.attn_v": (keys, WIDTH),
            f"blk.{i}.attn_output": (WIDTH, WIDTH),
        }
        shapes |= (
            _expert_shapes(i, experts)
            if experts
            else {
                f"blk.{i}.ffn_gate": (HIDDEN, WIDTH),
                f"blk.{i}.ffn_up": (HIDDEN, WIDTH),
                f"blk.{i}.ffn_down": (WIDTH, HIDDEN),
            }
        )
    made = {
        f"{name}.weight": draw.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    norms = [f"blk.{i}.{kind}_norm" for i in range(LAYERS) for kind in ("attn", "ffn")]
    ones = {f"{name}.weight": np.ones(WIDTH, np.float32) for name in [*norms, "output_norm"]}
    return made | ones


def _expert_shapes(layer: int, experts: int) -> dict[str, tuple[int, ...]]:
    return {
        f"blk.{layer}.ffn_gate_inp": (experts, WIDTH),
        f"blk.{layer}.ffn_gate_exps": (experts, HIDDEN, WIDTH),
        f"blk.{layer}.ffn_up_exps": (experts, HIDDEN, WIDTH),
        f"blk.{layer}.ffn_down_exps": (experts, WIDTH, HIDDEN),
    }


def _byte_characters() -> list[str]:
    """The 256 bytes as the printable characters that GPT-2's vocabulary has for them."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    names = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [names[b] for b in range(256)]
