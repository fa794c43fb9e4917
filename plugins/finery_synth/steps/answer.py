"""`synth.answer`: the teacher answers the prompts of rows."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from finery import Completion, Key, UsageError, setting
from finery.rows import TURN_COLUMNS, Conversation, Message, Row, split_turns
from finery.rows.answers.jsonvalues import strip_fence
from finery.rows.generated import DEFAULT_TEMPLATE
from finery.rows.parts import template_variables
from finery_synth.asking import MOST_VARIANTS, Task
from finery_synth.generator import Generator
from finery_synth.prompts import Prompt

TEMPLATE = """\
{# system #}
{{ system }}
{# user #}
{{ user }}
"""
"""The row's own prompt; other turns stay unchanged."""


class Answer(Generator, keeps_prompts=True):
    """Answer the prompts of rows with a teacher.

    Each row keeps its prompt, system prompt, tools and columns. Its answer, tool calls included, is
    replaced by the teacher's. If `checks` has a JSON Schema, engines that can do so constrain
    answers to it.
    A template replaces the row's system prompt and last user turn in what the teacher sees. Other
    turns and the row itself stay unchanged. The template can use the row's columns and texts, as in
    `data.map`.
    """

    DEFAULT_PROMPT = TEMPLATE
    COMPARED = "answer"

    n: int = setting(
        1, ge=1, le=MOST_VARIANTS, help="Answers for each row, each in a row of its own."
    )
    temperature: float = setting(
        0.7, ge=0.0, help="Sampling temperature; 0 always picks the likeliest token."
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        super().check()
        if self.n > 1 and self.temperature == 0:
            raise UsageError(
                "at temperature 0 all answers to a prompt are the same",
                where="n",
                fix="set n: 1, or a temperature above 0",
            )
        if self.checks.similarity is not None and self.checks.similarity.on == "prompt":
            raise UsageError(
                "the prompts are given, so only answers can be compared",
                where="checks.similarity.on",
                fix="set on: answer",
            )

    def variants(self) -> int:
        """One request for each answer."""
        return self.n

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """The prompt of each row, `n` times."""
        return prompts_of(self.seeds(), self.n, prompt)

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The row with the answer."""
        is_code = self.answer_schema() is not None or self.checks.sql is not None
        text = strip_fence(answer.text) if is_code else answer.text
        return [answered(task.seeds[0], answer, text)]

    def cache_key(self) -> Key:
        """Schemas only with one in `checks`, or with a judge."""
        checks = self.checks
        schemas = (checks.json_schema, checks.schema, checks.judge)
        is_needed = any(each is not None for each in schemas)
        return msgspec.structs.replace(super().cache_key(), schemas=is_needed)

    def answer_schema(self) -> dict[str, Any] | None:
        """The schema that answers must follow."""
        if self.checks.json_schema is None and self.checks.schema is None:
            return None
        schema = self.checks.answer_schema()
        return None if schema is None else schema.value


def prompts_of(rows: Iterable[Row], n: int, template: Prompt) -> Iterator[Task]:
    """The prompt of each row, `n` times.

    A recipe's template replaces the row's system prompt and last user turn.
    """
    for row in rows:
        messages: Conversation = split_turns(row)[0]
        if template.origin.name != DEFAULT_TEMPLATE:
            turns = [turn for turn in messages if turn["role"] != "system"]
            rendered = template.messages(template_variables(row), row)
            last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
            front = [turn for turn in rendered if turn["role"] == "system"]
            own = [turn for turn in rendered if turn["role"] != "system"]
            messages = [*front, *turns[:last], *own, *turns[last + 1 :]]
        for variant in range(n):
            yield Task(messages=messages, seeds=[row], variant=variant, tools=row.get("tools"))


def answered(row: Row, answer: Completion, text: str) -> Row:
    """The row with another answer: a text and the tool calls of a completion."""
    turn: Message = {"role": "assistant", "content": text.strip()}
    if answer.tool_calls:
        turn["tool_calls"] = answer.tool_calls
    rest = {k: v for k, v in row.items() if k not in TURN_COLUMNS}
    return {"messages": [*split_turns(row)[0], turn], **rest}
