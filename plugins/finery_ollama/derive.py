"""The facts that Ollama needs about a model, derived from its GGUF.

Which template Ollama 0.30 and later use for a GGUF, according to the source code
(https://github.com/ollama/ollama/blob/main/server/images.go): a GGUF's chat template is used unless
the model has a TEMPLATE with at least the same capabilities. Ollama itself adds a TEMPLATE to a
model whose chat template differs in less than 100 characters from one that it knows
(template/template.go), and a renderer for some architectures (server/create.go), which replaces
both.
"""

import shutil
from collections.abc import Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from struct import pack, unpack_from

import msgspec
from jinja2.exceptions import TemplateError

from finery import Model, StepError
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate
from finery_gguf.llama import Gguf
from finery_gguf.prompts import chat_template, model_template
from finery_serve.llama import served_template
from finery_transformers.frozen.proof import conversations
from finery_transformers.frozen.template import (
    FROZEN,
    FROZEN_MARK,
    NO_TOOLS,
    ClientFacts,
    with_system,
)

SYSTEM, USER, ASSISTANT = "«system»", "«user{}»", "«assistant{}»"
SETTINGS = "`chat_template`, `chat_template_kwargs` or `tools_as`"
"""The settings of a model's step that change its prompts."""
_QUESTION = {"role": "user", "content": "?"}
_TOOL = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}
_NO_SYSTEM = "The model's chat template takes no system message, so Ollama can't send one."
_MARK_NOTE = (
    "Ollama may take the chat template for one that it knows, and use a TEMPLATE of its own "
    "instead. To prevent this, the GGUF in this folder has a comment before its chat template. "
    "Otherwise it is the same as the evaluated one."
)


class Derived(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a Modelfile, and what users must know.

    stops: texts that end an answer. takes_system: whether the model's prompts have system messages.
    notes: differences between Ollama's prompts and the model's own, and other things that users
    don't expect. needs_mark: whether Ollama may take the chat template for one that it knows.
    renderer: the code in Ollama that writes the prompts instead of any template. thinks: whether
    that has a model think that was trained without thinking.
    """

    stops: list[str]
    takes_system: bool
    notes: list[str]
    needs_mark: bool
    renderer: str | None
    thinks: bool


def derive(gguf: Gguf, model: Model) -> Derived:
    """The contents of the Modelfile. `StepError` if Ollama can't write the model's prompts.

    model: the artifact with the GGUF.
    """
    chat = model_template(gguf, model)
    is_in_file = served_template(gguf, model) is None
    if not is_in_file and gguf.adapter is not None:
        if not _is_like_base(gguf, chat, model):
            raise StepError(
                "Ollama would use the chat template of the base, which writes other prompts than "
                "those of the training",
                where=str(gguf.path),
                fix="export the model without `adapter: true`, which writes the chat template into "
                "the file; or serve it with llama.bundle",
            )
        chat = chat_template(gguf, {})
    elif not is_in_file:
        raise StepError(
            "Ollama would use the chat template in the GGUF's file, which lacks the "
            f"{SETTINGS} of its step, and write other prompts than the evaluated ones",
            where=str(gguf.path),
            fix="export the GGUF with gguf.export, which writes them into the file, and name that "
            "step; or serve it with llama.bundle",
        )
    takes_system = SYSTEM in _renders(chat, [{"role": "system", "content": SYSTEM}, _QUESTION])
    renderer = RENDERERS.get(gguf.metadata("general.architecture") or "")
    needs_mark = renderer is None and is_mistakable(chat.source)
    thinking = bool(dict(model.meta.get(FROZEN) or {}).get("thinking"))
    notes = [] if takes_system else [_NO_SYSTEM]
    notes += [_MARK_NOTE] if needs_mark else []
    notes += _template_notes(chat, thinking) if renderer is None else [_renderer_note(renderer)]
    if renderer is not None or (_has_thinking(chat.source) and _switches(chat)):
        notes.append(
            "Ollama switches thinking on unless a request has `think: false` (`ollama run "
            "--think=false`; at `/v1/chat/completions`, `reasoning_effort: none`)."
        )
    return Derived(
        stops=_stops(gguf, chat),
        takes_system=takes_system,
        notes=notes,
        needs_mark=needs_mark,
        renderer=renderer,
        thinks=renderer is not None and not thinking,
    )


def _is_like_base(gguf: Gguf, chat: ChatTemplate, model: Model) -> bool:
    """Whether the base's own chat template writes the prompts of `chat`, for the same messages.

    Only prompts without tools are compared: `chat` refuses tools unless the training had some.
    """
    if gguf.chat_template is None or dict(model.meta.get(FROZEN) or {}).get("tools"):
        return False
    own, system = chat_template(gguf, {}), ClientFacts.of(model.meta).system
    for messages in conversations(gguf.special_tokens().get("eos_token", "</s>")).values():
        texts = [_renders(template, with_system(messages, system)) for template in (chat, own)]
        if texts[0] != texts[1]:
            return False
    return True


def _template_notes(chat: ChatTemplate, thinking: bool) -> list[str]:
    """Differences between the prompts of the chat template in Ollama and those of the training.

    thinking: whether training rows had some. api/types.go: ToolFunctionParameters, ToolProperty;
    llm/llama_server.go: llamaServerChatMessage, llamaServerChatToolCalls.
    """
    notes = []
    with_tools = _renders(chat, [_QUESTION], [_TOOL])
    if with_tools and with_tools != _renders(chat, [_QUESTION]):
        notes.append(
            "Ollama rewrites tools: it writes `required` before `properties` and sorts the keys in "
            "`items`, drops fields such as `default`, `minimum` and `additionalProperties`, and "
            "rounds integers of more than 15 digits, also in earlier calls. If the training rows "
            "had tools in another form, the prompts differ from those of the training. "
            "`llama-server --jinja` changes only numbers: like Ollama, it writes 1.0 as 1."
        )
    if NO_TOOLS in chat.source:
        notes.append(
            "Ollama lists tools among the model's capabilities. The model was trained without "
            "them, and requests with tools end with an error that says so."
        )
    if thinking and writes_thinking(chat):
        notes.append(
            "Ollama drops the thinking (`reasoning_content`) of earlier answers, which training "
            "rows have and the chat template writes, so these prompts differ from those of the "
            "training. `llama-server --jinja` keeps it."
        )
    return notes


def writes_thinking(chat: ChatTemplate) -> bool:
    """Whether a chat template writes the thinking of an earlier answer, or of a call."""
    thought = {"role": "assistant", "content": "", "reasoning_content": ASSISTANT}
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    called = {**thought, "tool_calls": [call]}
    answer = {"role": "tool", "name": "f", "content": "?"}
    return ASSISTANT in _renders(chat, [_QUESTION, thought, _QUESTION]) + _renders(
        chat, [_QUESTION, called, answer], [_TOOL]
    )


def _renders(chat: ChatTemplate, messages: Conversation, tools: Conversation | None = None) -> str:
    """The prompt; empty if the template refuses the messages."""
    try:
        return chat.render(messages, tools=tools)
    except TemplateError:
        return ""


def _stops(gguf: Gguf, chat: ChatTemplate) -> list[str]:
    """The control tokens that end an answer and begin the user's next turn.

    llama.cpp stops at the former anyway. Empty if the template takes no two turns.
    """
    marks = [USER.format(1), ASSISTANT.format(1), USER.format(2)]
    roles = ("user", "assistant", "user")
    text = _renders(chat, [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)])
    between = text.partition(marks[1])[2].partition(marks[2])[0]
    control = [token for token in gguf.encode(between) if gguf.is_control(token)]
    return list(dict.fromkeys(gguf.token_text(token) for token in control))[:2]


RENDERERS: Mapping[str, str] = {
    "gemma4": "gemma4", "laguna": "laguna", "nemotron_h": "nemotron-3-nano",
    "nemotron_h_moe": "nemotron-3-nano", "nemotron_h_omni": "nemotron-3-nano",
}  # fmt: skip
"""Architecture of a GGUF → the renderer that Ollama uses for it instead of any template."""


def is_mistakable(chat_template: str) -> bool:
    """Whether Ollama may take a GGUF's chat template for one that it knows, and use its own.

    A frozen template isn't similar to any, and one with tools or thinking is preferred.
    """
    has_tools = "tools" in chat_template or "tool_call" in chat_template
    return FROZEN_MARK not in chat_template and not has_tools and not _has_thinking(chat_template)


def _renderer_note(renderer: str) -> str:
    by_name = ", in a form for small or large models that depends on the model's name"
    return (
        "Ollama writes the prompts of all models of this architecture with a renderer of its own, "
        f"{renderer}{by_name if renderer == 'gemma4' else ''}. They may differ from the prompts of "
        "the training. To use the model's chat template, serve the GGUF with "
        "`llama-server --jinja`."
    )


def _has_thinking(chat_template: str) -> bool:
    if "<think>" in chat_template and "</think>" in chat_template:
        return True
    splits = any(f"content.split({q}</think>{q})" in chat_template for q in "'\"")
    return splits and "reasoning_content" not in chat_template


def _switches(chat: ChatTemplate) -> bool:
    """Whether thinking can be switched in the way in which Ollama does it."""
    on, off = (_renders(chat.with_arguments(enable_thinking=v), [_QUESTION]) for v in (True, False))
    return on != off


_TEMPLATE_KEY = b"tokenizer.chat_template"
_ENTRY = pack("<Q", len(_TEMPLATE_KEY)) + _TEMPLATE_KEY + pack("<I", 8)
"""The beginning of the template's entry in a GGUF's metadata: its name, and the type of a text."""
_ALIGNMENT = 32
"""The bytes of which the offsets of tensors are multiples, in a GGUF that doesn't say."""


def copy_marked(gguf: Gguf, target: Path) -> None:
    """Copy a GGUF, and begin its chat template with the mark of frozen ones, which writes nothing.

    The mark takes a multiple of the alignment, so all that comes after it is as before.
    """
    alignment = int(gguf.metadata("general.alignment") or _ALIGNMENT)
    written = "\n{{- '' }}"  # removes the white space before it
    missing = -len((FROZEN_MARK + written).encode()) % alignment
    mark = (FROZEN_MARK + " " * missing + written).encode()
    with gguf.path.open("rb") as source, target.open("wb") as copy:
        with mmap(source.fileno(), 0, access=ACCESS_READ) as content:
            size_at = content.find(_ENTRY) + len(_ENTRY)
            (size,) = unpack_from("<Q", content, size_at)
            copy.write(content[:size_at] + pack("<Q", size + len(mark)) + mark)
        source.seek(size_at + 8)
        shutil.copyfileobj(source, copy, 1 << 20)
    if Gguf(target, vocab_only=True).chat_template != f"{mark.decode()}{gguf.chat_template}":
        raise StepError(
            "the chat template can't be found in the GGUF's metadata", where=str(gguf.path),
            fix="export the GGUF with gguf.export, and name that step",
        )  # fmt: skip
