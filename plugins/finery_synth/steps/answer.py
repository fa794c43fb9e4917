"""`synth.answer`: the teacher answers the prompts of rows."""

from collections.abc import Iterator
from typing import Any

from finery import Completion, UsageError, setting
from finery.rows import Message, Row
from finery.rows.answers.jsonvalues import unfenced
from finery_synth.ask import row_prompts
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.task import MOST_VARIANTS, Task
from finery_synth.generator import Generator
from finery_synth.rows import with_answer


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
    DEFAULT_PROMPT = row_prompts.TEMPLATE
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
        return row_prompts.row_tasks(self.n, self.seeds(), prompt)

    def read(self, task: Task, answer: Completion) -> list[Row]:
        """The row with the answer."""
        text = answer.text
        if self.answer_schema() is not None or self.checks.sql is not None:
            text = unfenced(text)
        turn: Message = {"role": "assistant", "content": text.strip()}
        if answer.tool_calls:
            turn["tool_calls"] = answer.tool_calls
        return [with_answer(task.seeds[0], turn)]

    def answer_schema(self) -> dict[str, Any] | None:
        """The schema that the checks hold answers against."""
        if self.checks.json_schema is None and self.checks.schema is None:
            return None
        schema = self.checks.answer_schema()
        return None if schema is None else schema.value
