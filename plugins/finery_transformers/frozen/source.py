"""Edits of a chat template's source: marks of trainings, today's date, arguments of callers."""

import re
from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

from finery import StepError
from finery_transformers.wrapping import literal

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


def without_marks(source: str) -> str:
    """A template without the marks of trainings (`{% generation %}`), which only trainers know.

    Each becomes an `if`, so that the white space around it stays.
    """
    return _GENERATION.sub(lambda m: m[1] + ("endif" if m[2] else "if true") + m[3], source)


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


def prologue(values: Mapping[str, Any], unset: Collection[str], *, tools: bool) -> str:
    """The beginning of a frozen template.

    values: what arguments are, whatever a caller passes. unset: arguments that the training didn't
    pass. tools: whether tools are written; else the template refuses them, since a model that is
    silently given none would seem to have them.
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
    lines += [f"{{%- set {name} = {literal(value)} %}}" for name, value in values.items()]
    lines += [f"{{%- set {name} = {_UNSET} %}}" for name in sorted(unset)]
    return "\n".join(lines) + "\n{{- '' }}"
