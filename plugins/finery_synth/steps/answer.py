"""`synth.answer`: the teacher answers the prompts of rows."""

from collections.abc import Iterable, Iterator
from typing import Any

from finery import Completion, UsageError, setting
from finery.rows import Conversation, Message, Row, split_turns
from finery.rows.answers.jsonvalues import unfenced
from finery.rows.parts import scope
from finery_synth.ask import defaults
from finery_synth.ask.asking import MOST_VARIANTS, Task
from finery_synth.ask.prompts import Prompt
from finery_synth.generator import Generator

SIDES = frozenset({"messages", "prompt", "completion", "chosen", "rejected"})


class Answer(Generator, keeps_prompts=True):
    """Have the prompts of rows answered by a teacher.

    Each row keeps its prompt, with the system prompt, the tools and all columns; its answer is the
    teacher's, tool calls as they are. A row that has an answer gets a new one. Where `checks` names
    a JSON Schema, answers are constrained to it by engines that can.
    The template says what the teacher sees instead of the row's system prompt and its last user
    turn; turns between stay, and the row itself stays as it was. It sees the row's columns and
    texts, as in `data.map`.
    """

    USE = "synth.answer"
    DEFAULT_PROMPT = defaults.ANSWER
    COMPARED = "answer"

    n: int = setting(
        1, ge=1, le=MOST_VARIANTS, help="Answers for each row, each in one of its own."
    )
    temperature: float = setting(
        0.7, ge=0.0, help="Sampling temperature; 0 always takes the likeliest token."
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        super().check()
        if self.n > 1 and self.temperature == 0:
            raise UsageError(
                "at temperature 0 all answers to a prompt are the same",
                where="n",
                fix="n: 1, or a temperature above 0",
            )
        if self.checks.similarity is not None and self.checks.similarity.on == "prompt":
            raise UsageError(
                "the prompts are given: that they are alike says nothing of the answers",
                where="checks.similarity.on",
                fix="on: answer",
            )

    def requests(self, rows: int) -> int:
        """One for each answer."""
        return rows * self.n

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """The prompt of each row, `n` times."""
        return times(self.n, self.seeds(), prompt)

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The row with the answer."""
        text = answer.text
        if self.answer_schema() is not None or self.checks.sql is not None:
            text = unfenced(text)
        turn: Message = {"role": "assistant", "content": text.strip()}
        if answer.tool_calls:
            turn["tool_calls"] = answer.tool_calls
        return [answered(task.seeds[0], turn)]

    def answer_schema(self) -> dict[str, Any] | None:
        """The schema that the checks hold answers against."""
        if self.checks.json_schema is None and self.checks.schema is None:
            return None
        schema = self.checks.answer_schema()
        return None if schema is None else schema.value


def answered(row: Row, turn: Message) -> Row:
    """The row with this turn as its answer."""
    prompt = split_turns(row)[0]
    rest = {k: v for k, v in row.items() if k not in SIDES}
    return {"messages": [*prompt, turn], **rest}


def asked(row: Row, template: Prompt) -> Conversation:
    """The row's prompt; with a template of the recipe, its system prompt and last user turn."""
    if template.is_default:
        return split_turns(row)[0]
    turns = [turn for turn in split_turns(row)[0] if turn["role"] != "system"]
    made = template.messages(scope(row), row)
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
    front = [turn for turn in made if turn["role"] == "system"]
    own = [turn for turn in made if turn["role"] != "system"]
    return [*front, *turns[:last], *own, *turns[last + 1 :]]


def times(n: int, rows: Iterable[Row], prompt: Prompt) -> Iterator[Task]:
    """The prompt of each row, `n` times."""
    for place, row in enumerate(rows):
        messages = asked(row, prompt)
        for variant in range(n):
            yield Task(
                number=place * n + variant, messages=messages, seeds=[row], variant=variant,
                tools=row.get("tools"),
            )  # fmt: skip
