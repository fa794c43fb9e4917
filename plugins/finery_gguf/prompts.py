"""Prompts of a GGUF, with its own chat template and tokenizer."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError

from finery import DataError, Model, StepError
from finery.rows import Conversation
from finery_gguf.chat import ChatTemplate
from finery_gguf.llama import Gguf
from finery_transformers.answering.answers import AnswerReader
from finery_transformers.answering.calls import Tools
from finery_transformers.chat import PromptTemplate
from finery_transformers.loading import given_template, template_arguments, tools_as
from finery_transformers.wrapping import with_text_tools

_PROBE = "\u2402"  # replaces the last turn's content to find the prompt before it


def model_template(gguf: Gguf, model: Model) -> ChatTemplate:
    """The chat template of a model that is a GGUF, with the settings of its step.

    `StepError` if it is missing or isn't Jinja.
    """
    arguments = template_arguments(model)
    template = chat_template(gguf, arguments, given_template(model))
    if (written := tools_as(model)) == "template":
        return template
    tokenizer: Any = template
    return chat_template(gguf, arguments, with_text_tools(tokenizer, written))


def chat_template(
    gguf: Gguf, arguments: Mapping[str, Any], replacement: str | None = None
) -> ChatTemplate:
    """The GGUF's own chat template, or the one given. `StepError` if it is missing or isn't Jinja.

    arguments: passed to the template in every call.
    """
    source = gguf.chat_template if replacement is None else replacement
    if source is None:
        raise StepError(
            "the GGUF has no chat template", where=str(gguf.path),
            fix="give it one with `chat_template:`, or export it from a model that has one",
        )  # fmt: skip
    try:
        return ChatTemplate(source, gguf.special_tokens(), arguments)
    except TemplateError as error:
        raise StepError(
            f"the GGUF's chat template isn't valid Jinja: {error}", where=str(gguf.path)
        ) from error


class Prompt(NamedTuple):
    """A prompt's text, its token ids, and how many of them come before the last turn's content."""

    text: str
    tokens: list[int]
    prefix: int


def tokenize(
    gguf: Gguf, template: ChatTemplate, messages: Conversation, tools: Tools | None = None
) -> Prompt:
    """The prompt of a conversation. `DataError` if the chat template refuses it."""
    text = render(template, messages, tools)
    tokens = gguf.encode_prompt(text)
    head = gguf.encode_prompt(_head(template, messages, tools, text))
    shared = 0
    # The last token never belongs to the shared part, since its logits are needed.
    for token, head_token in zip(tokens[:-1], head, strict=False):
        if token != head_token:
            break
        shared += 1
    return Prompt(text, tokens, shared)


def answer_reader(template: ChatTemplate) -> AnswerReader:
    """The reader of raw answers to the template's prompts."""

    return AnswerReader(template.source, partial(render, template))


def render(
    template: ChatTemplate,
    messages: Conversation,
    tools: Tools | None,
    add_generation_prompt: bool = True,
) -> str:
    """The template's text, of messages that are prepared as in a training.

    `DataError` if it refuses the conversation.
    """
    tokenizer: Any = template
    arguments = {"add_generation_prompt": add_generation_prompt}
    return PromptTemplate(tokenizer, arguments).text(messages, tools)


def _head(template: ChatTemplate, messages: Conversation, tools: Tools | None, text: str) -> str:
    """The part of the rendered `text` before the last turn's content; empty if that varies."""
    if not messages or not isinstance(messages[-1].get("content"), str):
        return ""
    try:
        probed = render(template, [*messages[:-1], {**messages[-1], "content": _PROBE}], tools)
    except DataError:
        return ""
    head, probe, _ = probed.partition(_PROBE)
    return head if probe and text.startswith(head) else ""


def whose(messages: Conversation) -> str:
    """The row of a conversation, for errors: an engine doesn't know its id."""
    content = str(messages[-1].get("content", "")) if messages else ""
    content_start = content if len(content) <= 80 else f"{content[:77]}…"
    return f"the row whose last turn is: {content_start!r}"
