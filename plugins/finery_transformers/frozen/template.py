"""The frozen chat template of a model, for every file and server that answers with it."""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import copy
from datetime import date
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from finery import Model, StepError
from finery.rows import Conversation, Message, Row, Turns
from finery_transformers.chat import SWITCHES, PromptTemplate, thinking_of
from finery_transformers.frozen.proof import Sample, check_same, prompt_or_none, samples, samples_of
from finery_transformers.loading import load_template
from finery_transformers.wrapping import literal, source_of, with_fixed_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


PROMPTS = "prompts"
"""The entry of `meta`. `tools`, `thinking`, `switched`: whether a row used it; the last means that
thinking was switched off in the prompt of a row without it. `system`: the system message that all
rows have; empty if none has one, None if they differ. `date`: the day that the template wrote
(`2026-11-26`), absent if it writes none. `training_example`: see `example_request`. `tools_differ`:
whether rows offer different tools, or only some offer any; else the example has those of all."""
FROZEN = "frozen"
"""The entry of a GGUF's `meta` with the facts of its frozen template."""
SYSTEMS_DIFFER = (
    "the training rows have different system messages, or only some have one, so clients must send "
    "the right one"
)
TOOLS_DIFFER = (
    "the training rows offer different tools, or only some offer any, so clients must send those "
    "that fit the question"
)
_CLIENT = ("training_example", "tools_differ", "tool_choice")
_SYSTEM = ("system", "developer")
"""Roles of a message that says how to answer."""


def facts_of(model: Model) -> Mapping[str, Any] | None:
    """The settings of a model's training rows; None if the model doesn't record them."""
    facts = model.meta.get(PROMPTS)
    return facts if isinstance(facts, Mapping) else None


class ClientFacts(NamedTuple):
    """What clients of a model or bundle must know of its training rows; empty where nothing is.

    system: the message that all rows have. training_example, tools_differ: as in `PROMPTS`.
    tool_choice: of requests to a bundle's server.
    """

    system: str = ""
    training_example: str = ""
    tools_differ: bool = False
    tool_choice: str = ""

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Self:
        """The facts in the `meta` of a model or bundle."""
        values = dict[str, Any]()
        for recorded in (meta, meta.get(FROZEN), meta.get(PROMPTS)):  # the last one wins
            if isinstance(recorded, Mapping):
                values |= {name: recorded[name] for name in cls._fields if recorded.get(name)}
        return cls(**values)

    @property
    def example(self) -> dict[str, Any]:
        """The request of a training row; empty if none is recorded."""
        request: dict[str, Any] = json.loads(self.training_example or "{}")
        return request

    @property
    def tools(self) -> list[dict[str, Any]] | None:
        """The tools that all training rows offer; None if they offer none."""
        return None if self.tools_differ else self.example.get("tools")

    def meta(self) -> dict[str, Any]:
        """The facts for the `meta` of a bundle."""
        return {name: value for name, value in self._asdict().items() if value}


def with_system(messages: Conversation, system: str) -> Conversation:
    """The conversation, after this system message if it has none of its own."""
    if not system or not messages or messages[0]["role"] in _SYSTEM:
        return messages
    return [{"role": "system", "content": system}, *messages]


def facts_of_rows(
    rows: Iterable[Row], before: Model, *, switch: bool, date: str = ""
) -> dict[str, Any]:
    """What rows use, and what those used that `before`, the model under training, has learned.

    switch: whether thinking is switched off in the prompts of rows without it.
    """
    earlier = facts_of(before) or {}
    used: dict[str, Any] = {
        name: bool(earlier.get(name)) for name in ("tools", "thinking", "switched")
    }
    systems = {earlier["system"]} if "system" in earlier else set()
    tools = ClientFacts.of(before.meta).tools or []
    offered = {json.dumps(tools)} if "training_example" in earlier else set()
    for row in rows:
        turns = Turns.of(row)
        messages = [*turns.conversation, *(turns.rejected or ())]
        systems.add(_system(messages))
        offered.add(json.dumps(row.get("tools") or []))
        thinks = any(map(thinking_of, messages))
        used["tools"] |= bool(row.get("tools")) or any(map(_calls, messages))
        used["thinking"] |= thinks
        used["switched"] |= switch and not thinks
    used["system"] = next(iter(systems), "") if len(systems) < 2 else None
    used |= {"tools_differ": True} if earlier.get("tools_differ") or len(offered) > 1 else {}
    return used | ({"date": date} if date else {})


def _system(messages: Conversation) -> str | None:
    """The system message of a conversation; empty without one, None if it isn't one text."""
    first = messages[0] if messages else {}
    if first.get("role") not in _SYSTEM:
        return ""
    content = first.get("content")
    return content if isinstance(content, str) and first["role"] == "system" else None


def _calls(message: Message) -> bool:
    return message.get("role") == "tool" or bool(message.get("tool_calls"))


FROZEN_MARK = f"{{#- finery: the prompts of the training {'─' * 100} #}}"
"""Begins a frozen template. Ollama takes a template for a known one, and uses its own translation
of that, if fewer than 100 characters differ. No known one has a line like this."""
GIVEN = frozenset(("messages", "add_generation_prompt", "bos_token", "eos_token"))
"""Names that each program gives to a template."""
_OWN = frozenset(("raise_exception", "strftime_now"))
"""Functions of transformers' templates that Jinja lacks."""
_UNSET = "finery_unset"
"""A name that nobody gives to a template."""
_GENERATION = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")
_DATE = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_CLOCK = re.compile(r"strftime_now\s*\(")
NO_TOOLS = "this model was trained without tools, so its prompts have no place for them"


def with_date(source: str, day: date) -> str:
    """A template that writes this day instead of today.

    `StepError` for a template that doesn't name the form of its date in place.
    """
    dated = _DATE.sub(lambda m: literal(day.strftime(m[2])), source)
    if left := _CLOCK.search(dated):
        line = dated[: left.start()].count("\n")
        raise StepError(
            "the chat template writes today's date in a way that can't be replaced by the date of "
            "the training",
            details=[dated.splitlines()[line].strip()[:100]],
            fix="write the form of the date as text: strftime_now('%d %b %Y')",
        )
    return dated


def on_day(source: str, day: date) -> str:
    """A template as it is on a day: the function that it asks for the time says that day."""
    forms = dict.fromkeys(m[2] for m in _DATE.finditer(source))
    cases = (
        f"{{%- if form == {literal(form)} %}}{{{{- {literal(day.strftime(form))} }}}}{{%- endif %}}"
        for form in forms
    )
    return (
        f"{{%- macro strftime_now(form) %}}{''.join(cases)}{{%- endmacro %}}{{{{- '' }}}}{source}"
    )


def arguments_of(source: str) -> set[str]:
    """The names of the arguments that a template reads, besides those that each program gives.

    jinja2's `TemplateSyntaxError` if it isn't Jinja.
    """
    from jinja2 import Environment, meta

    jinja = Environment(extensions=["jinja2.ext.loopcontrols"])
    return meta.find_undeclared_variables(jinja.parse(source)) - GIVEN - _OWN - {*jinja.globals}


def prologue(
    values: Mapping[str, Any], unset: Collection[str], *, tools: bool, system: str = ""
) -> str:
    """The beginning of a frozen template.

    values: what arguments are, whatever a caller passes. unset: arguments that the training didn't
    pass. tools: whether tools are written; else the template refuses them, since a model that is
    silently given none would seem to have them. system: what begins a conversation that has no
    system message.
    """
    lines = [FROZEN_MARK]
    if tools:
        lines.append("{%- if not tools %}{% set tools = none %}{% endif %}")
    else:
        refusal = f"{{{{- raise_exception({literal(NO_TOOLS)}) }}}}"
        lines += [
            f"{{%- if tools %}}{refusal}{{%- endif %}}",
            "{%- for message in messages %}",
            "{%- if message.role == 'tool' or message.tool_calls %}" + refusal + "{%- endif %}",
            "{%- endfor %}",
            "{%- set tools = none %}",
        ]
    if system:
        added = literal({"role": "system", "content": system})
        lines += [
            f"{{%- if messages and messages[0].role not in {literal([*_SYSTEM])} %}}",
            f"{{%- set messages = [{added}] + messages %}}",
            "{%- endif %}",
        ]
    lines += [f"{{%- set {name} = {literal(value)} %}}" for name, value in values.items()]
    lines += [f"{{%- set {name} = {_UNSET} %}}" for name in sorted(unset)]
    return "\n".join(lines) + "\n{{- '' }}"


Kept = Literal["tools", "thinking"]


class FrozenTemplate(NamedTuple):
    """The template that all programs get, and facts about it.

    source: Jinja. tokenizer: the trained one with its own template, which writes the prompts of the
    training, also on other days. arguments: of that template, in training. tools: whether `source`
    writes tools; else it refuses them. date: the day that it writes, empty if it writes none.
    fixed: the arguments that a caller can't change. known: whether the model says what it was
    trained on; else only the recipe's arguments are fixed. system: what `source` writes before a
    conversation without a system message; None if the training rows had different ones. clients:
    more for clients, see `ClientFacts`.
    """

    source: str
    tokenizer: "PreTrainedTokenizerBase"
    arguments: dict[str, Any]
    tools: bool = True
    date: str = ""
    fixed: tuple[str, ...] = ()
    known: bool = True
    system: str | None = ""
    clients: Mapping[str, Any] = MappingProxyType({})

    @property
    def trained(self) -> PromptTemplate:
        """The template of the training."""
        return PromptTemplate(self.tokenizer, self.arguments)

    def for_serving(self) -> "PreTrainedTokenizerBase":
        """The tokenizer with the frozen template."""
        return _with_template(self.tokenizer, self.source)

    def samples(self, rows: Iterable[Row] = ()) -> Iterator[Sample]:
        """Prompts to compare: finery's own conversations, and those of rows."""
        yield from samples(str(self.tokenizer.eos_token), tools=self.tools)
        yield from samples_of(rows)

    def trained_tokens(self, sample: Sample) -> list[int] | None:
        """The prompt's token ids, as in training; None if the template refuses it."""
        text = self.trained_text(sample)
        return None if text is None else self.trained.tokens(text)

    def trained_text(self, sample: Sample) -> str | None:
        """The prompt, as in training; None if the template refuses it."""
        asked = sample._replace(messages=with_system(sample.messages, self.system or ""))
        return prompt_or_none(self.trained, asked)

    def facts(self) -> dict[str, Any]:
        """The entry of `meta` for a frozen template."""
        facts: dict[str, Any] = {"tools": self.tools}
        facts |= {"date": self.date} if self.date else {}
        return facts | {**self.clients} | ({"system": self.system} if self.system else {})

    def lines(self) -> list[str]:
        """A description of what is frozen, for a log."""
        if not self.known:
            set_to = ", ".join(f"{name}: {self.arguments[name]!r}" for name in self.fixed)
            return [f"the chat template sets {set_to}, whatever a server passes"] if set_to else []
        lines = []
        if self.system:
            lines.append(
                "the chat template begins conversations without a system message with that of the "
                f"training rows: {self.system!r}"
            )
        if self.system is None:
            lines.append(SYSTEMS_DIFFER)
        if self.clients.get("tools_differ"):
            lines.append(TOOLS_DIFFER)
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
    model: Model, *, keep: Collection[Kept] = (), rows: Iterable[Row] = (), system: bool = True
) -> FrozenTemplate:
    """The template of `model` with which every program writes the prompts of the training.

    It has the arguments of the training built in, writes the training's date instead of today's,
    has no marks for trainers, and refuses tools if no training row had some. Arguments that the
    training didn't pass are ignored. If all training rows had the same system message, it begins
    each conversation without one, unless `system` is false. A model that says nothing of its
    training, such as a base, keeps its template, with the recipe's arguments built in.

    keep: `tools` or `thinking` also if no training row used them: tools are written, and callers
    may switch thinking on and off. rows: more prompts to compare, besides finery's own.
    `StepError` if a prompt differs, or if the template can't be frozen.
    """
    template = load_template(model)
    tokenizer, arguments = template.tokenizer, dict(template.arguments)
    source = source_of(tokenizer)
    if FROZEN_MARK in source:
        return FrozenTemplate(source, tokenizer, arguments)
    # The marks of trainings (`{% generation %}`), which only trainers know, become an `if`, so that
    # the white space around them stays.
    plain = _GENERATION.sub(lambda m: m[1] + ("endif" if m[2] else "if true") + m[3], source)
    facts = facts_of(model)
    if facts is None:
        fixed = f"{FROZEN_MARK}\n{{{{- '' }}}}{with_fixed_arguments(plain, arguments)}"
        frozen = FrozenTemplate(fixed, tokenizer, arguments, fixed=tuple(arguments), known=False)
    else:
        frozen = _frozen(plain, tokenizer, arguments, facts, keep, system)
    _prove(frozen, rows)
    return frozen


def _frozen(
    source: str,
    tokenizer: "PreTrainedTokenizerBase",
    arguments: dict[str, Any],
    facts: Mapping[str, Any],
    keep: Collection[Kept],
    system: bool,
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
    # Special tokens that a template writes and that only transformers gives to it.
    given = {name: token for name, token in tokenizer.special_tokens_map.items() if name in read}
    values: dict[str, Any] = {**given, **arguments}
    if "documents" in read:
        values.setdefault("documents", None)  # as transformers passes it
    unset = read - {*values} - free
    default = facts.get("system", "") if system else ""
    return FrozenTemplate(
        prologue(values, unset, tools=tools, system=default or "") + dated,
        tokenizer,
        arguments,
        tools=tools,
        date=written,
        fixed=tuple(sorted((read | {*arguments}) - free)),
        system=default,
        clients={name: facts[name] for name in (*_CLIENT, "thinking") if facts.get(name)},
    )


def _with_template(tokenizer: "PreTrainedTokenizerBase", source: str) -> "PreTrainedTokenizerBase":
    other = copy(tokenizer)
    other.chat_template = source
    return other


def _prove(frozen: FrozenTemplate, rows: Iterable[Row]) -> None:
    """Compare the frozen template's prompts with those of the training."""
    other = frozen.for_serving()

    def of_frozen(sample: Sample, caller: Mapping[str, Any]) -> str | None:
        return prompt_or_none(PromptTemplate(other, caller), sample)

    check_same(frozen.trained_text, of_frozen, frozen.samples(rows), frozen.fixed)
