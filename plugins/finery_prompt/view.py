"""The view of prompted models: the messages before every conversation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finery.views import Detail, Output, View, print_turns

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 6
"""Maximum number of messages that are printed."""


class PromptedView(View):
    """Shows prompted models."""

    def facts(self, output: Output) -> Mapping[str, Any]:
        """`meta` without the messages, which are printed as turns."""
        return {name: v for name, v in output.manifest.meta.items() if name != "messages"}

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print facts, files and the first messages."""
        super().print(console, output, detail)
        messages = output.manifest.meta.get("messages", [])
        print_turns(console, {"messages": messages[:SHOWN]})
        if len(messages) > SHOWN:
            console.print(f"… and {len(messages) - SHOWN} more messages", style="dim")
