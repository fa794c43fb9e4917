"""A model's own chat template, which comes from strangers: rendered under limits."""

from collections.abc import Callable
from typing import Any

import msgspec

from finery.errors import DataError
from finery.rows.row import Conversation
from finery.rows.templates.limits import LimitExceeded, limited

BASIS, TIMES = 2**22, 8
"""Maximum output in characters: a basis, and an addition for each byte of the messages."""
_FIX = "give the model another chat template: put a chat_template.jinja into a copy of its folder"


def within_limits(work: Callable[[], Any]) -> Any:
    """Call `work`, which compiles a model's chat template. Raises the same errors as `written`."""
    try:
        with limited():
            return work()
    except LimitExceeded as error:
        raise DataError(f"the model's chat template {error}", fix=_FIX) from error


def written(render: Callable[[], Any], messages: Conversation) -> str:
    """The text that `render` makes of messages with a model's own chat template.

    `DataError` if that takes too much time or memory, or if the text becomes longer than any
    tokenizer could process.
    """
    text = str(within_limits(render))
    if len(text) > BASIS and len(text) > BASIS + TIMES * len(msgspec.json.encode(messages)):
        raise DataError(
            f"the model's chat template writes {len(text):,} characters for a short conversation",
            fix=_FIX,
        )
    return text
