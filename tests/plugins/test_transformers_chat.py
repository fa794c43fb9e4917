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


BOMBS = {
    "a text without end": "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
    "a constant": "{{ 'a' * 10 ** 10 }}",
    "a loop without end": "{% for i in range(99999) %}{% for j in range(99999) %}"
    "{% endfor %}{% endfor %}",
    "a long text": "{{ 'a' * 5000000 }}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_template_that_takes_too_much_is_stopped(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery.rows.templates.limits.SECONDS", 2.0)
    with pytest.raises(DataError, match=r"chat template (takes more|writes 5,000,000)") as caught:
        prompt_tokens(tiny_tokenizer(BOMBS[name]), PROMPT)
    assert "chat_template.jinja" in (caught.value.fix or "")


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[7].content }}", "{{ none.x.y }}"])
def test_a_template_may_fail_in_any_way(template: str) -> None:
    with pytest.raises(DataError, match="refuses the conversation"):
        prompt_tokens(tiny_tokenizer(template), PROMPT)
