"""Rows of trainings whose model writes the answers itself: the prompt of each, as tokens."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

from finery import Job
from finery.rows import Row
from finery_trl.rows.example import Answer
from finery_trl.rows.faults import Faults, Faulty
from finery_trl.rows.tokens import Tokens
from finery_trl.rows.turns import prompt_of_row


class Prompt(NamedTuple):
    """A prompt as tokens, with its row, which may have an expected answer.

    number: its place among the prompts, by which trainers name it. room: tokens of the longest
    answer.
    """

    number: int
    row: Row
    tokens: list[int]
    room: int

    @property
    def row_id(self) -> str:
        """The id of the row."""
        return str(self.row["id"])

    @property
    def sequences(self) -> int:
        """Always 1."""
        return 1

    @property
    def size(self) -> int:
        """Tokens of the prompt with the longest answer."""
        return len(self.tokens) + self.room

    @property
    def total_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.tokens)

    @property
    def loss_tokens(self) -> int:
        """None, before the model answers."""
        return 0

    def answers(self) -> list[Answer]:
        """The prompt with an empty answer."""
        return [Answer(self.tokens, [])]

    def columns(self) -> dict[str, Any]:
        """The column that TRL reads: a text that names the prompt."""
        return {"prompt": str(self.number)}


def prompts_of(
    rows: Iterable[Row],
    tokens: Tokens,
    job: Job,
    *,
    what: str,
    room: int,
    max_length: int,
    too_long: Literal["error", "drop"],
) -> Iterator[Prompt]:
    """The prompt of each row, rendered as at inference; answers of rows are kept, but not rendered.

    room: tokens of the longest answer, which must fit into `max_length` after the prompt. Raises
    the errors of `examples_of` for rows without a prompt and for those that are too long.
    """
    faults, number = Faults(what, tokens.tokenizer), 0
    for row in rows:
        faults.read(row)
        try:
            prompt = Prompt(number, row, prompt_of_row(row, tokens), room)
        except Faulty as error:
            faults.add(row, error)
            continue
        faults.measure([prompt], max_length)
        if prompt.size <= max_length:
            yield prompt
            number += 1
    faults.refuse(job, max_length, too_long, "all_turns")
