"""The proof that a GGUF reads conversations as the model was trained to."""

from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import CHATML, tiny_tokenizer, write_tiny_gguf

from finery import StepError
from finery.rows import Row
from finery_gguf.llama import Gguf
from finery_gguf.proof import prove
from finery_transformers.frozen.proof import conversations
from finery_transformers.frozen.template import FrozenTemplate


def trained_with(template: str = CHATML) -> FrozenTemplate:
    return FrozenTemplate(template, tiny_tokenizer(template), {}, tools=False)


def proven(path: Path, template: str = CHATML, **options: Any) -> int:
    gguf = Gguf(write_tiny_gguf(path / "t.gguf", template=template, **options), vocab_only=True)
    return prove(gguf, trained_with(template), ())


def test_the_same_tokens_are_proven(tmp_path: Path) -> None:
    assert proven(tmp_path) == len(conversations(""))


def test_a_row_with_another_prompt_is_named(tmp_path: Path) -> None:
    # Only this row has a text at which the two templates differ.
    other = CHATML.replace("{{ m.content }}", "{{ m.content | replace('rare', 'often') }}")
    gguf = Gguf(write_tiny_gguf(tmp_path / "t.gguf", template=other), vocab_only=True)
    frozen = trained_with()._replace(source=other)
    rows: list[Row] = [{"id": "r7", "messages": [{"role": "user", "content": "A rare word."}]}]
    with pytest.raises(StepError, match="turns the row r7 into other tokens"):
        prove(gguf, frozen, rows)
    plain: list[Row] = [{"id": "r8", "messages": [{"role": "user", "content": "A word."}]}]
    assert prove(gguf, frozen, plain) == len(conversations("")) + 1


def test_a_bos_that_training_had_not_is_found(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="a single turn into other tokens") as raised:
        proven(tmp_path, template="{{ messages[0].content }}", flags={"add_bos_token": True})
    assert "first difference is token 0" in raised.value.details[0]


def test_another_chat_template_is_found(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "t.gguf", template=CHATML.replace("user", "USER") + "!")
    with pytest.raises(StepError, match="not the one the model was trained with") as raised:
        prove(Gguf(path), trained_with())
    assert ">>>'!'" in raised.value.details[1]


def test_an_end_that_llama_cpp_does_not_know_is_found(tmp_path: Path) -> None:
    # The turn ends at a control token that is not one of the tokens llama.cpp stops at.
    template = CHATML.replace("<|im_end|>", "<|im_start|>")
    with pytest.raises(StepError, match=r"would not stop at '<\|im_start\|>'"):
        proven(tmp_path, template=template)
