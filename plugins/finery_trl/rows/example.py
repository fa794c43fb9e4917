"""A row as tokens: the interface of all kinds of rows, and the kind with assistant turns."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

NO_LOSS = -100
"""The label that the cross entropy of torch ignores."""


class Answer(NamedTuple):
    """An answer and what precedes it, as the tokens that are trained on.

    prompt: all tokens before it, with earlier answers. label: which of several answers to the same
    prompt it is, e.g. `chosen`; empty if there is only one.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    label: str = ""


class Proven:
    """A row as tokens, verified to be learnable, as a trainer's collator takes it.

    row_id: the row's id, which the examples of a row share.
    """

    row_id: str

    @property
    def sequences(self) -> int:
        """The number of its sequences."""
        return 1

    @property
    def size(self) -> int:
        """Tokens of its longest sequence."""
        raise NotImplementedError

    @property
    def total_tokens(self) -> int:
        """Tokens of its sequences."""
        return self.size

    @property
    def loss_tokens(self) -> int:
        """Tokens of its sequences with loss."""
        raise NotImplementedError

    def answers(self) -> list[Answer]:
        """Each sequence, split where its answer begins."""
        raise NotImplementedError

    def columns(self) -> dict[str, Any]:
        """Column → value, as TRL's collator expects them."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Example(Proven):
    """A conversation with assistant turns to learn: a row, or one of several parts of a row.

    `labels` has the length of `tokens`, with NO_LOSS where nothing is learned. part: its number
    among the examples of the row, from 0. turns: assistant turns with loss.
    """

    row_id: str
    tokens: list[int]
    labels: list[int]
    part: int = 0
    turns: int = 1

    @property
    def size(self) -> int:
        """Tokens of the conversation."""
        return len(self.tokens)

    @property
    def loss_tokens(self) -> int:
        """Tokens with loss."""
        return sum(label != NO_LOSS for label in self.labels)

    def answers(self) -> list[Answer]:
        """Each uninterrupted part with loss, and the tokens before it."""
        answers, start = [], 0
        for learned, run in groupby(self.labels, lambda label: label != NO_LOSS):
            end = start + len(list(run))
            if learned:
                answers.append(Answer(self.tokens[:start], self.tokens[start:end]))
            start = end
        return answers

    def columns(self) -> dict[str, Any]:
        """The columns of TRL's collator for language modeling."""
        return {"input_ids": self.tokens, "labels": self.labels}


def rows_in(examples: Iterable[Proven]) -> int:
    """The number of rows that examples are of."""
    return sum(not continues(example) for example in examples)


def continues(example: Proven) -> bool:
    """Whether an example comes from the same row as the previous one."""
    return isinstance(example, Example) and example.part > 0
