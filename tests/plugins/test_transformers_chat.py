"""Messages to tokens: prompts, whole rows, and what ends a turn."""

from typing import Any

import pytest
from tiny_llama import CHATML, tiny_tokenizer

from finery import DataError
from finery_transformers.chat import PromptDiffers, PromptTemplate, thinking_field

PROMPT = [{"role": "user", "content": "where is my card"}]
ANSWER = [{"role": "assistant", "content": "card_arrival"}]


def row_tokens(tokenizer: Any, prompt: Any, answer: Any) -> tuple[list[int], list[int]]:
    template = PromptTemplate(tokenizer)
    return template.row_tokens(prompt, answer, template.ends_of_turn())


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def test_the_end_of_turn_is_the_template_s_and_the_tokenizer_s(tokenizer: Any) -> None:
    assert {tokenizer.decode([i]) for i in PromptTemplate(tokenizer).ends_of_turn()} == {
        "<|im_end|>",
        "<|endoftext|>",
    }


def test_a_prompt_ends_where_the_answer_begins(tokenizer: Any) -> None:
    text = tokenizer.decode(PromptTemplate(tokenizer).prompt_tokens(PROMPT))
    assert text == "<|im_start|>user\nwhere is my card<|im_end|>\n<|im_start|>assistant\n"


def test_a_row_extends_its_prompt_and_ends_with_the_end_of_turn(tokenizer: Any) -> None:
    prompt, row = row_tokens(tokenizer, PROMPT, ANSWER)
    assert prompt == PromptTemplate(tokenizer).prompt_tokens(PROMPT)
    assert row[: len(prompt)] == prompt
    assert tokenizer.decode(row[len(prompt) :]) == "card_arrival<|im_end|>"


def joining(prompt: str) -> str:
    """A template whose prompts end with a text."""
    return (
        "{% for m in messages %}{{ '" + prompt + "' if m.role == 'assistant' else '' }}"
        "{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}" + prompt + "{% endif %}"
    )


def test_an_answer_follows_the_prompt_s_own_tokens_where_a_tokenizer_would_join_them() -> None:
    tokenizer = tiny_tokenizer(joining("where is my ca"))
    answer = [{"role": "assistant", "content": "rd"}]
    prompt, row = row_tokens(tokenizer, PROMPT, answer)
    assert prompt == PromptTemplate(tokenizer).prompt_tokens(PROMPT)
    assert row == prompt + tokenizer("rd<|im_end|>")["input_ids"]
    assert row != tokenizer(tokenizer.decode(row))["input_ids"]


def test_a_tokenizer_that_begins_texts_with_a_space_puts_none_before_an_answer() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    letters = sorted(set("hi where is my card?\n.1▁x"))
    special = ["<|endoftext|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=200, special_tokens=special, initial_alphabet=letters, show_progress=False
    )
    raw.train_from_iterator(["where is my card"] * 4, trainer)
    wrap: Any = PreTrainedTokenizerFast
    tokenizer = wrap(tokenizer_object=raw, eos_token=special[0])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    tokenizer.chat_template = joining("where is my ca")
    question = [{"role": "user", "content": "hi"}]
    answer = [{"role": "assistant", "content": "rd"}]
    prompt, row = row_tokens(tokenizer, question, answer)
    assert tokenizer.tokenize("rd")[0].startswith("▁")
    assert tokenizer.convert_ids_to_tokens(row[len(prompt) :]) == ["r", "d", "<|im_end|>"]


def test_a_template_that_changes_a_prompt_is_reported_with_both_texts() -> None:
    tokenizer = tiny_tokenizer("{% if not add_generation_prompt %}Chat: {% endif %}" + CHATML)
    with pytest.raises(PromptDiffers) as caught:
        row_tokens(tokenizer, PROMPT, ANSWER)
    assert caught.value.whole.startswith("Chat: ")
    assert caught.value.prompt.startswith("<|im_start|>user")


def test_thinking_gets_the_name_that_the_template_reads() -> None:
    reads = CHATML.replace("{{ m.content }}", "{{ m.NAME or '' }}|{{ m.content }}")
    for name in ("reasoning_content", "thinking", "reasoning"):
        tokenizer = tiny_tokenizer(reads.replace("NAME", name))
        assert thinking_field(tokenizer) is not None
        for thinking in ({"reasoning_content": "so"}, {"content": "<think>\nso\n</think>\n\nyes"}):
            message = {"role": "assistant", "content": "yes", **thinking}
            assert "so|yes<|im_end|>" in PromptTemplate(tokenizer).text([*PROMPT, message])
    assert thinking_field(tiny_tokenizer(CHATML)) is None


def test_a_turn_with_a_call_may_have_an_end_of_its_own() -> None:
    calls = CHATML.replace(
        "<|im_end|>",
        "{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}"
        "{{ '<|endoftext|>' if m.tool_calls else '<|im_end|>' }}",
    )
    tokenizer = tiny_tokenizer(calls)
    tokenizer.eos_token = "<|im_end|>"
    assert {tokenizer.decode([i]) for i in PromptTemplate(tokenizer).ends_of_turn()} == {
        "<|im_end|>",
        "<|endoftext|>",
    }


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
        PromptTemplate(tiny_tokenizer(BOMBS[name])).prompt_tokens(PROMPT)
    assert "chat_template.jinja" in (caught.value.fix or "")


def test_answers_of_tools_are_written_in_the_order_of_their_calls(tokenizer: Any) -> None:
    def call(name: str) -> dict[str, Any]:
        return {"id": name, "type": "function", "function": {"name": "f", "arguments": {}}}

    def answer(name: str | None) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": name, "content": f"answer {name}"}

    called: list[dict[str, Any]] = [
        *PROMPT,
        {"role": "assistant", "content": "wait", "tool_calls": [call("p"), call("q")]},
    ]
    crossed = PromptTemplate(tokenizer).text([*called, answer("q"), answer("p"), *ANSWER])
    assert crossed == PromptTemplate(tokenizer).text([*called, answer("p"), answer("q"), *ANSWER])
    assert crossed.index("answer p") < crossed.index("answer q")
    for kept in (["q", None], ["q", "r"], ["q", "q"], ["q"]):  # it's unclear what answers what
        text = PromptTemplate(tokenizer).text([*called, *map(answer, kept)])
        assert [text.index(f"answer {n}") for n in kept] == sorted(
            text.index(f"answer {n}") for n in kept
        )
