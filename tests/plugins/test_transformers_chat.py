"""Messages to tokens: prompts, whole rows, and what ends a turn."""

from typing import Any

import pytest
from tiny_llama import CHATML, tiny_tokenizer

from finery import DataError
from finery_transformers.chat import end_of_turn, prompt_tokens, row_tokens

PROMPT = [{"role": "user", "content": "where is my card"}]
ANSWER = [{"role": "assistant", "content": "card_arrival"}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def test_the_end_of_turn_is_the_template_s_and_the_tokenizer_s(tokenizer: Any) -> None:
    assert {tokenizer.decode([i]) for i in end_of_turn(tokenizer)} == {
        "<|im_end|>",
        "<|endoftext|>",
    }


def test_a_prompt_ends_where_the_answer_begins(tokenizer: Any) -> None:
    text = tokenizer.decode(prompt_tokens(tokenizer, PROMPT))
    assert text == "<|im_start|>user\nwhere is my card<|im_end|>\n<|im_start|>assistant\n"


def test_a_row_extends_its_prompt_and_ends_with_the_end_of_turn(tokenizer: Any) -> None:
    prompt, row = row_tokens(tokenizer, PROMPT, ANSWER, end_of_turn(tokenizer))
    assert prompt == prompt_tokens(tokenizer, PROMPT)
    assert row[: len(prompt)] == prompt
    assert tokenizer.decode(row[len(prompt) :]) == "card_arrival<|im_end|>"


def test_arguments_reach_the_template() -> None:
    tokenizer = tiny_tokenizer("{% if quick %}quick {% endif %}" + CHATML)
    tokens = prompt_tokens(tokenizer, PROMPT, arguments={"quick": True})
    assert tokenizer.decode(tokens).startswith("quick <|im_start|>")


def test_tools_reach_the_template() -> None:
    tokenizer = tiny_tokenizer("{% for t in tools or [] %}{{ t.name }} {% endfor %}" + CHATML)
    tokens = prompt_tokens(tokenizer, PROMPT, tools=[{"name": "lookup"}])
    assert tokenizer.decode(tokens).startswith("lookup <|im_start|>")


def test_a_conversation_that_the_template_refuses_is_shown() -> None:
    refusing = "{{ raise_exception('no system role') if messages[0].role == 'system' }}" + CHATML
    with pytest.raises(DataError, match="no system role") as caught:
        prompt_tokens(tiny_tokenizer(refusing), [{"role": "system", "content": "Be brief."}])
    assert caught.value.details == ["system: Be brief."]
