"""Chat templates with a prologue that prepares the input of the original template.

`tools_as: text` and `tools_as: signatures` are conventions for models whose chat template doesn't
support tools: the system message lists the tools, a call is JSON between two tags in the
assistant's text, and a tool's answer is a user turn. They differ in how a tool is written: as JSON,
or as a line such as `move(number: string, days?: integer): Move a parcel.`, which has about half
the tokens and the same information, because types that such a line can't express are written as
JSON Schema. The prologue is Jinja, so it works wherever the template does: in a training, a GGUF, a
server. It only uses features that llama.cpp's template engine supports, too.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finery import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOOLS_MARK = "{#- finery: tools as text #}"
ARGUMENTS_MARK = "{#- finery: arguments #}"
_SYSTEM = "finery asks for a system turn"

_GUIDE = (
    "# Tools\\n\\nYou can call these functions{described}:"
    "{functions}\\n\\n"
    "To call functions, write one block like this for each call:\\n"
    "<tool_call>\\n{example}\\n</tool_call>\\n"
    "Their results follow between <tool_response> and </tool_response>."
)
_EXAMPLE = '{\\"name\\": \\"NAME\\", \\"arguments\\": {\\"ARGUMENT\\": \\"VALUE\\"}}'

_DESCRIBED = {
    "text": ", each described by a line of JSON",
    "signatures": ". Arguments with ? are optional",
}
_WRITTEN = {"text": "FUNCTION | tojson", "signatures": "finery_signature(FUNCTION)"}
_FUNCTION = "(tool.function if tool.function else tool)"

_SIGNATURES = """
{%- macro finery_has_only(schema, known) -%}
{%- set other = namespace(found=false) -%}
{%- for key in schema -%}
{%- if key not in known -%}
{%- set other.found = true -%}
{%- endif -%}
{%- endfor -%}
{{- '' if other.found else 'yes' -}}
{%- endmacro -%}
{%- macro finery_type(schema) -%}
{%- if finery_has_only(schema, ['type', 'enum', 'description']) and schema['enum'] -%}
{%- for value in schema['enum'] -%}
{{- '' if loop.first else '|' }}{{ value | tojson -}}
{%- endfor -%}
{%- elif finery_has_only(schema, ['type', 'description']) and schema['type'] is string -%}
{{- schema['type'] -}}
{%- elif finery_has_only(schema, ['type', 'items', 'description']) and schema['items'] is mapping
    and schema['type'] == 'array' -%}
{{- 'array of ' }}{{ finery_type(schema['items']) -}}
{%- else -%}
{{- schema | tojson -}}
{%- endif -%}
{%- if schema['description'] and finery_has_only(schema, ['type', 'enum', 'items', 'description'])
-%}
{{- ' (' + schema['description'] + ')' -}}
{%- endif -%}
{%- endmacro -%}
{%- macro finery_signature(tool) -%}
{%- set schema = tool['parameters'] if tool['parameters'] else {} -%}
{%- set known = ['type', 'properties', 'required', 'additionalProperties', 'title', '$schema'] -%}
{%- if schema['additionalProperties'] or not finery_has_only(schema, known) -%}
{{- tool | tojson -}}
{%- else -%}
{%- set required = schema['required'] if schema['required'] else [] -%}
{%- set properties = schema['properties'] if schema['properties'] else {} -%}
{{- tool['name'] + '(' -}}
{%- for name in properties -%}
{{- '' if loop.first else ', ' }}{{ name + ('' if name in required else '?') + ': ' -}}
{{- finery_type(properties[name]) -}}
{%- endfor -%}
{{- ')' + (': ' + tool['description'] if tool['description'] else '') -}}
{%- endif -%}
{%- endmacro -%}"""
"""Macros that write a tool as a signature, or as JSON if a signature can't express it."""

_PROLOGUE = (
    TOOLS_MARK
    + """MACROS
{%- set finery = namespace(messages=[], guide='', text='', answers=false) %}
{%- if tools %}
{%- for tool in tools %}
{%- set finery.guide = finery.guide + '\\n' + WRITTEN %}
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
"""For conversations that don't begin with a system message."""


_NEED_USER = """{%- if finery.guide %}
{{- raise_exception('tools as text need a user message') }}
{%- endif %}
"""


def with_text_tools(tokenizer: "PreTrainedTokenizerBase", written: str = "text") -> str:
    """A tokenizer's chat template with tools as text, see the module. Wrapping twice has no effect.

    written: `text` for JSON, or `signatures`. If the template refuses or omits a system message,
    the tools precede the text of the first user message.
    """
    source = source_of(tokenizer)
    if TOOLS_MARK in source:
        return source
    has_system = _takes_system(tokenizer)
    role, joined, unguided = (
        ("system", "message.content + '\\n\\n' + finery.guide", _ADD_SYSTEM)
        if has_system
        else ("user", "finery.guide + '\\n\\n' + message.content", _NEED_USER)
    )
    before, _, after = _GUIDE.partition("{functions}")
    parts = {
        "MACROS": _SIGNATURES if written == "signatures" else "",
        "WRITTEN": _WRITTEN[written].replace("FUNCTION", _FUNCTION),
        "BEFORE": before.replace("{described}", _DESCRIBED[written]),
        "AFTER": after.replace("{example}", _EXAMPLE),
        "UNGUIDED": unguided,
        "GUIDED": role,
        "JOINED": joined,
    }
    prologue = _PROLOGUE
    for place, text in parts.items():
        prologue = prologue.replace(place, text)
    return prologue + source


def with_fixed_arguments(source: str, arguments: Mapping[str, Any]) -> str:
    """A chat template that sets arguments itself, overriding those of the caller.

    Servers pass their own values: llama.cpp passes `enable_thinking: true` by default.
    """
    if not arguments:
        return source
    lines = [f"{{%- set {name} = {literal(value)} %}}\n" for name, value in arguments.items()]
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


def literal(value: Any) -> str:
    """A JSON value in Jinja, where the names of constants are lower case, and null is `none`."""
    if isinstance(value, dict):
        items = (f"{json.dumps(key)}: {literal(item)}" for key, item in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    return "none" if value is None else json.dumps(value, ensure_ascii=False)


def _takes_system(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the template writes a system message."""
    from finery_transformers.chat import QUESTION, PromptTemplate

    try:
        turns = [{"role": "system", "content": _SYSTEM}, QUESTION]
        return _SYSTEM in PromptTemplate(tokenizer).text(turns)
    except DataError:
        return False
