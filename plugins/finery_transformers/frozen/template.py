"""The frozen chat template of a model, for every file and server that answers with it."""

from collections.abc import Collection, Iterable, Mapping
from copy import copy
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from finery import Model
from finery.rows import Row
from finery_transformers.chat import SWITCHES
from finery_transformers.frozen.facts import facts_of
from finery_transformers.frozen.proof import Sample, check_same, prompt_or_none, samples, samples_of
from finery_transformers.frozen.source import (
    FROZEN_MARK,
    arguments_of,
    on_day,
    prologue,
    with_date,
    without_marks,
)
from finery_transformers.loading import load_tokenizer, template_arguments
from finery_transformers.wrapping import source_of, with_fixed_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kept = Literal["tools", "thinking"]


class FrozenTemplate(NamedTuple):
    """The template that all programs get, and facts about it.

    source: Jinja. tokenizer: the trained one with its own template, which writes the prompts of the
    training, also on other days. arguments: of that template, in training. tools: whether `source`
    writes tools; else it refuses them. date: the day that it writes, empty if it writes none.
    fixed: the arguments that a caller can't change. known: whether the model says what it was
    trained on; else only the recipe's arguments are fixed.
    """

    source: str
    tokenizer: "PreTrainedTokenizerBase"
    arguments: dict[str, Any]
    tools: bool = True
    date: str = ""
    fixed: tuple[str, ...] = ()
    known: bool = True

    def for_serving(self) -> "PreTrainedTokenizerBase":
        """The tokenizer with the frozen template."""
        return _with_template(self.tokenizer, self.source)

    def facts(self) -> dict[str, Any]:
        """What `meta` says of a frozen template."""
        return {"tools": self.tools} | ({"date": self.date} if self.date else {})

    def lines(self) -> list[str]:
        """What is frozen, for a log."""
        if not self.known:
            set_to = ", ".join(f"{name}: {self.arguments[name]!r}" for name in self.fixed)
            return [f"the chat template sets {set_to}, whatever a server passes"] if set_to else []
        lines = []
        if not self.tools:
            lines.append("the chat template refuses tools, since the training rows have none")
        if self.date:
            lines.append(
                f"the chat template writes the date of the training, {self.date}. Before the "
                "export, evaluations of the model write the day they run"
            )
        if self.fixed:
            lines.append(
                f"the chat template ignores {', '.join(self.fixed)} of a server, and writes the "
                "prompts of the training"
            )
        return lines


def frozen_template(
    model: Model, *, keep: Collection[Kept] = (), rows: Iterable[Row] = ()
) -> FrozenTemplate:
    """The template of `model` with which every program writes the prompts of the training.

    It has the arguments of the training built in, writes the training's date instead of today's,
    has no marks for trainers, and refuses tools if no training row had some. Arguments that the
    training didn't pass are ignored. A model that says nothing of its training, such as a base,
    keeps its template, with the recipe's arguments built in.

    keep: `tools` or `thinking` also if no training row used them: tools are written, and callers
    may switch thinking on and off. rows: more prompts to compare, besides finery's own.
    `StepError` if a prompt differs, or if the template can't be frozen.
    """
    tokenizer = load_tokenizer(model)
    arguments = template_arguments(model)
    source = source_of(tokenizer)
    if FROZEN_MARK in source:
        return FrozenTemplate(source, tokenizer, arguments)
    plain = without_marks(source)
    facts = facts_of(model)
    if facts is None:
        fixed = f"{FROZEN_MARK}\n{{{{- '' }}}}{with_fixed_arguments(plain, arguments)}"
        frozen = FrozenTemplate(fixed, tokenizer, arguments, fixed=tuple(arguments), known=False)
    else:
        frozen = _frozen(plain, tokenizer, arguments, facts, keep)
    _prove(frozen, rows)
    return frozen


def _frozen(
    source: str,
    tokenizer: "PreTrainedTokenizerBase",
    arguments: dict[str, Any],
    facts: Mapping[str, Any],
    keep: Collection[Kept],
) -> FrozenTemplate:
    written = str(facts.get("date") or "")
    dated = source
    if written:
        day = date.fromisoformat(written)
        dated = with_date(source, day)
        tokenizer = _with_template(tokenizer, on_day(source_of(tokenizer), day))
    tools = bool(facts.get("tools")) or "tools" in keep
    both = facts.get("thinking") and facts.get("switched")
    free = {*SWITCHES} - {*arguments} if both or "thinking" in keep else set()
    read = arguments_of(dated) - {"tools"}
    values = {**_tokens_in(read, tokenizer), **arguments}
    if "documents" in read:
        values.setdefault("documents", None)  # as transformers passes it
    unset = read - {*values} - free
    return FrozenTemplate(
        prologue(values, unset, tools=tools) + dated,
        tokenizer,
        arguments,
        tools=tools,
        date=written,
        fixed=tuple(sorted((read | {*arguments}) - free)),
    )


def _with_template(tokenizer: "PreTrainedTokenizerBase", source: str) -> "PreTrainedTokenizerBase":
    other = copy(tokenizer)
    other.chat_template = source
    return other


def _tokens_in(names: Collection[str], tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Special tokens that a template writes and that only transformers gives to it."""
    tokens = tokenizer.special_tokens_map
    return {name: value for name, value in tokens.items() if name in names}


def _prove(frozen: FrozenTemplate, rows: Iterable[Row]) -> None:
    """Compare the frozen template's prompts with those of the training."""
    original, other = frozen.tokenizer, frozen.for_serving()

    def of_training(sample: Sample) -> str | None:
        return prompt_or_none(original, sample, frozen.arguments)

    def of_frozen(sample: Sample, caller: Mapping[str, Any]) -> str | None:
        return prompt_or_none(other, sample, caller)

    own = samples(str(original.eos_token), tools=frozen.tools)
    check_same(of_training, of_frozen, [*own, *samples_of(rows)], frozen.fixed)
