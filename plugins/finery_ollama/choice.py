"""Which template Ollama 0.30 and later use for a GGUF, according to the source code.

https://github.com/ollama/ollama/blob/main/server/images.go: a GGUF's chat template is used unless
the model has a TEMPLATE with at least the same capabilities. Ollama itself adds a TEMPLATE to a
model whose chat template differs in less than 100 characters from one that it knows
(template/template.go), and a renderer for some architectures (server/create.go), which replaces
both.
"""

from collections.abc import Mapping

from jinja2.exceptions import TemplateError

from finery_gguf.chat import ChatTemplate
from finery_transformers.frozen.template import FROZEN_MARK, NO_TOOLS

RENDERERS: Mapping[str, str] = {
    "gemma4": "gemma4", "laguna": "laguna", "nemotron_h": "nemotron-3-nano",
    "nemotron_h_moe": "nemotron-3-nano", "nemotron_h_omni": "nemotron-3-nano",
}  # fmt: skip
"""Architecture of a GGUF → the renderer that Ollama uses for it instead of any template."""


def replaces(chat_template: str) -> bool:
    """Whether a TEMPLATE replaces a GGUF's chat template, so that the Modelfile must have one.

    Otherwise Ollama may use a built-in one, made for a similar chat template. A frozen template
    isn't similar to any, and one with tools or thinking is preferred to a TEMPLATE without them.
    """
    return FROZEN_MARK not in chat_template and not (
        _has_tools(chat_template) or _has_thinking(chat_template)
    )


def new_notes(architecture: str, chat: ChatTemplate) -> list[str]:
    """What users of Ollama 0.30 or later must know about a model.

    architecture: as in the GGUF. chat: its chat template.
    """
    notes = []
    if renderer := RENDERERS.get(architecture):
        size = (
            ", in a form for small or large models that depends on the model's name"
            if renderer == "gemma4"
            else ""
        )
        notes.append(
            f"Ollama writes the prompts of all {architecture} models with a renderer of its own, "
            f"{renderer}{size}. They may differ from the prompts of the training. To use the "
            "model's chat template, serve the GGUF with `llama-server --jinja`."
        )
    if NO_TOOLS in chat.source:
        notes.append(
            "Ollama lists tools among the model's capabilities. The model was trained without "
            "them, and requests with tools end with an error that says so."
        )
    if _has_thinking(chat.source) and _switches(chat):
        notes.append(
            "Ollama switches thinking on unless a request has `think: false` "
            "(`ollama run --think=false`)."
        )
    return notes


def _has_tools(chat_template: str) -> bool:
    return "tools" in chat_template or "tool_call" in chat_template


def _has_thinking(chat_template: str) -> bool:
    if "<think>" in chat_template and "</think>" in chat_template:
        return True
    splits = any(f"content.split({q}</think>{q})" in chat_template for q in "'\"")
    return splits and "reasoning_content" not in chat_template


def _switches(chat: ChatTemplate) -> bool:
    """Whether thinking can be switched in the way in which Ollama does it."""
    turns = [{"role": "user", "content": "?"}]
    try:
        on, off = (
            chat.with_arguments(enable_thinking=value).render(turns) for value in (True, False)
        )
    except TemplateError:
        return False
    return on != off
