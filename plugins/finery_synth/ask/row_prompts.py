"""Tasks with the prompts of rows, unchanged or rendered with a recipe's template."""

from collections.abc import Iterable, Iterator

from finery.rows import Conversation, Row, split_turns
from finery.rows.parts import scope
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.task import Task

TEMPLATE = """\
{# system #}
{{ system }}
{# user #}
{{ user }}
"""
"""The row's own prompt; other turns stay unchanged."""


def row_tasks(n: int, rows: Iterable[Row], template: Prompt) -> Iterator[Task]:
    """The prompt of each row, `n` times."""
    for place, row in enumerate(rows):
        messages = prompt_of(row, template)
        for variant in range(n):
            yield Task(
                number=place * n + variant, messages=messages, seeds=[row], variant=variant,
                tools=row.get("tools"),
            )  # fmt: skip


def prompt_of(row: Row, template: Prompt) -> Conversation:
    """The row's prompt. A recipe's template replaces its system prompt and last user turn."""
    if template.is_default:
        return split_turns(row)[0]
    turns = [turn for turn in split_turns(row)[0] if turn["role"] != "system"]
    rendered = template.messages(scope(row), row)
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
    front = [turn for turn in rendered if turn["role"] == "system"]
    own = [turn for turn in rendered if turn["role"] != "system"]
    return [*front, *turns[:last], *own, *turns[last + 1 :]]
