"""Prompts of generators: Jinja templates that a recipe can replace.

A template is the text of a conversation's turns, each after a line with its role:

    {# system #}
    You write support tickets.
    {# user #}
    Reword this: {{ user }}

These lines are Jinja comments and may be inside loops. A template without them is one user turn.
Templates run in Jinja's sandbox, and an unknown name is an error. Turns are separated by random
marks, so that the text of a row can't begin a turn. Whitespace around a turn is removed, and so is
an empty system turn.
"""

import re
import secrets
from difflib import get_close_matches
from typing import Any

from finery import DataError, File, UsageError
from finery.advanced import shown
from finery.rows import Conversation, Row
from finery.rows.badrow import BadRow
from finery.rows.generated import Template
from finery.rows.parts import row_id_of
from finery.rows.templates.sandbox import compile_template, render

_SYNTAX = (
    "close each {{ … }}, and each {% for … %} and {% if … %} with its {% endfor %} or {% endif %}"
)
_ROLES = ("system", "user", "assistant")
_LONE_WORD = re.compile(r"^[ \t]*\{#-?[ \t]*(\w+)[ \t]*-?#\}[ \t]*$", re.MULTILINE)
_TURN = re.compile(r"^[ \t]*\{#-?[ \t]*(system|user|assistant)[ \t]*-?#\}[ \t]*$", re.MULTILINE)


class Prompt:
    """A compiled template. origin: its name and digest, for `generated.jsonl`."""

    def __init__(self, source: str, where: str, origin: Template) -> None:
        self.origin = origin
        self._where = where
        self._mark = secrets.token_hex(16)  # not in any rendered text
        if not _TURN.search(source):
            source = f"{{# user #}}\n{source}"
        marked = _TURN.sub(lambda line: f"{self._mark}{line[1]}", source)
        self._template = compile_template(marked, where, _SYNTAX)

    @classmethod
    def of(cls, files: File | None, default: str) -> "Prompt":
        """The template in the recipe's file, or the default."""
        if files is None:
            return cls(default, "the default template", Template.of(default))
        path = files.path
        try:
            source = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the template can't be read: {error}", where=shown(path), fix="save it as UTF-8"
            ) from error
        if not source.strip():
            raise DataError(
                "the template is empty",
                where=shown(path),
                fix="`finery synth prompt TYPE` prints the default template",
            )
        _refuse_misspelt(source, shown(path))
        return cls(source, shown(path), Template.of(source, files.patterns[0]))

    def messages(self, names: dict[str, Any], row: Row) -> Conversation:
        """The rendered turns; `DataError` with the row if rendering fails."""
        try:
            text_before, *turn_texts = render(self._template, "the template", names).split(
                self._mark
            )
        except BadRow as error:
            where = f"{self._where}, row {row_id_of(row)}"
            raise DataError(error.what, where=where, fix=error.fix) from error
        if text_before.strip():
            raise self._template_error("the template has text before its first turn")
        turns = (turn_text.partition("\n") for turn_text in turn_texts)
        messages: Conversation = [
            {"role": role.strip(), "content": content.strip()}
            for role, _, content in turns
            if role.strip() != "system" or content.strip()
        ]
        if not messages or messages[-1]["role"] != "user":
            raise self._template_error("the template doesn't end with a user turn")
        return messages

    def _template_error(self, problem: str) -> UsageError:
        return UsageError(problem, where=self._where, fix="put {# user #} on a line above it")


def _refuse_misspelt(source: str, where: str) -> None:
    """Raise `UsageError` for a line that is nearly one with a role, e.g. `{# usr #}`.

    As a comment, it would leave its turn in the one before it.
    """
    for line in _LONE_WORD.finditer(source):
        word = line[1]
        matches = get_close_matches(word.casefold(), _ROLES, 1)
        if matches and word not in _ROLES:
            number = source.count("\n", 0, line.start()) + 1
            raise UsageError(
                f"line {number} of the template is {{# {word} #}}, which isn't a role",
                where=where,
                fix=f"write {{# {matches[0]} #}}; a comment must have more words",
            )
