"""The parts of an answer."""

from typing import Any, NamedTuple


class Parsed(NamedTuple):
    """An answer's parts, as in `Completion`."""

    text: str
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    call_error: str | None = None

    def finish_reason(self, is_finished: bool) -> str:
        """Why the answer ended. is_finished: whether it ended before its limit of tokens."""
        if not is_finished:
            return "length"
        return "tool_calls" if self.tool_calls else "stop"
