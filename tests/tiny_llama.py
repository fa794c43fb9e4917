"""A tiny random Llama in a Hugging Face folder, its tokenizer, and rows to train it on."""

from pathlib import Path
from typing import Any

from finery import Dataset, Model
from finery.testing import dataset

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEXT = ["where is my card", "my card is late", "the exchange rate is wrong", "card_arrival"]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}]
"""A tool for `TOOLED`."""
TOOLED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": {{ c.function.name | tojson }}, '
    '"arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n'
    "{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ start }}{% endif %}"
)
"""ChatML with tools, and what the argument `start` says at the end of a prompt."""


ANSWERS = ["late", "wrong", "card_arrival"]


def card_rows(folder: Path) -> Dataset:
    """Eight rows of three lengths with one answer each, for a training."""
    return dataset(folder, [
        {
            "prompt": [{"role": "user", "content": f"{'my card ' * (i % 3)}{i}"}],
            "completion": [{"role": "assistant", "content": ANSWERS[i % 3]}],
        }
        for i in range(8)
    ])  # fmt: skip


def tiny_tokenizer(template: str | None = CHATML) -> Any:
    """A byte-level BPE tokenizer with ChatML; its end of sequence is `<|endoftext|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(TEXT * 4, trainer)
    named: dict[str, Any] = {"eos_token": SPECIAL[0], "additional_special_tokens": SPECIAL[1:]}
    made = PreTrainedTokenizerFast(tokenizer_object=raw, **named)  # type: ignore[no-untyped-call]
    made.chat_template = template
    return made


def tiny_counter(folder: Path, name: str = "base") -> Model:
    """A folder with nothing but the tokenizer, to count tokens with; named as in a recipe."""
    tiny_tokenizer().save_pretrained(str(folder))
    model = Model(folder, meta={"format": "transformers"})
    model.ref = name
    return model


def tiny_llama(folder: Path, template: str | None = CHATML, *, width: int = 32) -> Model:
    """Write the model: two layers with random weights, always the same, and a context of 256."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return Model(folder, meta={"format": "transformers", "name": "tiny"})
