"""The view of a folder for vLLM, with its command."""

from typing import TYPE_CHECKING

from finery.util.text import visible
from finery.views import Detail, Output, View

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 2_000
"""Characters of the command that are printed."""


class VllmView(View):
    """The view of a folder for vLLM."""

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print facts, files and the command."""
        from rich.text import Text

        super().print(console, output, detail)
        text = output.artifact.file("run.sh").read_text(encoding="utf-8")
        console.print()
        console.print(Text(visible(text[:SHOWN])))
