"""What an n-gram model looks like."""

import json
from typing import TYPE_CHECKING, Any

from finery import Manifest
from finery.views import Detail, LiveMetric, Output
from finery_ngram.model import ANSWER, FILE, Counts
from finery_trl.view.live import METRICS as LOSSES
from finery_trl.view.model import CurveView

if TYPE_CHECKING:
    from rich.console import Console

METRICS = {
    **LOSSES,
    "perplexity": LiveMetric("ppl {value}", "{:.1f}".format, rank=3, lower_is_better=True),
}
"""Losses as other trainings show them, and the perplexity."""
MOST = 3


class NgramView(CurveView):
    """Its order and words, its curve, and how its answers begin."""

    def brief(self, manifest: Manifest) -> str:
        """E.g. `3-gram, 40 words`."""
        return f"{manifest.meta['order']}-gram, {manifest.meta['words']:,} words"

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """The words that begin most answers."""
        return {**super().data(output, detail), "first_words": _first_words(output)}

    def print(self, console: "Console", output: Output, detail: Detail) -> None:
        """Print the words that begin most answers below what all models have."""
        super().print(console, output, detail)
        console.print(f"\n  answers begin with: {', '.join(_first_words(output))}", markup=False)


def _first_words(output: Output) -> list[str]:
    data = json.loads(output.artifact.file(FILE).read_text(encoding="utf-8"))
    return Counts.of(data).choices([ANSWER])[:MOST]
