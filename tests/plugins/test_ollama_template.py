"""Chat templates as Ollama templates: written exactly, or refused."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from finery import StepError
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate
from finery_ollama.gotemplate import collate, render_go
from finery_ollama.template import conversations, escape, ollama_template
from finery_ollama.turns import Render, trims

RENDER_GO = Path(__file__).parent / "go" / "render.go"
needs_go = pytest.mark.skipif(
    shutil.which("go") is None, reason="golang is not installed (apt install golang)"
)

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are \"helpful\".<|im_end|>\n"
    "{% endif %}"
) + CHATML
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{{ bos_token }}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles') }}{% endif %}"
    "{% if m.role == 'user' %}{% if loop.PLACE and system is defined %}"
    "[INST] {{ system }}\n\n{{ m.content }} [/INST]{% else %}[INST] {{ m.content }} [/INST]"
    "{% endif %}{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m.role == 'user' %}{{ bos_token }}[INST] "
    "{% if loop.first and system %}<<SYS>>\n{{ system }}\n<</SYS>>\n\n{% endif %}"
    "{{ m.content }} [/INST]{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + "
    "'\n\n' %}{% set turns = messages[1:] %}{% else %}{% set first = '' %}"
    "{% set turns = messages %}{% endif %}{% for m in turns %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first else '' }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
) + GEMMA3.removeprefix("{{ bos_token }}")
PHI3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
VICUNA = (
    "A chat.{% for m in messages %}{% if m.role == 'system' %} {{ m.content }}"
    "{% elif m.role == 'user' %} USER: {{ m.content }}{% else %} ASSISTANT: {{ m.content }}"
    "{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
QUOTES = (
    "{% for m in messages %}{{ '{{' }}{{ m.role }}\"\"\"\u200d{{ m.content }}{{ '{' }}\n"
    "{% endfor %}"
    '{% if add_generation_prompt %}{{ "{{assistant" }}"""\u200d{% endif %}'
)

EXPRESSIBLE = {
    "ChatML": CHATML,
    "ChatML with a default system message": DEFAULT_SYSTEM,
    "Llama 3": LLAMA3,
    "Mistral, system in the first turn": MISTRAL.replace("PLACE", "first"),
    "Mistral, system in the last turn": MISTRAL.replace("PLACE", "last"),
    "Llama 2": LLAMA2,
    "Gemma 3": GEMMA3,
    "Gemma 2": GEMMA2,
    "Phi 3": PHI3,
    "Vicuna": VICUNA,
    "braces, quotes and invisible characters": QUOTES,
}
REFUSED = {
    "numbers the turns": "{% for m in messages %}{{ loop.index }} {{ m.role }}: {{ m.content }}\n"
    "{% endfor %}assistant:",
    "leaves out old answers": "{% for m in messages %}{% if m.role != 'assistant' or loop.last %}"
    "{{ m.role }}: {{ m.content }}\n{% endif %}{% endfor %}assistant:",
    "newest first": "{% for m in messages | reverse %}{{ m.role }}: {{ m.content }}\n"
    "{% endfor %}assistant:",
    "shouts": "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}bot:",
    "marks a long talk": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if messages | length > 4 %}LONG {% endif %}assistant:",
    "escapes": "{% for m in messages %}{{ m.role }}: {{ m.content | e }}\n{% endfor %}assistant:",
}


def render_of(source: str, *, adds_bos: bool) -> Render:
    template = ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"})

    def render(messages: Conversation, generation: bool) -> str:
        text = template.render(messages, add_generation_prompt=generation)
        return text.removeprefix("<s>") if adds_bos else text

    return render


def accepted(render: Render, messages: Conversation) -> bool:
    try:
        render(messages, True)
    except TemplateError:
        return False
    return True


def go(template: str, talks: list[Conversation]) -> list[str]:
    asked = json.dumps({"template": template, "conversations": talks})
    done = subprocess.run(["go", "run", RENDER_GO], input=asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_a_chat_template_is_written_exactly(name: str, adds_bos: bool) -> None:
    render = render_of(EXPRESSIBLE[name], adds_bos=adds_bos)
    template, _ = ollama_template(render, "" if adds_bos else "<s>")
    talks = [t for t in conversations().values() if accepted(render, t)]
    assert len(talks) >= 3
    assert [render_go(template, *collate(t)) for t in talks] == [render(t, True) for t in talks]


@needs_go
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_go_writes_the_same_prompts(name: str) -> None:
    render = render_of(EXPRESSIBLE[name], adds_bos=True)
    template, _ = ollama_template(render, "")
    talks = [t for t in conversations().values() if accepted(render, t)]
    assert go(template, talks) == [render(t, True) for t in talks]


@pytest.mark.parametrize("name", REFUSED)
def test_what_ollama_cannot_write_is_refused(name: str) -> None:
    with pytest.raises(StepError, match="can't be written as an Ollama template") as raised:
        ollama_template(render_of(REFUSED[name], adds_bos=True), "")
    assert raised.value.details


def test_the_refusal_names_the_conversation_and_the_place() -> None:
    with pytest.raises(StepError) as raised:
        ollama_template(render_of(REFUSED["marks a long talk"], adds_bos=True), "")
    assert "three turns" in raised.value.what
    assert ">>>'LONG assistant:'" in raised.value.details[0]


def test_a_template_that_takes_no_talk_is_refused() -> None:
    with pytest.raises(StepError, match="refuses a plain conversation: never"):
        ollama_template(render_of("{{ raise_exception('never') }}", adds_bos=True), "")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("ChatML", "turn"),
        ("Mistral, system in the first turn", "first"),
        ("Mistral, system in the last turn", "last"),
        ("Gemma 3", "first"),
        ("Gemma 2", "nowhere"),
    ],
)
def test_where_the_system_message_stands(name: str, place: str) -> None:
    render = render_of(EXPRESSIBLE[name], adds_bos=True)
    assert ollama_template(render, "")[1].place == place


def test_chatml_reads_as_a_person_would_write_it() -> None:
    template, turns = ollama_template(render_of(CHATML, adds_bos=True), "")
    assert turns.user == ("<|im_start|>user\n", "<|im_end|>\n")
    assert turns.generation == "<|im_start|>assistant\n"
    assert '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n' in template


def test_a_system_message_later_on_stands_in_its_place() -> None:
    render = render_of(CHATML, adds_bos=True)
    template, _ = ollama_template(render, "")
    talk = [{"role": r, "content": r} for r in ("user", "assistant", "system", "user")]
    assert render_go(template, *collate(talk)) == render(talk, True)


def test_the_bos_is_written_only_where_llama_cpp_adds_none() -> None:
    with_bos, _ = ollama_template(render_of(LLAMA3, adds_bos=False), "<s>")
    without, _ = ollama_template(render_of(LLAMA3, adds_bos=True), "")
    assert with_bos == f"<s>{without}"


def test_stripping_is_noticed() -> None:
    assert trims(ChatTemplate(LLAMA3, {"bos_token": ""}))
    assert not trims(ChatTemplate(CHATML, {}))


@given(st.text(alphabet='{}"\\\n\t a%é\u200d\u00a0漢😀\x07'))
def test_escaped_text_renders_as_itself(text: str) -> None:
    escaped = escape(text)
    assert render_go(escaped, "", []) == text
    assert '"""' not in escaped
    assert all(c.isprintable() or c in "\n\t" for c in escaped)


@needs_go
def test_go_reads_escaped_text_as_itself() -> None:
    text = '{{ .Content }} {{{ {% x %} }} """ "\\n" \u200d\u00a0 😀 \x07 {'
    assert go(escape(text) + escape(text), [[]]) == [text + text]
