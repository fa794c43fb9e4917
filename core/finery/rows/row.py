"""Rows: what a line of a `Dataset` may look like, and how its turns are read."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import msgspec
from blake3 import blake3

Row = dict[str, Any]
"""A row of a data set: column → value, as JSON has it."""
Message = dict[str, Any]
"""A turn of a conversation, as in OpenAI's API: `role`, `content`, perhaps `tool_calls`."""
Conversation = list[Message]
"""The turns of a conversation, in order."""

NOT_CONTENT = frozenset({"id", "parents"})
"""Columns that say where a row comes from, not what it says."""
TURN_COLUMNS = ("messages", "prompt", "completion", "chosen", "rejected")
"""Columns that hold turns, in the formats that `Turns` reads."""
EXAMPLE_CHARACTERS = 300
"""Characters of the longest question in an example."""


def row_id(row: Row) -> str:
    """A 16-digit hex hash of the row's content (all columns but `id` and `parents`)."""
    content = {k: v for k, v in row.items() if k not in NOT_CONTENT}
    return blake3(msgspec.json.encode(content, order="deterministic")).hexdigest()[:16]


class Turns(NamedTuple):
    """The turns of a row: `messages`, `prompt` and `completion`, or `prompt`, `chosen`, `rejected`.

    prompt: the turns before the answer; of `messages`, all but a last turn of the assistant.
    answer: what follows, of preferences the chosen answer; empty if the row has no answer.
    rejected: the rejected answer, None if the row isn't a preference.
    is_split: whether the row itself says where its answer begins. If so, the assistant turns of its
        prompt are neither learned nor judged.
    """

    prompt: Conversation
    answer: Conversation
    rejected: Conversation | None
    is_split: bool

    @classmethod
    def of(cls, row: Row) -> Self:
        """The turns of a row in any format; only `messages` can't be text."""
        rejected = row.get("rejected")
        rejected_turns = as_turns(rejected) if isinstance(rejected, str | list) else None
        if "messages" in row:
            messages = row["messages"]
            end = len(messages)
            if messages and messages[-1]["role"] == "assistant":
                end -= 1
            return cls(messages[:end], messages[end:], rejected_turns, is_split=False)
        prompt = as_turns(row.get("prompt", []), "user")
        answer = as_turns(row.get("completion", row.get("chosen", [])))
        return cls(prompt, answer, rejected_turns, is_split=True)

    @property
    def conversation(self) -> Conversation:
        """Prompt and answer."""
        return [*self.prompt, *self.answer]

    @property
    def replies(self) -> list[int]:
        """The places in the conversation of the assistant turns that can be learned and judged."""
        start = len(self.prompt) if self.is_split else 0
        turns = enumerate(self.conversation)
        return [i for i, turn in turns if i >= start and turn.get("role") == "assistant"]


def with_turns(row: Row, turns: Turns) -> Row:
    """The row with other turns in its own format.

    Text stays text, unless one of the columns now has several turns.
    """
    columns = {"messages": turns.conversation}
    if turns.is_split:
        answer = "completion" if "completion" in row else "chosen"
        columns = {"prompt": turns.prompt, answer: turns.answer}
    if turns.rejected is not None:
        columns["rejected"] = turns.rejected
    columns = {
        name: turns_in_column
        for name, turns_in_column in columns.items()
        if row.get(name) is not None
    }
    if all(
        isinstance(row[name], str) and len(turns_in_column) == 1
        for name, turns_in_column in columns.items()
    ):
        return row | {
            name: turns_in_column[0]["content"] for name, turns_in_column in columns.items()
        }
    return row | columns


def split_turns(row: Row) -> tuple[Conversation, Conversation]:
    """(prompt, completion) of a row, both as messages.

    `messages` are split before the last assistant turn; `prompt` and `completion` may be text
    or messages. A row without an answer gives an empty completion. For preferences the
    completion is `chosen`.
    """
    return Turns.of(row)[:2]


def as_turns(value: Any, role: str = "assistant") -> Conversation:
    """Text as one turn, turns as they are; null has none."""
    return [{"role": role, "content": value}] if isinstance(value, str) else list(value or ())


def is_preference(row: Row) -> bool:
    """Whether the row has a prompt, a chosen and a rejected answer."""
    return all(row.get(name) for name in ("prompt", "chosen", "rejected"))


def example_request(rows: Iterable[Row]) -> str:
    """A row's first question as a request: JSON text, since `meta` sorts keys; empty without one.

    `messages`, with what comes before the question, and the row's `tools`. Of the first row whose
    question has at most `EXAMPLE_CHARACTERS` characters, else of the row with the shortest one,
    which is cut.
    """

    def length(request: dict[str, Any]) -> int:
        return max(EXAMPLE_CHARACTERS, len(request["messages"][-1]["content"]))

    request = min(filter(None, map(_first_request, rows)), key=length, default=None)
    if request is None:
        return ""
    question = request["messages"][-1]
    if length(request) > EXAMPLE_CHARACTERS:
        question["content"] = f"{question['content'][: EXAMPLE_CHARACTERS - 1]}…"
    return json.dumps(request, ensure_ascii=False)


def _first_request(row: Row) -> dict[str, Any]:
    turns = Turns.of(row).prompt
    length = next((i for i, turn in enumerate(turns, 1) if turn["role"] == "user"), 0)
    messages = [{"role": turn["role"], "content": turn.get("content")} for turn in turns[:length]]
    if not messages or not all(isinstance(turn["content"], str) for turn in messages):
        return {}
    return {"messages": messages} | ({"tools": row["tools"]} if row.get("tools") else {})


def answer_text(row: Row) -> str:
    """The text of the row's completion, the empty string where there is none."""
    return "".join(str(m.get("content") or "") for m in Turns.of(row).answer)


def snippet(row: Row, characters: int = 70) -> str:
    """The beginning of what a row says, in a line; of conversations not their system prompts."""
    columns = [v for k, v in row.items() if k not in NOT_CONTENT]
    turns = row.get("messages") or [turn for value in columns for turn in _turns_in(value)]
    spoken = [p for p in turns if not isinstance(p, dict) or p.get("role") != "system"] or turns
    texts = [(p.get("content") or p) if isinstance(p, dict) else p for p in spoken]
    text = " → ".join(str(turn) for turn in texts if turn)[: characters * 4]
    line = " ".join(text.split())
    return f"{line[: characters - 1]}…" if len(line) > characters else line


def _turns_in(value: Any) -> list[Any]:
    """The turns of a conversation; anything else as the only element of a list."""
    is_turns = isinstance(value, list) and all(isinstance(turn, dict) for turn in value)
    return value if is_turns else [value]
