"""Contexts of questions: the chunk that contains the answer, and others that don't."""

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
"""The prompt of a row of `synth.from_docs` with a context."""
DRAWS = 2**64
PLACES = 1_000_003
"""The seed of the draws that give chunks their places on the ring."""


def chance(row: Row, number: int) -> float:
    """A reproducible number in [0, 1) for a row and a `number`."""
    return draw_of(row, number) / DRAWS


class Shelf:
    """All chunks, on disk, with some 40 bytes of each in memory.

    The other chunks for a question come from a ring on which each chunk has a random place
    (consistent hashing, Karger et al. 1997), starting at the question's own place. So an added
    chunk changes few of them.
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
        """Up to `count` chunks that lack the quote and differ from chunk `number`."""
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
        """Free the disk space."""
        self._rows.close()
