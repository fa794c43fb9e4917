"""Puts the sources into a prompt, as `finery_retrieve.index.context` does inside finery.

The template and what finery makes of it are explained there.
"""

import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from finery_retrieve.index.control import plain
from finery_retrieve.serve.app.server import NoQuestion

SYSTEM_ROLES = ("system", "developer")
_TURN = re.compile(r"^[ \t]*\{#-?[ \t]*(system|user|assistant)[ \t]*-?#\}[ \t]*$", re.MULTILINE)
Message = dict[str, Any]


class ContextPrompt:
    """A template for questions with sources. facts: its text and settings."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        from jinja2 import StrictUndefined
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        self._unknown, self._limit = facts["unknown"], facts["limit"]
        self._mark = secrets.token_hex(16)  # not in any rendered text
        source = str(facts["template"])
        if not _TURN.search(source):
            source = f"{{# user #}}\n{source}"
        marked = _TURN.sub(lambda line: f"{self._mark}{line[1]}", source)
        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)
        self._template = environment.from_string(marked)

    def fitting(self, sources: Sequence[Message]) -> list[Message]:
        """The first sources, as many as fit into the prompt's limit of tokens."""
        room, fitting = self._limit, list[Message]()
        for source in sources:
            if room is not None:
                room -= source["tokens"]
                if room < 0:
                    break
            fitting.append(source)
        return fitting

    def around(self, conversation: Sequence[Message], sources: Sequence[Message]) -> list[Message]:
        """The conversation with the prompt in place of its last user turn."""
        last = last_user(conversation)
        *before, asked = self._messages(question_of(conversation), sources)
        turn = {**conversation[last], "content": _content(conversation[last], asked["content"])}
        system = [message for message in before if message["role"] == "system"]
        shown = [message for message in before if message["role"] != "system"]
        return in_front(system, [*conversation[:last], *shown, turn, *conversation[last + 1 :]])

    def _messages(self, question: str, sources: Sequence[Message]) -> list[Message]:
        chunks = [_variables(label, source) for label, source in enumerate(sources, start=1)]
        names = {"question": question, "chunks": chunks, "unknown": self._unknown}
        turns = [_turn(part) for part in self._template.render(names).split(self._mark)[1:]]
        return [turn for turn in turns if turn["role"] != "system" or turn["content"]]


def question_of(conversation: Sequence[Message]) -> str:
    """The text of the last user turn. `NoQuestion` without one."""
    content = conversation[last_user(conversation)].get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text") or "") for part in content if part.get("type") == "text")


def last_user(conversation: Sequence[Message]) -> int:
    """Which turn is the last of the user. `NoQuestion` without one."""
    for number in range(len(conversation) - 1, -1, -1):
        if conversation[number].get("role") == "user":
            return number
    raise NoQuestion("'messages' has no user turn, so there is no question")


def in_front(system: Sequence[Message], conversation: Sequence[Message]) -> list[Message]:
    """The conversation after a system message, with which its own are joined."""
    first = 0
    while first < len(conversation) and conversation[first].get("role") in SYSTEM_ROLES:
        first += 1
    joined: Message | None = None
    for message in (*system, *conversation[:first]):
        joined = dict(message) if joined is None else _joined(joined, message)
    return [*([joined] if joined else []), *conversation[first:]]


def _joined(first: Message, second: Message) -> Message:
    before, after = first.get("content") or "", second.get("content") or ""
    if before == after or not after:
        return first
    if not before:
        return {**first, "content": after}
    if isinstance(before, str) and isinstance(after, str):
        return {**first, "content": f"{before}\n\n{after}"}
    return {**first, "content": [*_parts(before), *_parts(after)]}


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _content(turn: Message, text: str) -> Any:
    if isinstance(turn["content"], str):
        return text
    others = [part for part in turn["content"] if part.get("type") != "text"]
    return [{"type": "text", "text": text}, *others]


def _turn(part: str) -> Message:
    role, _, content = part.partition("\n")
    return {"role": role.strip(), "content": content.strip()}


def _variables(label: int, source: Message) -> dict[str, Any]:
    texts = {name: plain(source[name]) for name in ("text", "source", "heading")}
    return {"label": label, "id": source["id"], **texts, **source["place"]}
