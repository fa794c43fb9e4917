"""Rows as tokens, with proof that they teach the model what is used at inference.

The functions that render prompts for engines also render the training rows, instead of TRL: TRL
uses Arrow, which gives every message all keys that any message has, as nulls that a chat template
may take for values.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from finery import Dataset, Job, Model, StepError, UsageError, outside_key
from finery.rows import Row
from finery_trl.rows.example import Answer, Example, Proven
from finery_trl.rows.faults import Faults, Faulty
from finery_trl.rows.turns import Learn, examples_of_row, prompt_of_row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from finery_transformers.chat import PromptTemplate
    from finery_trl.rows.remarks import Remarks
    from finery_trl.settings import Training

EVERY = 500
"""Rows between reports of progress."""
ANSWERS = Learn()
"""All assistant turns, as the template writes them."""


class Tokens(NamedTuple):
    """A tokenizer with its chat template, and the token ids that end a turn.

    base: the tokenizer of the base of an adapter, if its chat template is another one. date: today
    (`2026-11-26`), if the template writes it; else empty.
    """

    template: "PromptTemplate"
    ends: frozenset[int]
    base: "PreTrainedTokenizerBase | None" = None
    date: str = ""

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The tokenizer of the template."""
        return self.template.tokenizer

    @classmethod
    def of_model(cls, model: Model) -> Self:
        """The tokens of a model, see `of`."""
        from finery_transformers.loading import base_of, load_template, load_tokenizer

        tokens = cls.of(*load_template(model))
        if model.format != "adapter":
            return tokens
        try:
            base = load_tokenizer(base_of(model))
        except StepError:  # a base without a chat template can't contradict the adapter's
            return tokens
        same = base.chat_template == tokens.tokenizer.chat_template
        return tokens if same else tokens._replace(base=base)

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase", arguments: Mapping[str, Any]) -> Self:
        """Find the tokens that end a turn.

        Raises `StepError` for arguments that the template doesn't read, and for a template that
        can't be trained on: its answers don't end with a special token, or its prompts lack the
        header of an answer, so that the model would have to write it.
        """
        from finery_transformers.chat import PromptTemplate
        from finery_transformers.dates import writes_date

        template = PromptTemplate(tokenizer, arguments)
        ends = template.ends_of_turn()
        _check_template(template, ends)
        today = date.today().isoformat() if writes_date(template) else ""
        return cls(template, frozenset(ends), date=today)


@outside_key
def _check_template(template: "PromptTemplate", ends: Set[int]) -> None:
    """Raise `StepError` if a template can't be trained on, see `Tokens.of`."""
    names = set(re.findall(r"[^\W\d]\w*", str(template.tokenizer.chat_template)))
    for name in template.arguments:
        if name not in names:  # a template would ignore a mistyped argument
            raise StepError(
                f"the model's chat template doesn't read '{name}', an argument in "
                "chat_template_kwargs",
                fix="correct the name in chat_template_kwargs of the model, or remove it",
            )
    if not ends:
        raise StepError(
            "the chat template doesn't end an answer with a special token, so the model can't "
            "learn to stop",
            fix="use a chat template that writes an end-of-turn or EOS token",
        )
    if header := template.unasked_header():
        text = json.dumps(header, ensure_ascii=False)
        fix = "{%- if add_generation_prompt %}{{- " + text + " }}{%- endif %}"
        raise StepError(
            f"the chat template has no generation prompt: each answer begins with {header!r}, but "
            "prompts don't end with it, so the prompts used at inference would differ from those "
            "in training",
            fix=f"add at the end of the template: {fix}",
        )


class Reading(NamedTuple):
    """How the rows of an input are read. what: the name of the input in errors.

    max_length, too_long: the settings of the training.
    """

    tokens: Tokens
    job: Job
    what: str
    max_length: int
    too_long: Literal["error", "drop"] = "error"


def examples_of(rows: Iterable[Row], reading: Reading, learn: Learn = ANSWERS) -> Iterator[Example]:
    """Every row as tokens, verified: each learned turn follows its prompt, has loss, and ends.

    A row yields several examples if the template writes earlier turns differently from how they
    were learned. Rows are read one by one. Errors are raised after the last one, with the number
    and ids of all faulty rows. Raises `StepError` for faults of the chat template; `DataError` if
    there are no rows, for rows without an answer or with an empty one, for conversations that the
    template refuses, and for examples longer than `max_length` tokens. With `too_long="drop"` those
    are dropped and logged.
    """
    learn = _with_switch(learn, reading.tokens)
    faults = Faults(reading)
    for row in rows:
        faults.read(row)
        try:
            examples = examples_of_row(row, reading.tokens, learn)
        except Faulty as error:
            faults.add(row, error)
            continue
        faults.measure(examples)
        fitting = [example for example in examples if example.size <= reading.max_length]
        yield from (replace(example, part=part) for part, example in enumerate(fitting))
    faults.refuse(learn.loss)


def _with_switch(learn: Learn, tokens: Tokens) -> Learn:
    if learn.without_thinking == "template":
        return learn
    switch = tokens.template.thinking_switch()
    if switch is None:
        raise UsageError(
            "without_thinking: switch, but the model's chat template has no switch for thinking",
            where="without_thinking",
            fix="remove without_thinking",
        )
    return learn._replace(switch=switch)


@dataclass(frozen=True, slots=True)
class Prompt(Proven):
    """A prompt as tokens, with its row, which may have an expected answer.

    For trainings whose model writes the answers itself. number: its place among the prompts, by
    which trainers name it. room: tokens of the longest answer.
    """

    row_id: str
    number: int
    row: Row
    tokens: list[int]
    room: int

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


def prompts_of(rows: Iterable[Row], reading: Reading, room: int) -> Iterator[Prompt]:
    """The prompt of each row, rendered as at inference; answers of rows are kept, but not rendered.

    room: tokens of the longest answer, which must fit into `max_length` after the prompt. Raises
    the errors of `examples_of` for rows without a prompt and for those that are too long.
    """
    faults, number = Faults(reading), 0
    for row in rows:
        faults.read(row)
        try:
            prompt = Prompt(str(row["id"]), number, row, prompt_of_row(row, reading.tokens), room)
        except Faulty as error:
            faults.add(row, error)
            continue
        faults.measure([prompt])
        if prompt.size <= reading.max_length:
            yield prompt
            number += 1
    faults.refuse("all_turns")


def read_rows(
    step: "Training", datasets: Sequence[Dataset], reading: Reading, remarks: "Remarks"
) -> Iterator[Proven]:
    """The examples of all rows, as a training reads them; rows and examples are examined, too."""
    total = sum(map(len, datasets))

    def examined() -> Iterator[Row]:
        for row in chain.from_iterable(datasets):
            remarks.add_row(row)
            if len(remarks.ids) % EVERY == 0:
                reading.job.progress(len(remarks.ids), total, "reading rows")
            yield row

    for example in step.read(examined(), reading):
        remarks.add_example(example)
        yield example
