"""A row in tokens: what all kinds of training need of it, and the kind with one answer to learn."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

NO_LOSS = -100
"""The label that torch's cross entropy ignores."""


class Answer(NamedTuple):
    """A prompt and an answer to it, in tokens, as they are trained on.

    label: which of several answers it is, e.g. `chosen`; empty where there is only one.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    label: str = ""


class Proven(Protocol):
    """A row in tokens, proven to be learnable; what a trainer's collator takes.

    row_id: the row's id. size: tokens of its longest sequence. sequences: how many it has.
    total_tokens, loss_tokens: all tokens of its sequences, and those of them with loss.
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
        """Each sequence, cut where its answer begins."""

    def columns(self) -> dict[str, Any]:
        """Column → value, as TRL's collator expects them."""


class Example(NamedTuple):
    """A row with one answer. `labels` are as long as `tokens`, NO_LOSS on the prompt."""

    row_id: str
    tokens: list[int]
    labels: list[int]

    @property
    def sequences(self) -> int:
        """One: prompt and answer."""
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
        """What TRL's collator for language modelling takes."""
        return {"input_ids": self.tokens, "labels": self.labels}

    def cut(self) -> tuple[list[int], list[int]]:
        """(prompt, answer): the tokens before those with loss, and those."""
        start = len(self.tokens) - self.loss_tokens
        return self.tokens[:start], self.tokens[start:]
