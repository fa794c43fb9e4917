"""Chat templates with a prologue that prepares what the original template then writes.

`tools_as: text` is a convention for models whose chat template knows no tools: the tools stand in
the system message, a call is JSON between two tags in the assistant's text, and a tool's answer is
a user turn. The prologue is Jinja, so it goes wherever the template goes: into a training, a GGUF,
a server. It uses only what llama.cpp's engine for templates has too.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finery import DataError
from finery.rows import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOOLS_MARK = "{#- finery: tools as text #}"
ARGUMENTS_MARK = "{#- finery: arguments #}"
_SYSTEM = "finery asks for a system turn"

_GUIDE = (
    "# Tools\\n\\nYou can call these functions, each described by a line of JSON:"
    "{functions}\\n\\n"
    "To call functions, write one block like this for each call:\\n"
    "<tool_call>\\n{example}\\n</tool_call>\\n"
    "Their results follow between <tool_response> and </tool_response>."
)
_EXAMPLE = '{\\"name\\": \\"NAME\\", \\"arguments\\": {\\"ARGUMENT\\": \\"VALUE\\"}}'

_PROLOGUE = (
    TOOLS_MARK
    + """
{%- set finery = namespace(messages=[], guide='', text='', answers=false) %}
{%- if tools %}
{%- for tool in tools %}
{%- set finery.guide = finery.guide + '\\n' + (tool.function if tool.function else tool) | tojson %}
{%- endfor %}
{%- set finery.guide = "BEFORE" + finery.guide + "AFTER" %}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'GUIDED' and finery.guide %}
{%- if message.content is not string %}
{{- raise_exception('tools as text need a GUIDED message that is text') }}
{%- endif %}
{%- set finery.messages = finery.messages + [{'role': message.role, 'content': JOINED}] %}
{%- set finery.guide = '' %}
{%- set finery.answers = false %}
{%- elif message.role == 'tool' %}
{%- set result = message.content if message.content is string else message.content | tojson %}
{%- set finery.text = '<tool_response>\\n' + result + '\\n</tool_response>' %}
{%- if finery.answers %}
{%- set finery.text = finery.messages[-1].content + '\\n' + finery.text %}
{%- set finery.messages = finery.messages[:-1] %}
{%- endif %}
{%- set finery.messages = finery.messages + [{'role': 'user', 'content': finery.text}] %}
{%- set finery.answers = true %}
{%- elif message.role == 'user' and finery.answers and message.content is string %}
{%- set finery.text = finery.messages[-1].content + '\\n\\n' + message.content %}
{%- set finery.messages = finery.messages[:-1] + [{'role': 'user', 'content': finery.text}] %}
{%- set finery.answers = false %}
{%- elif message.tool_calls %}
{%- set finery.text = message.content if message.content else '' %}
{%- for call in message.tool_calls %}
{%- set function = call.function if call.function else call %}
{%- set given = function.arguments if function.arguments else {} %}
{%- set given = given if given is string else given | tojson %}
{%- set written = '{"name": ' + (function.name | tojson) + ', "arguments": ' + given + '}' %}
{%- set finery.text = finery.text + ('\\n' if finery.text else '') %}
{%- set finery.text = finery.text + '<tool_call>\\n' + written + '\\n</tool_call>' %}
{%- endfor %}
{%- if message.reasoning_content %}
{%- set finery.messages = finery.messages + [{
    'role': message.role, 'content': finery.text,
    'reasoning_content': message.reasoning_content}] %}
{%- elif message.thinking %}
{%- set finery.messages = finery.messages + [{
    'role': message.role, 'content': finery.text, 'thinking': message.thinking}] %}
{%- elif message.reasoning %}
{%- set finery.messages = finery.messages + [{
    'role': message.role, 'content': finery.text, 'reasoning': message.reasoning}] %}
{%- else %}
{%- set finery.messages = finery.messages + [{'role': message.role, 'content': finery.text}] %}
{%- endif %}
{%- set finery.answers = false %}
{%- else %}
{%- set finery.messages = finery.messages + [message] %}
{%- set finery.answers = false %}
{%- endif %}
{%- endfor %}
UNGUIDED{%- set messages = finery.messages %}
{%- set tools = none %}
{{- '' }}"""
)
_ADD_SYSTEM = """{%- if finery.guide %}
{%- set finery.messages = [{'role': 'system', 'content': finery.guide}] + finery.messages %}
{%- endif %}
"""
"""For conversations that begin with no system message of their own."""


_NEED_USER = """{%- if finery.guide %}
{{- raise_exception('tools as text need a user message') }}
{%- endif %}
"""


def with_text_tools(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A tokenizer's chat template with tools as text, see the module; once wrapped, it stays so.

    Where the template refuses or leaves out a system message, the tools stand before the text of
    the first user message.
    """
    source = source_of(tokenizer)
    if TOOLS_MARK in source:
        return source
    before, _, after = _GUIDE.partition("{functions}")
    after = after.replace("{example}", _EXAMPLE)
    has_system = _takes_system(tokenizer)
    role, joined, unguided = (
        ("system", "message.content + '\\n\\n' + finery.guide", _ADD_SYSTEM)
        if has_system
        else ("user", "finery.guide + '\\n\\n' + message.content", _NEED_USER)
    )
    prologue = _PROLOGUE.replace("BEFORE", before).replace("AFTER", after)
    prologue = prologue.replace("GUIDED message", f"{role} message").replace("UNGUIDED", unguided)
    prologue = prologue.replace("GUIDED", role).replace("JOINED", joined)
    return prologue + source


def with_fixed_arguments(source: str, arguments: Mapping[str, Any]) -> str:
    """A chat template that sets arguments itself, whatever the caller passes.

    Servers pass values of their own: llama.cpp passes `enable_thinking: true` by default.
    """
    if not arguments:
        return source
    lines = [f"{{%- set {name} = {_literal(value)} %}}\n" for name, value in arguments.items()]
    return f"{ARGUMENTS_MARK}\n{''.join(lines)}{{{{- '' }}}}{source}"


def source_of(tokenizer: "PreTrainedTokenizerBase", *, with_tools: bool = False) -> str:
    """The source of a tokenizer's chat template.

    Of several, the one that transformers uses for plain conversations, or for those with tools.
    """
    template: Any = tokenizer.chat_template
    if not isinstance(template, dict):
        return str(template)
    plain = str(template.get("default", ""))
    return str(template.get("tool_use", plain)) if with_tools else plain


def _literal(value: Any) -> str:
    """A JSON value in Jinja, whose names of constants are lower case but for `none`."""
    if isinstance(value, dict):
        items = (f"{json.dumps(key)}: {_literal(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _takes_system(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the template writes a system message."""
    from finery_transformers.chat import rendered

    turns: Conversation = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": "?"},
    ]
    try:
        return _SYSTEM in rendered(tokenizer, turns)
    except DataError:
        return False
