"""What chat templates can do, found out by rendering."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from abilities import capabilities
from tiny_llama import CHATML, SPECIAL, tiny_tokenizer

from finery_transformers.capabilities import templates_with, unwritten
from finery_transformers.chat import CALLED, PromptTemplate

TOOL_ABILITIES = ("tools", "calls", "arguments", "answers", "parallel", "call_text")


def carried(name: str) -> Any:
    """A tiny tokenizer with a template that trl carries, whose control tokens are single tokens."""
    spec = find_spec("trl")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("needs finery[train]")
    path = Path(spec.submodule_search_locations[0]) / "chat_templates" / f"{name}.jinja"
    tokenizer = tiny_tokenizer(path.read_text(encoding="utf-8"))
    controls = set(re.findall(r"<\|[a-z_]+\|>|<[a-z]+_of_turn>", str(tokenizer.chat_template)))
    added = [*SPECIAL, *sorted(controls - set(SPECIAL))]
    tokenizer.add_special_tokens({"additional_special_tokens": added, "bos_token": "<s>"})
    return tokenizer


def test_a_plain_template_can_chat_and_no_more() -> None:
    lacks = capabilities(tiny_tokenizer(CHATML)).lacks()
    assert sorted(lacks) == sorted(
        ["tools", "calls", "arguments", "call_text", "parallel", "thinking", "switch"]
    )
    assert lacks["tools"] == "the tool lookup isn't written"
    assert lacks["calls"] == "the call of lookup isn't written"
    assert lacks["thinking"] == "it doesn't write an assistant's thinking"


@pytest.mark.parametrize(
    ("name", "lacks"),
    [
        ("qwen2_5", {"thinking", "switch"}),
        ("qwen3", {"prefix_preserving"}),
        ("llama3_2", {"parallel", "call_text", "thinking", "switch"}),
        ("nemotron_3_nano", {"prefix_preserving", "unthinking"}),
        ("phi3", {*TOOL_ABILITIES, "thinking", "switch"}),
    ],
)
def test_templates_of_families(name: str, lacks: set[str]) -> None:
    found = capabilities(carried(name)).lacks()
    assert set(found) == lacks, found


def test_two_bos_tokens_are_seen() -> None:
    tokenizer = tiny_tokenizer("{{ bos_token }}{{ bos_token }}" + CHATML)
    tokenizer.bos_token = SPECIAL[0]
    assert capabilities(tokenizer).single_bos == "it begins with two BOS tokens"


def test_a_template_without_generation_prompt_is_seen() -> None:
    bare = CHATML.partition("{% if add_generation_prompt %}")[0]
    reason = capabilities(tiny_tokenizer(bare)).generation_prompt
    assert reason.startswith("each answer begins with '<|im_start|>assistant")


def test_arguments_as_python_are_no_json() -> None:
    writes = CHATML.replace(
        "{{ m.content }}",
        "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{% if c.function.arguments is mapping %}{{ c.function.arguments }}{% endif %}{% endfor %}",
    )
    reasons = [u.reason for u in unwritten(PromptTemplate(tiny_tokenizer(writes)), CALLED, None)]
    assert reasons == [
        "an argument of the call of lookup (of) is written as Python's text, not as JSON"
    ]


def test_templates_with_the_same_turns_are_offered() -> None:
    names = templates_with(carried("qwen2_5"), ("thinking", "tools"))
    assert "qwen3" in names
    assert templates_with(carried("gemma"), ("tools",)) == []
    tokenizer = carried("qwen2_5")
    before = tokenizer.chat_template
    templates_with(tokenizer, ("tools",))
    assert tokenizer.chat_template == before
