"""Contexts of questions: the chunk that holds the answer, and others that don't."""

from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from finery.rows import Row
from finery.rows.chosen import draw_of
from finery_synth.ask.spool import Spool
from finery_synth.checks.grounding import quoted

CONTEXT_PROMPT = """\
Answer the question from the context. If the context doesn't hold the answer, say so.

Context:
{% for chunk in chunks %}
[{{ loop.index }}]{% if chunk.heading %} {{ chunk.heading }}{% endif %}

{{ chunk.text }}
{% endfor %}
Question: {{ question }}
"""
"""The prompt of a row of `synth.from_docs` that has its context."""
DRAWS = 2**64
PLACES = 1_000_003
"""The seed of the draws that say where on the ring a chunk stands."""


def chance(row: Row, number: int) -> float:
    """A number of a row's in [0, 1), another one for each `number`, always the same."""
    return draw_of(row, number) / DRAWS


class Shelf:
    """All chunks, on disk, some 40 bytes of each in memory.

    Others for a question are taken from a ring on which each chunk has a place by chance
    (consistent hashing, Karger et al. 1997), from the question's own place on: a chunk that is
    added changes few of them.
    """

    def __init__(self, chunks: Iterable[Row], folder: Path) -> None:
        self._rows = Spool(folder, dict[str, Any])
        ring = []
        for number, row in enumerate(chunks):
            self._rows.add(number, row)
            ring.append((draw_of(row, PLACES), number))
        self._ring = sorted(ring)

    def __len__(self) -> int:
        return len(self._ring)

    def chunk(self, number: int) -> Row:
        """The chunk with this number, from 0."""
        return self._rows.of(number)[0]

    def others(self, question: Row, number: int, count: int) -> list[Row]:
        """Up to `count` chunks without the quote, with other texts than that of `number`."""
        start = bisect_left(self._ring, (draw_of(question, PLACES), 0))
        others: list[Row] = []
        texts = {str(self.chunk(number)["text"])}
        for step in range(len(self._ring)):
            if len(others) == count:
                break
            other = self.chunk(self._ring[(start + step) % len(self._ring)][1])
            text = str(other["text"])
            if text not in texts and quoted(question["quote"], text) is None:
                texts.add(text)
                others.append(other)
        return others

    def close(self) -> None:
        """Give the disk's space back."""
        self._rows.close()
