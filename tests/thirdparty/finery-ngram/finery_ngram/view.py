"""What an n-gram model looks like."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from finery.advanced import Manifest
from finery.views import Context, Detail, LiveMetric, Output, Section, Text
from finery_ngram.model import ANSWER, FILE, Counts
from finery_trl.view.live import METRICS as LOSSES
from finery_trl.view.model import CurveView

METRICS = {
    **LOSSES,
    "perplexity": LiveMetric("ppl {value}", rank=3, lower_is_better=True),
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

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """The words that begin most answers below what all models have."""
        yield from super().describe(outputs, context)
        for output in outputs if context.scope == "output" else ():
            words = ", ".join(_first_words(output))
            yield Section("Words", [Text(f"answers begin with: {words}")])


def _first_words(output: Output) -> list[str]:
    data = json.loads(output.artifact.file(FILE).read_text(encoding="utf-8"))
    return Counts.of(data).choices([ANSWER])[:MOST]
