"""Finds out if a chat template writes today's date, by rendering instead of reading its code.

Such a model learns prompts with the dates of its training, and gets prompts with later dates.
"""

import re
from datetime import datetime
from typing import Any, NamedTuple

from finery import DataError
from finery.rows import Conversation
from finery_transformers.chat import QUESTION, PromptTemplate
from finery_transformers.wrapping import source_of

_CLOCK = "{%- macro strftime_now(format) -%}finery marks <{{ format }}>{%- endmacro -%}"
"""Replaces the function with which templates get the time, by a mark with the requested format."""
_FORM = re.compile(r"finery marks <(.*?)>")
_GIVEN = "finery marks the date"
_PROMPTS: tuple[Conversation, ...] = (
    [QUESTION],
    [{"role": "system", "content": "?"}, QUESTION],
)


class WritesDate(NamedTuple):
    """today: the date as the template writes it now. argument: what sets it, empty if none does."""

    today: str
    argument: str


def writes_date(template: PromptTemplate) -> WritesDate | None:
    """The text that the template writes for today's date; None if it doesn't write it."""
    tokenizer: Any = template.tokenizer
    original, source = tokenizer.chat_template, source_of(tokenizer)
    tokenizer.chat_template = _CLOCK + source
    try:
        form = _FORM.search(_prompts(template))
        if form is None:
            return None
        names = dict.fromkeys(re.findall(r"[^\W\d]\w*", source))
        setting = (name for name in names if "date" in name and _sets(template, name))
        return WritesDate(datetime.now().strftime(form[1]), next(setting, ""))
    finally:
        tokenizer.chat_template = original


def _sets(template: PromptTemplate, name: str) -> bool:
    """Whether an argument replaces today's date."""
    text = _prompts(template.having(**{name: _GIVEN}))
    return _GIVEN in text and _FORM.search(text) is None


def _prompts(template: PromptTemplate) -> str:
    """The text of a few prompts, without those that the template refuses."""
    texts = []
    for prompt in _PROMPTS:
        try:
            texts.append(template.text(prompt))
        except DataError:
            continue
    return "".join(texts)
