"""Chat templates as Ollama templates: written exactly, or refused."""

from collections.abc import Callable
from typing import Any

import pytest
from go_templates import go_prompts, needs_go
from hypothesis import given
from hypothesis import strategies as st
from jinja2.exceptions import TemplateError

from finery import StepError
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate
from finery_ollama.template import Render, Turns, conversations, escape, ollama_template, write_go

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


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_a_chat_template_is_accepted(name: str, adds_bos: bool) -> None:
    render = render_of(EXPRESSIBLE[name], adds_bos=adds_bos)
    _, turns = ollama_template(render, "" if adds_bos else "<s>")
    talks = [t for t in conversations().values() if accepted(render, t)]
    assert len(talks) >= 3
    assert [turns.prompt(t) for t in talks] == [render(t, True) for t in talks]


@needs_go
@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_go_writes_the_same_prompts(name: str, adds_bos: bool) -> None:
    render = render_of(EXPRESSIBLE[name], adds_bos=adds_bos)
    template, _ = ollama_template(render, "" if adds_bos else "<s>")
    talks = [t for t in conversations().values() if accepted(render, t)]
    assert go_prompts(template, talks) == [render(t, True) for t in talks]


CONTENT = st.text(alphabet='{}"\\\n\t a%é\u200d\u00a0漢😀\x07.$')
AROUND = st.tuples(CONTENT, CONTENT)
TURNS = st.builds(
    Turns,
    head=CONTENT,
    lead=CONTENT,
    user=AROUND,
    assistant=AROUND,
    generation=CONTENT,
    place=st.sampled_from(["turn", "first", "last", "nowhere"]),
    system=AROUND,
)


@st.composite
def talks(draw: Callable[[Any], Any], roles: tuple[str, ...]) -> Conversation:
    """Any conversation in which no two adjacent messages have one role: Ollama merges such."""
    drawn = draw(st.lists(st.sampled_from(roles), min_size=1, max_size=7))
    kept = [role for role, before in zip(drawn, ["", *drawn], strict=False) if role != before]
    return [{"role": role, "content": draw(CONTENT)} for role in kept]


@needs_go
@given(TURNS, st.lists(talks(("system", "user", "assistant")), min_size=1, max_size=5))
def test_go_writes_any_turns(turns: Turns, conversations: list[Conversation]) -> None:
    """What a step doesn't look at: that the Go template writes the prompts of its `Turns`."""
    expected = [turns.prompt(messages) for messages in conversations]
    assert go_prompts(write_go(turns), conversations) == expected


PLACES = {
    "turn": "{{ S0 if m.role == 'system' else U0 }}{{ m.content }}"
    "{{ S1 if m.role == 'system' else U1 }}",
    "first": "{% if m.role == 'user' %}"
    "{{ S0 + system + S1 if system and loop.index < 3 else U0 }}{{ m.content }}{{ U1 }}{% endif %}",
    "last": "{% if m.role == 'user' %}"
    "{{ S0 + system + S1 if system and loop.last else U0 }}{{ m.content }}{{ U1 }}{% endif %}",
    "nowhere": "{% if m.role == 'user' %}{{ U0 }}{{ m.content }}{{ U1 }}{% endif %}",
}
CHAT_TEMPLATE = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{{ H }}{{ '' if system and FIRST else L }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ A0 }}{{ m.content }}{{ A1 }}{% else %}PLACE{% endif %}"
    "{% endfor %}"
    "{{ G if add_generation_prompt else '' }}"
)
PARTS = st.lists(
    st.sampled_from(["[INST]", "### user:", "\n", " ", "{{", '"""', "bot"]), max_size=3
)
TEXTS = st.fixed_dictionaries(
    {name: PARTS.map("".join) for name in ("H", "L", "S0", "S1", "U0", "U1", "A0", "A1", "G")}
)


@st.composite
def plain_talks(draw: Callable[[Any], Any]) -> Conversation:
    """[system], user, assistant, …, user, with texts that begin and end without white space."""
    turns = draw(st.integers(min_value=0, max_value=3))
    roles = ["system"] * draw(st.booleans()) + ["user", "assistant"] * turns + ["user"]
    return [{"role": role, "content": f"x{draw(CONTENT)}y"} for role in roles]


@needs_go
@given(st.sampled_from(sorted(PLACES)), TEXTS, st.lists(plain_talks(), min_size=1, max_size=5))
def test_what_is_accepted_is_written_exactly(
    place: str, texts: dict[str, str], talks: list[Conversation]
) -> None:
    """For chat templates of any texts, and conversations that the step didn't compare."""
    source = CHAT_TEMPLATE.replace("PLACE", PLACES[place])
    chat = ChatTemplate(source, texts, {"FIRST": place in ("turn", "first")})

    def render(messages: Conversation, generation: bool) -> str:
        return chat.render(messages, add_generation_prompt=generation)

    try:
        template, _ = ollama_template(render, "")
    except StepError:
        return  # refused, rather than written wrong
    assert go_prompts(template, talks) == [render(talk, True) for talk in talks]


@pytest.mark.parametrize("name", REFUSED)
def test_what_ollama_cannot_write_is_refused(name: str) -> None:
    with pytest.raises(StepError, match="can't be written as an Ollama template") as raised:
        ollama_template(render_of(REFUSED[name], adds_bos=True), "")
    assert raised.value.details


@given(CONTENT)
def test_escaped_text_is_safe_in_a_modelfile(text: str) -> None:
    escaped = escape(text)
    assert '"""' not in escaped
    assert all(c.isprintable() or c in "\n\t" for c in escaped)


@needs_go
@given(CONTENT)
def test_go_reads_escaped_text_as_itself(text: str) -> None:
    assert go_prompts(escape(text) + escape(text), [[]]) == [text + text]
