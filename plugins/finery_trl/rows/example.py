"""A row as tokens: the interface of all kinds of rows, and the kind with one answer."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

NO_LOSS = -100
"""The label that the cross entropy of torch ignores."""


class Answer(NamedTuple):
    """A prompt and its answer, as the tokens that are trained on.

    label: which of several answers it is, e.g. `chosen`; empty if there is only one.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    label: str = ""


class Proven(Protocol):
    """A row as tokens, verified to be learnable, as a trainer's collator takes it.

    row_id: the row's id. size: tokens of its longest sequence. sequences: number of its sequences.
    total_tokens, loss_tokens: tokens of its sequences, in all and with loss.
    """

    @property
    def row_id(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def sequences(self) -> int: ...

    @property
    def total_tokens(self) -> int: ...

    @property
    def loss_tokens(self) -> int: ...

    def answers(self) -> list[Answer]:
        """Each sequence, split where its answer begins."""

    def columns(self) -> dict[str, Any]:
        """Column → value, as TRL's collator expects them."""


class Example(NamedTuple):
    """A row with one answer. `labels` has the length of `tokens`, with NO_LOSS on the prompt."""

    row_id: str
    tokens: list[int]
    labels: list[int]

    @property
    def sequences(self) -> int:
        """Always 1: prompt and answer."""
        return 1

    @property
    def size(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.tokens)

    @property
    def total_tokens(self) -> int:
        """Tokens of the only sequence."""
        return self.size

    @property
    def loss_tokens(self) -> int:
        """Tokens with loss."""
        return sum(label != NO_LOSS for label in self.labels)

    def answers(self) -> list[Answer]:
        """The prompt, and the answer with loss."""
        return [Answer(*self.cut())]

    def columns(self) -> dict[str, Any]:
        """The columns of TRL's collator for language modeling."""
        return {"input_ids": self.tokens, "labels": self.labels}

    def cut(self) -> tuple[list[int], list[int]]:
        """(prompt, answer): the tokens before the loss, and those with loss."""
        start = len(self.tokens) - self.loss_tokens
        return self.tokens[:start], self.tokens[start:]
