"""The kit: row logic that steps share, for plugins of every author.

Each module does one thing with rows: their ids and turns, tables, templates, near copies, answers.
A step's key covers the definitions that its `run` reaches here, like those of plugins.
"""

from finery.rows.files import with_id
from finery.rows.row import (
    NOT_CONTENT,
    TURN_COLUMNS,
    Conversation,
    Message,
    Row,
    Turns,
    answer_text,
    example_request,
    is_preference,
    row_id,
    snippet,
    split_turns,
    with_turns,
)

__all__ = [
    "NOT_CONTENT",
    "TURN_COLUMNS",
    "Conversation",
    "Message",
    "Row",
    "Turns",
    "answer_text",
    "example_request",
    "is_preference",
    "row_id",
    "snippet",
    "split_turns",
    "with_id",
    "with_turns",
]
