"""Rows as tokens, with proof that they teach the model what is used at inference.

The functions that render prompts for engines also render the training rows, instead of TRL: TRL
uses Arrow, which gives every message all keys that any message has, as nulls that a chat template
may take for values.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from finery import NAMED, DataError, FineryError, Job, StepError, some_of
from finery.rows import Row, answer_text, split_turns
from finery_trl.rows.example import NO_LOSS, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHORT = 4
"""Answers of at most this many tokens are checked for text other than white space."""


class Tokens(NamedTuple):
    """A tokenizer, the arguments of its chat template, and the token ids that end a turn."""

    tokenizer: "PreTrainedTokenizerBase"
    arguments: dict[str, Any]
    ends: frozenset[int]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", arguments: dict[str, Any]) -> Self:
        """Find the tokens that end a turn.

        Raises `StepError` for a template that can't be trained on: its answers don't end with a
        special token, or its prompts lack the header of an answer, so that the model would have to
        write it.
        """
        from finery_transformers.chat import end_of_turn, unasked_header

        ends = end_of_turn(tokenizer, arguments)
        if not ends:
            raise StepError(
                "the chat template doesn't end an answer with a special token, so the model can't "
                "learn to stop",
                fix="use a chat template that writes an end-of-turn or EOS token",
            )
        if header := unasked_header(tokenizer, arguments):
            raise StepError(
                f"the chat template has no generation prompt: each answer begins with {header!r}, "
                "but prompts don't end with it, so the prompts used at inference would differ from "
                "those in training",
                fix=f"add at the end of the template: {_generation_prompt(header)}",
            )
        return cls(tokenizer, arguments, frozenset(ends))


def _generation_prompt(header: str) -> str:
    text = json.dumps(header, ensure_ascii=False)
    return "{%- if add_generation_prompt %}{{- " + text + " }}{%- endif %}"


class Fault(NamedTuple):
    """Why rows can't be trained on: what they have, and how to fix it."""

    says: str
    fix: str
    error: type[FineryError]


REFUSED = Fault(
    "a conversation that the model's chat template refuses",
    "use roles that the template accepts, or give the model another template",
    DataError,
)
UNANSWERED = Fault("no answer to learn", "remove them, or add answers", DataError)
EMPTY = Fault(
    "an empty answer, in which only the end of the turn has loss",
    "remove them, or write the answer that the model should give, e.g. `none`",
    DataError,
)
UNWRITTEN = Fault(
    "an answer that the model's chat template doesn't write, so that no token has loss",
    "use a chat template that writes the assistant's turns",
    StepError,
)
CHANGED = Fault(
    "a prompt that differs from the one used at inference",
    "use a chat template that writes earlier turns in the same way with and without an answer",
    StepError,
)
ENDLESS = Fault(
    "an answer that doesn't end with an end-of-turn token",
    "use a chat template that writes an end-of-turn or EOS token after each answer, or the model "
    "won't learn to stop",
    StepError,
)
FAULTS = (REFUSED, UNANSWERED, EMPTY, UNWRITTEN, CHANGED, ENDLESS)
"""In the order in which they are reported."""


class _Faulty(Exception):
    """Raised for one row."""

    def __init__(self, fault: Fault, details: Sequence[str]) -> None:
        super().__init__(fault.says)
        self.fault = fault
        self.details = list(details)


class _Faults:
    """The rows that can't be trained on, by fault: their ids, and details of the first few."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.read = 0
        self._ids: dict[Fault, list[str]] = {}
        self._details: dict[Fault, list[str]] = {}
        self._longer: list[str] = []
        self._longest = 0
        self._prompts = 0

    def add(self, row: Row, error: _Faulty) -> None:
        """Add a row with a fault."""
        ids = self._ids.setdefault(error.fault, [])
        details = self._details.setdefault(error.fault, [])
        if error.fault is CHANGED:
            details += error.details if not ids else []
        elif len(ids) < NAMED:
            details += [f"{row['id']}: {line}" for line in error.details]
        ids.append(row["id"])

    def add_longer(self, example: "Example", max_length: int) -> None:
        """Add a row with too many tokens."""
        self._longer.append(example.row_id)
        self._longest = max(self._longest, example.size)
        self._prompts += example.size - example.loss_tokens >= max_length

    def check(self, job: Job, max_length: int, too_long: Literal["error", "drop"]) -> None:
        """Raise the first fault, with the others in its details; log the rows that are dropped."""
        if not self.read:
            raise DataError(f"{self.what}: there are no rows", fix=_no_rows(self.what))
        if self._ids:
            first, *others = (fault for fault in FAULTS if fault in self._ids)
            more = [f"also: {self._count(fault)}" for fault in others]
            raise first.error(
                f"{self.what}: {self._count(first)}",
                details=[*self._details[first], *more],
                fix=first.fix,
            )
        if self._longer:
            self._check_longer(job, max_length, too_long)

    def _count(self, fault: Fault) -> str:
        ids = self._ids[fault]
        return f"{fault.says} in {len(ids):,} of {self.read:,} rows: {some_of(ids)}"

    def _check_longer(self, job: Job, max_length: int, too_long: str) -> None:
        count, every = len(self._longer), len(self._longer) == self.read
        text = f"{self.what}: {count:,} of {self.read:,} rows are longer than {max_length} tokens"
        if too_long == "error" or every:
            prompts = f"in {self._prompts:,} of them, the prompt alone is" if self._prompts else ""
            raise DataError(
                f"{text}: {some_of(self._longer)}",
                where="max_length",
                details=[prompts] if prompts else [],
                fix=f"max_length: {self._longest}"
                + ("" if every else ", or too_long: drop to drop them"),
            )
        job.log(f"{text} (up to {self._longest}) and were dropped: {some_of(self._longer)}")


def examples_of(
    rows: Iterable[Row],
    tokens: Tokens,
    job: Job,
    *,
    what: str,
    max_length: int,
    too_long: Literal["error", "drop"],
) -> Iterator[Example]:
    """Every row as tokens, each verified: it extends its prompt, has loss and ends its turn.

    Rows are read one by one. Errors are raised after the last one, with the number and ids of all
    faulty rows. what: the name of these rows in errors. Raises `StepError` for faults of the chat
    template; `DataError` if there are no rows, for rows without an answer or with an empty one, for
    conversations that the template refuses, and for rows longer than `max_length` tokens. With
    `too_long="drop"` those are dropped and logged.
    """
    faults = _Faults(what)
    for row in rows:
        faults.read += 1
        try:
            example = _example(row, tokens)
        except _Faulty as error:
            faults.add(row, error)
            continue
        if example.size > max_length:
            faults.add_longer(example, max_length)
        else:
            yield example
    faults.check(job, max_length, too_long)


def _example(row: Row, tokens: Tokens) -> Example:
    from finery_transformers.chat import row_tokens

    prompt, completion = split_turns(row)
    last_turn = [repr(str(m.get("content"))[:80]) for m in prompt[-1:]]
    if not completion:
        raise _Faulty(UNANSWERED, last_turn)
    tokenizer, arguments, ends = tokens
    try:
        prompt_ids, whole = row_tokens(
            tokenizer, prompt, completion, ends, tools=row.get("tools"), arguments=arguments
        )
    except DataError as error:
        raise _Faulty(REFUSED, [error.what]) from error
    answer = whole[len(prompt_ids) :]
    if not answer and prompt_ids[: len(whole)] == whole:
        raise _Faulty(UNWRITTEN, last_turn)
    if whole[: len(prompt_ids)] != prompt_ids:
        raise _Faulty(CHANGED, _difference(row["id"], tokenizer, prompt_ids, whole))
    if _is_empty(answer, tokens):
        raise _Faulty(UNWRITTEN if answer_text(row).strip() else EMPTY, last_turn)
    if answer[-1] not in ends:
        raise _Faulty(ENDLESS, last_turn)
    return Example(row["id"], whole, [NO_LOSS] * len(prompt_ids) + answer)


def _is_empty(answer: Sequence[int], tokens: Tokens) -> bool:
    """Whether an answer has no text before its end."""
    content = [t for t in answer if t not in tokens.ends]
    if len(content) > SHORT:
        return False
    decode: Any = tokens.tokenizer.decode
    return not content or not decode(content).strip()


def _difference(
    row_id: str, tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[int], whole: Sequence[int]
) -> list[str]:
    """Both texts, from shortly before the first token that differs."""
    pairs = enumerate(zip(prompt, whole, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(prompt), len(whole)))
    decode: Any = tokenizer.decode
    window = slice(max(0, first - 8), first + 12)
    return [
        f"{row_id}: from token {first}",
        f"at inference: …{decode(prompt[window])!r}",
        f"in training:  …{decode(whole[window])!r}",
    ]


def _no_rows(what: str) -> str:
    return (
        "remove validation, or name a step with rows"
        if what == "validation"
        else ("check the step that they come from")
    )
