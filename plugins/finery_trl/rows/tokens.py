"""Rows to tokens, with proof that they teach the model what it is asked at inference.

The functions that render prompts for engines also render what is trained on, not TRL's: TRL goes
through Arrow, which gives every message all keys that any message has, as nulls that a chat
template may take for values.
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
"""An answer of at most so many tokens may be nothing but white space."""


class Tokens(NamedTuple):
    """A tokenizer, what its chat template is called with, and the token ids that end a turn."""

    tokenizer: "PreTrainedTokenizerBase"
    arguments: dict[str, Any]
    ends: frozenset[int]

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", arguments: dict[str, Any]) -> Self:
        """Find the tokens that end a turn. `StepError` for a template that can't be trained on.

        Its answers end with no special token, or its prompts lack what its answers open with, so
        that the model would have to write that itself.
        """
        from finery_transformers.chat import end_of_turn, unasked_header

        ends = end_of_turn(tokenizer, arguments)
        if not ends:
            raise StepError(
                "the chat template ends an answer with no special token, so a model can't learn "
                "to stop",
                fix="give the model a chat template that writes an end-of-turn or EOS token",
            )
        if header := unasked_header(tokenizer, arguments):
            raise StepError(
                "the chat template has no generation prompt: it opens each answer with "
                f"{header!r}, and a prompt doesn't end with that, so the model would be asked "
                "something else than it is trained on",
                fix=f"end the template with {_generation_prompt(header)}",
            )
        return cls(tokenizer, arguments, frozenset(ends))


def _generation_prompt(header: str) -> str:
    text = json.dumps(header, ensure_ascii=False)
    return "{%- if add_generation_prompt %}{{- " + text + " }}{%- endif %}"


class Fault(NamedTuple):
    """Why rows can't be learned from: what they have, and how to fix it."""

    says: str
    fix: str
    error: type[FineryError]


REFUSED = Fault(
    "a conversation that the model's chat template refuses",
    "give them the roles that the template takes, or give the model another template",
    DataError,
)
UNANSWERED = Fault("no answer to learn", "leave them out, or give them one", DataError)
EMPTY = Fault(
    "an empty answer, with no token with loss but its end",
    "leave them out, or write what the model shall answer, e.g. `none`",
    DataError,
)
UNWRITTEN = Fault(
    "an answer that the model's chat template doesn't write, so that no token has loss",
    "give the model a chat template that writes the assistant's turns",
    StepError,
)
CHANGED = Fault(
    "another prompt than the model will be asked",
    "the chat template writes earlier turns differently once there is an answer: give the model "
    "a chat template that doesn't",
    StepError,
)
ENDLESS = Fault(
    "an answer that doesn't end with an end-of-turn",
    "the model wouldn't learn to stop: give it a chat template that writes an end-of-turn or EOS "
    "token behind each answer",
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
    """The rows that can't be learned from, by fault: their ids, and details of the first few."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.read = 0
        self._ids: dict[Fault, list[str]] = {}
        self._details: dict[Fault, list[str]] = {}
        self._longer: list[str] = []
        self._longest = 0
        self._prompts = 0

    def add(self, row: Row, error: _Faulty) -> None:
        """Note a row with a fault."""
        ids = self._ids.setdefault(error.fault, [])
        details = self._details.setdefault(error.fault, [])
        if error.fault is CHANGED:
            details += error.details if not ids else []
        elif len(ids) < NAMED:
            details += [f"{row['id']}: {line}" for line in error.details]
        ids.append(row["id"])

    def add_longer(self, example: "Example", max_length: int) -> None:
        """Note a row that has too many tokens."""
        self._longer.append(example.row_id)
        self._longest = max(self._longest, example.size)
        self._prompts += example.size - example.loss_tokens >= max_length

    def check(self, job: Job, max_length: int, too_long: Literal["error", "drop"]) -> None:
        """Raise the first fault, with the others in its details; name dropped rows in the log."""
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
            prompts = f"in {self._prompts:,} of them the prompt alone is" if self._prompts else ""
            raise DataError(
                f"{text}: {some_of(self._longer)}",
                where="max_length",
                details=[prompts] if prompts else [],
                fix=f"max_length: {self._longest}"
                + ("" if every else ", or too_long: drop to leave them out"),
            )
        job.log(f"{text} (up to {self._longest}) and left out: {some_of(self._longer)}")


def examples_of(
    rows: Iterable[Row],
    tokens: Tokens,
    job: Job,
    *,
    what: str,
    max_length: int,
    too_long: Literal["error", "drop"],
) -> Iterator[Example]:
    """Every row in tokens, each proven: it extends its prompt, has loss and ends its turn.

    Rows are read one by one. Errors are raised after the last one, with the number and ids of all
    faulty rows. what: the name of these rows in errors. Raises `StepError` where the chat template
    breaks the proof; `DataError` for no rows at all, for rows without an answer or with an empty
    one, for conversations that the template refuses and for rows longer than `max_length` tokens.
    With `too_long="drop"` those are left out and named in the log.
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
    """Whether an answer has no text before it ends."""
    content = [t for t in answer if t not in tokens.ends]
    if len(content) > SHORT:
        return False
    decode: Any = tokens.tokenizer.decode
    return not content or not decode(content).strip()


def _difference(
    row_id: str, tokenizer: "PreTrainedTokenizerBase", prompt: Sequence[int], whole: Sequence[int]
) -> list[str]:
    """Both texts, from a little before the first token that differs."""
    pairs = enumerate(zip(prompt, whole, strict=False))
    first = next((i for i, (a, b) in pairs if a != b), min(len(prompt), len(whole)))
    decode: Any = tokenizer.decode
    window = slice(max(0, first - 8), first + 12)
    return [
        f"{row_id}: from token {first}",
        f"asked:   …{decode(prompt[window])!r}",
        f"trained: …{decode(whole[window])!r}",
    ]


def _no_rows(what: str) -> str:
    return (
        "leave validation out, or name a step with rows"
        if what == "validation"
        else ("check the step that they come from")
    )
