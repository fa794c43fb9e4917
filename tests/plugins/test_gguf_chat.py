"""Chat templates are rendered as transformers renders them."""

import pytest
from jinja2.exceptions import TemplateError
from tiny_gguf import CHATML, tiny_tokenizer

from finery import DataError
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate

TALK: Conversation = [
    {"role": "system", "content": "Be <b>brief</b> & 'kind' é 漢"},
    {"role": "user", "content": "Why?", "name": None},
    {"role": "assistant", "content": "Thus.", "reasoning": "hm"},
    {"role": "user", "content": '{"a": 1}'},
]
TEMPLATES = {
    "ChatML": CHATML,
    "block trimming": "{% for m in messages %}\n  {% if loop.first %}\n a\n  {% endif %}\n"
    "{% endfor %}",
    "special tokens": "{{ bos_token }}{{ eos_token }}{{ unk_token is defined }}",
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}x"
    "{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}",
    "dict": "{{ dict(a=1) | tojson }}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "date": "{{ strftime_now('%Y') }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}{{ m.thinking }}{% endfor %}",
    "empty keys": "{{ messages[1].name is defined }}",
    "no tools": "{{ tools is none }}{{ documents is none }}{% if tools %}x{% endif %}",
    "generation prompt": "{{ add_generation_prompt }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendered_as_transformers_does(name: str) -> None:
    tokenizer = tiny_tokenizer(TEMPLATES[name])
    template = ChatTemplate(TEMPLATES[name], tokenizer.special_tokens_map)
    expected = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert template.render(TALK) == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[9].content + 1 }}",
        "{% set ns = namespace(_x=1) %}",
        "{{ messages.__class__.__mro__ }}",
    ],
)
def test_what_a_template_trips_over_is_a_template_error(source: str) -> None:
    with pytest.raises(TemplateError):
        ChatTemplate(source, {}).render(TALK)


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(99999) %}{{ 'a' * 99999 }}{% endfor %}",
        "{{ 'a' * 10 ** 10 }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 5000000 }}",
    ],
)
def test_a_template_that_takes_too_much_is_stopped(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finery.rows.templates.limits.SECONDS", 2.0)
    with pytest.raises(DataError, match=r"chat template (takes more|writes 5,000,000)"):
        ChatTemplate(source, {}).render(TALK)


def test_a_template_that_is_nested_too_deeply_is_no_jinja() -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{% if a %}" * 3000 + "{% endif %}" * 3000, {})
