"""The facts that Ollama needs about a model, derived from its GGUF."""

from collections.abc import Mapping
from typing import Any

import msgspec
from jinja2.exceptions import TemplateError

from finery import StepError
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate
from finery_gguf.llama import Gguf
from finery_gguf.prompts import chat_template
from finery_ollama.template import ollama_template
from finery_ollama.turns import Turns, trims

_DATE = "«date»"
_TOOL = {"type": "function", "function": {"name": "f", "description": "F.", "parameters": {}}}


class Derived(msgspec.Struct, frozen=True, kw_only=True):
    """The TEMPLATE of a model, and related facts.

    stops: texts that end an answer. takes_system: whether the template writes a system message.
    strips, writes_tools: whether the model's own chat template strips white space around messages,
    and whether it writes tools.
    """

    template: str
    stops: list[str]
    takes_system: bool
    strips: bool
    writes_tools: bool

    def notes(self) -> list[str]:
        """Differences between Ollama's prompts and the model's own that a template can't remove."""
        notes = []
        if not self.takes_system:
            notes.append(
                "The model's chat template takes no system message, so Ollama ignores one."
            )
        if self.strips:
            notes.append(
                "The model's chat template strips white space around each message, which Ollama "
                "templates can't do. Send messages without it."
            )
        if self.writes_tools:
            notes.append(
                "The model's chat template writes tools, but this TEMPLATE doesn't. For tools, "
                "serve the GGUF with `llama-server --jinja`."
            )
        return notes


def derive(gguf: Gguf, arguments: Mapping[str, Any]) -> Derived:
    """Derive the TEMPLATE. `StepError` if Ollama can't write the model's prompts.

    arguments: passed to the model's chat template.
    """
    chat = chat_template(gguf, arguments)
    template, turns = _template(gguf, chat)
    return Derived(
        template=template,
        stops=_stops(gguf, turns),
        takes_system=turns.place != "nowhere",
        strips=trims(chat),
        writes_tools=_writes_tools(chat),
    )


def _writes_tools(chat: ChatTemplate) -> bool:
    turns = [{"role": "user", "content": "?"}]
    try:
        return chat.render(turns, tools=[_TOOL]) != chat.render(turns)
    except TemplateError:
        return False


def _template(gguf: Gguf, chat: ChatTemplate) -> tuple[str, Turns]:
    """The TEMPLATE and the turns that it writes.

    If the GGUF says so, llama.cpp adds the BOS to a prompt, and the template omits it.
    """
    bos = gguf.token_text(gguf.bos) if gguf.bos >= 0 else ""

    def render(messages: Conversation, generation: bool) -> str:
        text = chat.render(messages, add_generation_prompt=generation)
        return text.removeprefix(bos) if gguf.adds_bos else text

    template, turns = ollama_template(render, "" if gguf.adds_bos else bos)
    if _writes_date(chat):
        raise StepError(
            "the chat template writes today's date, which Ollama templates can't do",
            where=str(gguf.path),
            fix="train with a chat template that writes a fixed date or none",
        )
    return template, turns


def _writes_date(chat: ChatTemplate) -> bool:
    dated = chat.with_arguments(strftime_now=lambda form: _DATE)
    return _DATE in dated.render([{"role": "user", "content": "?"}])


def _stops(gguf: Gguf, turns: Turns) -> list[str]:
    """Texts that end an answer: the control tokens that end its turn and begin the user's.

    If a template has no such tokens, the text between the two turns.
    """
    stops = []
    for text in (turns.assistant[1], turns.user[0]):
        control = [token for token in gguf.encode(text) if gguf.is_control(token)]
        stops += [gguf.token_text(token) for token in control[:1]]
    if not stops:
        between = (turns.assistant[1] + turns.user[0]).strip()
        stops = between.splitlines()[:1]
    return list(dict.fromkeys(stops))
