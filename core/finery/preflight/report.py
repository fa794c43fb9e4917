"""What a training will learn, as plain data.

`Step.prove` makes it with a `ProofBuilder`, `finery check --deep` shows it, and a build logs it in
one line.

Nothing here depends on a tokenizer: a sample row consists of pieces of text with or without loss.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from finery.util.text import counted, some_of

PERCENTILES = (50, 95, 99)


class SamplePiece(msgspec.Struct, frozen=True):
    """A part of a row's text, with special tokens, and whether it has loss."""

    text: str
    loss: bool
    label: str = ""  # which answer it belongs to: chosen, rejected


class SampleRow(msgspec.Struct, frozen=True):
    """A row as the training sees it. row: its id."""

    row: str
    pieces: list[SamplePiece]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One data set of a training, proven row by row.

    input: the step's field, e.g. `rows`.
    rows: the number of rows to learn from, without dropped ones. In preferences, each answer is a
    separate sequence. examples: their number, if it isn't that of rows because some are split.
    tokens, loss_tokens: of all sequences. longest, percentiles: lengths of the examples' longest
    sequences, in tokens; percentile → length.
    dropped: ids of rows that are left out because they are too long.
    facts: more facts about all rows, in words: name → text.
    notes: possible problems with some rows, in words.
    samples: some of the rows.
    """

    input: str
    rows: int
    tokens: int
    loss_tokens: int
    longest: int
    examples: int | None = None
    percentiles: dict[int, int] = {}
    dropped: list[str] = []
    facts: dict[str, str] = {}
    notes: list[str] = []
    samples: list[SampleRow] = []

    def counts(self) -> str:
        """Rows and tokens in words."""
        share = f" ({100 * self.loss_tokens / self.tokens:.0f} %)" if self.tokens else ""
        split = f" as {self.examples:,} examples" if self.examples is not None else ""
        return (
            f"{counted(self.rows, 'row')}{split}, {self.tokens:,} tokens, "
            f"{self.loss_tokens:,} of them with loss{share}"
        )

    def lengths(self) -> str:
        """The lengths of the rows in words."""
        parts = [f"{percent} % up to {length:,}" for percent, length in self.percentiles.items()]
        return f"{', '.join([*parts, f'all up to {self.longest:,}'])} tokens"

    def left_out(self) -> str:
        """The dropped rows in words; empty if there are none."""
        return f"{len(self.dropped):,}, too long: {some_of(self.dropped)}" if self.dropped else ""

    def line(self) -> str:
        """All counts in one line, for a log."""
        out = f"; left out {self.left_out()}" if self.dropped else ""
        return f"{self.input}: {self.counts()}; {self.lengths()}{out}"


class ProofBuilder:
    """Counts the examples of a data set for a `Proof`, in four bytes each, whatever their length.

    input: the step's field. rows: the number of rows that the examples are of. samples: rows to
    show.
    """

    def __init__(self, input: str) -> None:
        self.input = input
        self.rows = 0
        self.samples: list[SampleRow] = []
        self._lengths = array("I")
        self._tokens = self._loss_tokens = 0

    @property
    def examples(self) -> int:
        """The number of examples."""
        return len(self._lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self._lengths, default=0)

    def add(
        self, length: int, loss_tokens: int, tokens: int | None = None, *, continues: bool = False
    ) -> None:
        """Count an example: the tokens of its longest sequence, and those with loss.

        tokens: of all sequences, if it has one for each of several answers; default: `length`.
        continues: whether it is a further part of the row of the example before it.
        """
        self.rows += not continues
        self._lengths.append(length)
        self._tokens += length if tokens is None else tokens
        self._loss_tokens += loss_tokens

    def add_sample(self, row_id: str, pieces: Iterable[SamplePiece]) -> None:
        """Show an example of a row."""
        self.samples.append(SampleRow(row_id, list(pieces)))

    def proof(
        self,
        *,
        dropped: Sequence[str] = (),
        facts: Mapping[str, str] | None = None,
        notes: Sequence[str] = (),
    ) -> Proof:
        """The proof of what was added. Percentiles are lengths of actual examples (nearest rank).

        dropped, facts, notes: see `Proof`.
        """
        ordered = sorted(self._lengths)
        ranks = {p: -(-p * len(ordered) // 100) for p in PERCENTILES}
        return Proof(
            input=self.input,
            rows=self.rows,
            examples=len(ordered) if len(ordered) != self.rows else None,
            tokens=self._tokens,
            loss_tokens=self._loss_tokens,
            longest=self.longest,
            percentiles={p: ordered[rank - 1] for p, rank in ranks.items()} if ordered else {},
            dropped=list(dropped),
            facts=dict(facts or {}),
            notes=list(notes),
            samples=self.samples,
        )
