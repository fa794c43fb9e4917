"""Prompts of generators: Jinja templates that a recipe can replace.

A template is text with the turns of a conversation, each under a line that names its role:

    {# system #}
    You write support tickets.
    {# user #}
    Reword this: {{ user }}

Such lines are comments to Jinja, and may stand in loops. A template without any is the user turn.
Templates run in Jinja's sandbox, and an unknown name is an error. Turns are told apart by marks
that no row's text can hold, so that it can't begin one. Space around a turn is dropped, and so is a
system turn that renders to nothing.
"""

import re
import secrets
from typing import Any

from finery import DataError, OneFile, UsageError, shown
from finery.rows import Conversation, Row
from finery.rows.badrow import BadRow
from finery.rows.generated import DEFAULT, Template
from finery.rows.parts import id_of
from finery.rows.templates.sandbox import compiled, render

_TURN = re.compile(r"^[ \t]*\{#-?[ \t]*(system|user|assistant)[ \t]*-?#\}[ \t]*$", re.MULTILINE)


class Prompt:
    """A compiled template. origin: its name and digest, for `generated.jsonl`."""

    def __init__(self, source: str, where: str, origin: Template) -> None:
        self.origin = origin
        self._where = where
        self._mark = secrets.token_hex(16)  # nothing of it is in what is rendered
        self._template = compiled(marked(source, self._mark), where)

    @classmethod
    def of(cls, files: OneFile | None, default: str) -> "Prompt":
        """The template in the file that a recipe names, else the default."""
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
                fix="`finery synth prompt TYPE` prints one to edit",
            )
        return cls(source, shown(path), Template.of(source, files.patterns[0]))

    @property
    def is_default(self) -> bool:
        """Whether it is the step type's own."""
        return self.origin.name == DEFAULT

    def messages(self, names: dict[str, Any], row: Row) -> Conversation:
        """The turns, rendered with these names; `DataError` naming the row where that fails."""
        try:
            before, *rest = render(self._template, "the template", names).split(self._mark)
        except BadRow as error:
            where = f"{self._where}, row {id_of(row)}"
            raise DataError(error.what, where=where, fix=error.fix) from error
        if before.strip():
            raise self._wrong("the template has text before its first turn")
        turns = [_turn(part) for part in rest]
        messages = [turn for turn in turns if turn["role"] != "system" or turn["content"]]
        if not messages or messages[-1]["role"] != "user":
            raise self._wrong("the template doesn't end with a user turn")
        return messages

    def _wrong(self, what: str) -> UsageError:
        return UsageError(what, where=self._where, fix="put {# user #} on a line above it")


def marked(source: str, mark: str) -> str:
    """The template with marks for its turns: `mark`, the role, a line's end."""
    if not _TURN.search(source):
        source = f"{{# user #}}\n{source}"
    return _TURN.sub(lambda line: f"{mark}{line[1]}", source)


def _turn(part: str) -> dict[str, Any]:
    role, _, content = part.partition("\n")
    return {"role": role.strip(), "content": content.strip()}
