"""A talk with a model: its turns, its system message, and its place in a file of rows."""

import json
from pathlib import Path
from typing import Any

from finery import Completion, UsageError, shown
from finery.rows import Conversation

FILE = "conversations.jsonl"


class Talk:
    """The turns so far. system: the system message; empty for none."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._turns: list[dict[str, Any]] = []

    @property
    def messages(self) -> Conversation:
        """All messages, the system message first."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self._turns]

    @property
    def turns(self) -> int:
        """The number of answered questions."""
        return len(self._turns) // 2

    def asked(self, question: str) -> Conversation:
        """The messages with a further question, which isn't kept yet."""
        return [*self.messages, {"role": "user", "content": question}]

    def keep(self, question: str, answer: Completion) -> None:
        """Add a question and its answer."""
        turn: dict[str, Any] = {"role": "assistant", "content": answer.text}
        if answer.reasoning:
            turn["reasoning_content"] = answer.reasoning
        self._turns += [{"role": "user", "content": question}, turn]

    def clear(self) -> None:
        """Begin again, with the same system message."""
        self._turns = []

    def save(self, file: Path) -> str:
        """Append the conversation to a file of rows, and say so. `UsageError` if it can't be."""
        if not self._turns:
            raise UsageError("there is nothing to save yet", fix="ask something first")
        if file.suffix != ".jsonl":
            raise UsageError(
                f"{file.name} is no file of JSON lines",
                fix=f"name one that ends in .jsonl, e.g. /save {FILE}",
            )
        line = json.dumps({"messages": self.messages}, ensure_ascii=False)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a+b") as rows:
                rows.write(f"{_line_break(rows)}{line}\n".encode())
        except OSError as error:
            raise UsageError(
                f"can't write to {file}: {error.strerror}", fix="name another"
            ) from error
        turns = "1 turn" if self.turns == 1 else f"{self.turns} turns"
        return f"saved a conversation of {turns} in {shown(file.absolute())}"


def _line_break(rows: Any) -> str:
    """What must come before a line that is appended: a line break if the file lacks its last."""
    if rows.tell() == 0:
        return ""
    rows.seek(-1, 2)
    return "" if rows.read(1) == b"\n" else "\n"
