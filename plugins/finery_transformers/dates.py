"""Finds out if a chat template writes today's date, by rendering instead of reading its code.

Such a model learns prompts with the dates of its training, and gets prompts with later dates.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from finery import DataError
from finery.rows import Conversation
from finery_transformers.chat import rendered
from finery_transformers.wrapping import source_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOCK = "{%- macro strftime_now(format) -%}finery marks <{{ format }}>{%- endmacro -%}"
"""Replaces the function with which templates get the time, by a mark with the requested format."""
_FORM = re.compile(r"finery marks <(.*?)>")
_GIVEN = "finery marks the date"
_PROMPTS: tuple[Conversation, ...] = (
    [{"role": "user", "content": "?"}],
    [{"role": "system", "content": "?"}, {"role": "user", "content": "?"}],
)


class WritesDate(NamedTuple):
    """today: the date as the template writes it now. argument: what sets it, empty if none does."""

    today: str
    argument: str


def writes_date(
    tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any]
) -> WritesDate | None:
    """The text that the template writes for today's date; None if it doesn't write it.

    arguments: other arguments of the template.
    """
    original, source = tokenizer.chat_template, source_of(tokenizer)
    tokenizer.chat_template = _CLOCK + source
    try:
        form = _FORM.search(_prompts(tokenizer, arguments))
        if form is None:
            return None
        names = dict.fromkeys(re.findall(r"[^\W\d]\w*", source))
        setting = (name for name in names if "date" in name and _sets(tokenizer, arguments, name))
        return WritesDate(datetime.now().strftime(form[1]), next(setting, ""))
    finally:
        tokenizer.chat_template = original


def _sets(tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any], name: str) -> bool:
    """Whether an argument replaces today's date."""
    text = _prompts(tokenizer, {**arguments, name: _GIVEN})
    return _GIVEN in text and _FORM.search(text) is None


def _prompts(tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any]) -> str:
    """The text of a few prompts, without those that the template refuses."""
    texts = []
    for prompt in _PROMPTS:
        try:
            texts.append(rendered(tokenizer, prompt, arguments=arguments))
        except DataError:
            continue
    return "".join(texts)
