"""The view of a folder for Ollama, with the Modelfile's text."""

from typing import TYPE_CHECKING

from finery.util.text import visible
from finery.views import Detail, Output, View

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 2_000
"""Characters of the Modelfile that are printed."""


class OllamaView(View):
    """The view of a folder for Ollama."""

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print facts, files and the Modelfile."""
        from rich.text import Text

        super().print(console, output, detail)
        text = output.artifact.file("Modelfile").read_text(encoding="utf-8")
        console.print()
        console.print(Text(visible(text[:SHOWN])))
