"""Models with random weights, in the shapes of Qwen3, and a tokenizer for `rows`.

No weights are downloaded. They are made on the device that is checked, always the same ones.
"""

import fcntl
from pathlib import Path
from typing import Any

from gpu.check import Place
from gpu.rows import words

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SHAPES: dict[str, dict[str, Any]] = {
    "large": {
        "num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151_936,
    },
    "small": {
        "num_hidden_layers": 28, "hidden_size": 1024, "intermediate_size": 3072,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "vocab_size": 151_936,
    },
    "tiny": {
        "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 1024,
    },
}  # fmt: skip
"""The configurations of Qwen3-4B (large) and Qwen3-0.6B (small), both with a tied output matrix."""
NAMES = {"large": "Qwen3-4B shape", "small": "Qwen3-0.6B shape", "tiny": "tiny shape"}


def shape(place: Place, name: str) -> str:
    """The shape to use for `large` or `small`."""
    return "tiny" if place.tiny else name


def model(place: Place, name: str) -> Path:
    """The folder of a model, which is made if it isn't there."""
    wanted = shape(place, name)
    folder = place.shared / wanted
    with (place.shared / f"{wanted}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several checks may run at once
        if not (place.shared / f"{wanted}.complete").exists():
            _make(folder, SHAPES[wanted], place.device)
            (place.shared / f"{wanted}.complete").touch()
    return folder


def _make(folder: Path, sizes: dict[str, Any], device: str) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config: Any = Qwen3Config(
        **sizes,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=2,
        bos_token_id=None,
        pad_token_id=0,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            made: Any = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    made.save_pretrained(str(folder))
    tokenizer().save_pretrained(str(folder))


def tokenizer() -> Any:
    """A byte-level BPE tokenizer with ChatML, in which each word of `rows` is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = " ".join(words())
    raw.train_from_iterator([text, f" {text}"] * 8, trainer)
    named: dict[str, Any] = {
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[0],
        "additional_special_tokens": SPECIAL[1:],
    }
    made: Any = PreTrainedTokenizerFast(tokenizer_object=raw, **named)  # type: ignore[no-untyped-call]
    made.chat_template = CHATML
    return made
