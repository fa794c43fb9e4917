"""Prompts of generators: Jinja templates that a recipe can replace.

A template is text with the turns of a conversation, each under a line that names its role:

    {# system #}
    You write support tickets.
    {# user #}
    Reword this: {{ user }}

Such lines are comments to Jinja. A template without any is the user turn. Templates run in Jinja's
sandbox, an unknown name is an error, and turns are told apart in the template, never in what it
renders: a row's text can't begin a turn. A system turn that renders to nothing is left out.
"""

import re
from typing import TYPE_CHECKING, Any

from finery.errors import DataError, UsageError, shown
from finery.origin import Template
from finery.rows import Conversation, Row
from finery.step import Files
from finery_data.badrow import BadRow
from finery_data.parts import id_of
from finery_data.sandbox import compiled, render

if TYPE_CHECKING:
    import jinja2

ROLES = ("system", "user", "assistant")
_TURN = re.compile(r"^[ \t]*\{#-?\s*(system|user|assistant)\s*-?#\}[ \t]*$", re.MULTILINE)


class Prompt:
    """A compiled template. origin: its name and digest, for `generated.jsonl`."""

    def __init__(self, source: str, where: str, origin: Template) -> None:
        self.origin = origin
        self._where = where
        self._turns = [(role, compiled(text, where)) for role, text in turns_of(source)]
        if not any(role == "user" for role, _ in self._turns):
            raise UsageError(
                "the template has no user turn", where=where, fix="put {# user #} on a line"
            )

    @classmethod
    def of(cls, files: Files | None, default: str) -> "Prompt":
        """The template in the file that a recipe names, else the default."""
        if files is None:
            return cls(default, "the default template", Template.of(default))
        path = files.paths[0]
        try:
            source = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"the template can't be read: {error}", where=shown(path), fix="save it as UTF-8"
            ) from error
        return cls(source, shown(path), Template.of(source, files.patterns[0]))

    def messages(self, names: dict[str, Any], row: Row) -> Conversation:
        """The turns, rendered with these names; `DataError` naming the row where that fails."""
        made = [
            {"role": role, "content": self._rendered(template, names, row)}
            for role, template in self._turns
        ]
        return [turn for turn in made if turn["role"] != "system" or turn["content"].strip()]

    def _rendered(self, template: "jinja2.Template", names: dict[str, Any], row: Row) -> str:
        try:
            return render(template, "the template", names)
        except BadRow as error:
            where = f"{self._where}, row {id_of(row)}"
            raise DataError(error.what, where=where, fix=error.fix) from error


def turns_of(source: str) -> list[tuple[str, str]]:
    """(role, template) of each turn; space around a turn isn't part of it."""
    before, *rest = _TURN.split(source)
    if not rest:
        return [("user", source.strip())]
    if before.strip():
        raise UsageError(
            "the template has text before its first turn",
            fix="move it under {# system #} or {# user #}",
        )
    return [(role, text.strip()) for role, text in zip(rest[::2], rest[1::2], strict=True)]


def check_prompt(files: Files | None) -> None:
    """Raise `UsageError` where a recipe names several templates."""
    if files is not None and len(files.patterns) != 1:
        raise UsageError("one template is one file", where="prompt", fix="name one file")
