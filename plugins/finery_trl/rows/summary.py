"""Counts of rows for the log of a training: number, lengths, tokens with loss."""

from collections.abc import Iterable

from finery import Proof, Tally
from finery_trl.rows.example import Proven, continues


def summary(name: str, rows: Iterable[Proven]) -> Proof:
    """The counts of rows. name: the input that they come from."""
    tally = Tally()
    for row in rows:
        add(tally, row)
    return tally.proof(name)


def add(tally: Tally, row: Proven) -> None:
    """Count one example of a row."""
    tally.add(row.size, row.loss_tokens, row.total_tokens, continues=continues(row))
