"""Rows as tokens, with proof that they teach the model what is used at inference.

The functions that render prompts for engines also render the training rows, instead of TRL: TRL
uses Arrow, which gives every message all keys that any message has, as nulls that a chat template
may take for values.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from finery import DataError, Job, Model, StepError, UsageError
from finery.rows import Row, Turns
from finery_trl.rows.example import Example
from finery_trl.rows.faults import THOUGHTLESS, TOOLLESS, Fault, Faults, Faulty
from finery_trl.rows.turns import Learn, examples_of_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NEEDED = {
    TOOLLESS: ("tools", "calls", "arguments", "answers"),
    THOUGHTLESS: ("thinking",),
}
"""Fault → what a chat template must be able to do, so that it doesn't occur."""


ANSWERS = Learn()
"""All assistant turns, as the template writes them."""


class Tokens(NamedTuple):
    """A tokenizer, the arguments of its chat template, and the token ids that end a turn.

    base: the tokenizer of the base of an adapter, if its chat template is another one. date: today
    (`2026-11-26`), if the template writes it; else empty.
    """

    tokenizer: "PreTrainedTokenizerBase"
    arguments: dict[str, Any]
    ends: frozenset[int]
    base: "PreTrainedTokenizerBase | None" = None
    date: str = ""

    @classmethod
    def of_model(cls, model: Model) -> Self:
        """The tokens of a model, see `of`."""
        from finery_transformers.loading import base_of, load_tokenizer, template_arguments

        tokens = cls.of(load_tokenizer(model), template_arguments(model))
        if model.format != "adapter":
            return tokens
        try:
            base = load_tokenizer(base_of(model))
        except StepError:  # a base without a chat template can't contradict the adapter's
            return tokens
        same = base.chat_template == tokens.tokenizer.chat_template
        return tokens if same else tokens._replace(base=base)

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", arguments: dict[str, Any]) -> Self:
        """Find the tokens that end a turn.

        Raises `StepError` for arguments that the template doesn't read, and for a template that
        can't be trained on: its answers don't end with a
        special token, or its prompts lack the header of an answer, so that the model would have to
        write it.
        """
        from finery_transformers.chat import end_of_turn, unasked_header
        from finery_transformers.dates import writes_date

        _check_arguments(str(tokenizer.chat_template), arguments)
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
        today = date.today().isoformat() if writes_date(tokenizer, arguments) else ""
        return cls(tokenizer, arguments, frozenset(ends), date=today)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text that the chat template wrote."""
        from finery_transformers.chat import tokens_of

        return tokens_of(self.tokenizer, text)


def _check_arguments(template: str, arguments: Mapping[str, Any]) -> None:
    """Raise `StepError` for a mistyped argument, which a template would ignore."""
    names = set(re.findall(r"[^\W\d]\w*", template))
    for name in arguments:
        if name not in names:
            raise StepError(
                f"the model's chat template doesn't read '{name}', an argument in "
                "chat_template_kwargs",
                fix="correct the name in chat_template_kwargs of the model, or remove it",
            )


def _generation_prompt(header: str) -> str:
    text = json.dumps(header, ensure_ascii=False)
    return "{%- if add_generation_prompt %}{{- " + text + " }}{%- endif %}"


def examples_of(
    rows: Iterable[Row],
    tokens: Tokens,
    job: Job,
    *,
    what: str,
    max_length: int,
    too_long: Literal["error", "drop"],
    learn: Learn = ANSWERS,
) -> Iterator[Example]:
    """Every row as tokens, verified: each learned turn follows its prompt, has loss, and ends.

    A row yields several examples if the template writes earlier turns differently from how they
    were learned. Rows are read one by one. Errors are raised after the last one, with the number
    and ids of all faulty rows. what: the name of these rows in errors. Raises `StepError` for
    faults of the chat template; `DataError` if there are no rows, for rows without an answer or
    with an empty one, for conversations that the template refuses, and for examples longer than
    `max_length` tokens. With `too_long="drop"` those are dropped and logged.
    """
    learn = _with_switch(learn, tokens)
    faults = Faults(what, lambda fault: _offer(fault, tokens))
    weights = _Weights()
    for row in rows:
        faults.read += 1
        weights.add(row)
        try:
            examples = examples_of_row(row, tokens, learn)
        except Faulty as error:
            faults.add(row, error)
            continue
        yield from faults.fitting(examples, max_length)
    faults.refuse(job, max_length, too_long)
    if learn.loss == "marked":
        weights.refuse_unmarked(what)


def _with_switch(learn: Learn, tokens: Tokens) -> Learn:
    if learn.without_thinking == "template":
        return learn
    from finery_transformers.chat import thinking_switch

    switch = thinking_switch(tokens.tokenizer, tokens.arguments)
    if switch is None:
        raise UsageError(
            "without_thinking: switch, but the model's chat template has no switch for thinking",
            where="without_thinking",
            fix="remove without_thinking",
        )
    return learn._replace(switch=switch)


class _Weights:
    """The weights of the assistant turns in the rows, for `loss: marked`."""

    def __init__(self) -> None:
        self._zero = self._one = self._none = 0

    def add(self, row: Row) -> None:
        """Count the turns of a row."""
        turns = Turns.of(row)
        messages = turns.conversation
        for place in turns.replies:
            weight = messages[place].get("weight")
            self._zero += weight == 0
            self._none += weight is None
            self._one += weight == 1

    def refuse_unmarked(self, what: str) -> None:
        """Raise `DataError` if no turn is marked, or if marks leave open what isn't learned."""
        if not self._zero and not self._one:
            raise DataError(
                f"{what}: loss: marked, but no assistant turn has a `weight`",
                where="loss",
                fix="give turns `weight: 0` (not learned) or `weight: 1`, or set loss: all_turns",
            )
        if self._none and not self._zero:
            raise DataError(
                f"{what}: loss: marked, but only `weight: 1` occurs, and turns without a weight "
                f"would be learned too: {self._none:,} of the assistant's",
                where="loss",
                fix="give the turns that aren't to be learned `weight: 0`",
            )


def _offer(fault: Fault, tokens: Tokens) -> str:
    """The templates with which a fault wouldn't occur, as the beginning of a fix."""
    if fault not in NEEDED:
        return ""
    from finery_transformers.capabilities import templates_with

    names = templates_with(tokens.tokenizer, NEEDED[fault])
    if not names:
        return ""
    also = f" (or {', '.join(names[1:])})" if names[1:] else ""
    return (
        f"give the model a template with the same turns that writes them: chat_template: {names[0]}"
        f"{also}; or "
    )
