"""Rows to tokens, with proof that a model can learn from them what it will be asked.

What is trained on is rendered by the functions that engines render prompts with, not by TRL:
TRL's way leads through Arrow, which gives every message the keys that any message has, as nulls
that a chat template may take for values.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from finery import DataError, Job, StepError
from finery.rows import Row, split_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NO_LOSS = -100
"""The label that torch's cross entropy passes over."""
NAMED = 5
"""Rows that an error or a note names."""


class Tokens(NamedTuple):
    """A tokenizer, what its chat template is called with, and the token ids that end a turn."""

    tokenizer: "PreTrainedTokenizerBase"
    arguments: dict[str, Any]
    ends: frozenset[int]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", arguments: dict[str, Any]) -> Self:
        """Find the ends. `StepError` where there is no such token, so that none can be learned."""
        from finery_transformers.chat import end_of_turn

        ends = end_of_turn(tokenizer, arguments)
        if not ends:
            raise StepError(
                "the chat template ends an answer with no special token, so a model can't learn "
                "to stop",
                fix="give the model a chat template that writes an end-of-turn or EOS token",
            )
        return cls(tokenizer, arguments, frozenset(ends))


class Example(NamedTuple):
    """A row in tokens. `labels` are as long as `tokens`, NO_LOSS on the prompt."""

    row_id: str
    tokens: list[int]
    labels: list[int]

    @property
    def loss_tokens(self) -> int:
        """Tokens with loss."""
        return sum(label != NO_LOSS for label in self.labels)


def examples_of(
    rows: Iterable[Row],
    tokens: Tokens,
    job: Job,
    *,
    what: str,
    max_length: int,
    too_long: Literal["error", "drop"],
) -> list[Example]:
    """Every row in tokens, each proven: it extends its prompt, has loss and ends its turn.

    what: the name of these rows in errors. Raises `StepError` naming the rows where the chat
    template breaks the proof; `DataError` for no rows at all, for rows without an answer and for
    rows longer than `max_length` tokens. With `too_long="drop"` these are left out and named in
    the log.
    """
    found = [_example(row, tokens, what) for row in rows]
    if not found:
        raise DataError(f"{what}: there are no rows", fix=_no_rows(what))
    _refuse(found, lambda e: e.loss_tokens == 0, "has no token with loss", what)
    _refuse(
        found, lambda e: e.tokens[-1] not in tokens.ends, "doesn't end with an end-of-turn", what
    )
    return _fitting(found, job, what, max_length, too_long)


def _example(row: Row, tokens: Tokens, what: str) -> Example:
    from finery_transformers.chat import row_tokens

    prompt, completion = split_turns(row)
    if not completion:
        raise DataError(
            f"{what}: row {row['id']} has no answer to learn",
            details=[str(m.get("content"))[:80] for m in prompt[-1:]],
            fix="leave it out, or give it one",
        )
    tokenizer, arguments, ends = tokens
    asked, whole = row_tokens(
        tokenizer, prompt, completion, ends, tools=row.get("tools"), arguments=arguments
    )
    if whole[: len(asked)] != asked:
        raise StepError(
            f"{what}: row {row['id']} would be trained with another prompt than the model will "
            "be asked",
            details=_difference(tokenizer, asked, whole),
            fix="the chat template writes a turn differently once it is answered: give the model "
            "a chat template that doesn't",
        )
    return Example(row["id"], whole, [NO_LOSS] * len(asked) + whole[len(asked) :])


def _difference(
    tokenizer: "PreTrainedTokenizerBase", asked: Sequence[int], whole: Sequence[int]
) -> list[str]:
    """Both texts, from a little before the first token that differs."""
    pairs = enumerate(zip(asked, whole, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(asked), len(whole)))
    decode: Any = tokenizer.decode
    window = slice(max(0, first - 8), first + 12)
    return [
        f"from token {first}",
        f"asked:   …{decode(asked[window])!r}",
        f"trained: …{decode(whole[window])!r}",
    ]


def _refuse(found: Sequence[Example], faulty: Any, fault: str, what: str) -> None:
    bad = [e for e in found if faulty(e)]
    if bad:
        raise StepError(
            f"{what}: the answer {fault} in {len(bad)} of {len(found)} rows: {_named(bad)}",
            fix="check these rows' answers and the model's chat template",
        )


def _fitting(
    rows: list[Example], job: Job, what: str, max_length: int, too_long: Literal["error", "drop"]
) -> list[Example]:
    longer = [e for e in rows if len(e.tokens) > max_length]
    if not longer:
        return rows
    longest = max(len(e.tokens) for e in longer)
    text = f"{what}: {len(longer)} of {len(rows)} rows are longer than {max_length} tokens"
    if too_long == "error" or len(longer) == len(rows):
        raise DataError(
            f"{text}: {_named(longer)}",
            fix=f"max_length: {longest}"
            + (", or too_long: drop to leave them out" if len(longer) < len(rows) else ""),
        )
    job.log(f"{text} (up to {longest}) and left out: {_named(longer)}")
    return [e for e in rows if len(e.tokens) <= max_length]


def _no_rows(what: str) -> str:
    return (
        "leave validation out, or name a step with rows"
        if what == "validation"
        else ("check the step that they come from")
    )


def _named(rows: Sequence[Example]) -> str:
    more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
    return ", ".join(e.row_id for e in rows[:NAMED]) + more
