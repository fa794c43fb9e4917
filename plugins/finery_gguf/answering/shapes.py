"""Finds batch sizes at which a row's logits don't depend on the other rows.

llama.cpp uses different kernels for one vector and for several, and multiplies k-quants in tiles of
rows, which sum in a different order. On an AVX2 CPU, q8_0 gives the same bits for any number of
rows, f16 and bf16 for two or more, and q4_k_m for multiples of eight.
"""

from typing import TYPE_CHECKING

from finery_gguf.llama import Context, Gguf

if TYPE_CHECKING:
    from finery_gguf.pace import Pace

ROWS = 16
"""The largest batch, with which smaller ones are compared."""
_COUNTS = (1, 2, 3, 4, 6, 8, 12)
_READ = 8  # tokens of a row before the one whose logits are compared
_SIZE = 256


def multiple_of(gguf: Gguf, pace: "Pace") -> int:
    """The smallest number such that batches of its multiples give bit-identical logits.

    Measured with this model on this machine, with rows of arbitrary tokens.
    """
    context = Context(gguf, _SIZE, ROWS, pace)
    starts = [[_token(gguf, row, i) for i in range(_READ)] for row in range(ROWS)]
    expected = _logits(context, starts, ROWS, gguf)
    same = {n for n in _COUNTS if _logits(context, starts, n, gguf) == expected[:n]} | {ROWS}
    return next(m for m in (1, 2, 4, 8, ROWS) if same.issuperset(n for n in _COUNTS if n % m == 0))


def _logits(context: Context, starts: list[list[int]], count: int, gguf: Gguf) -> list[bytes]:
    """The logits of the first `count` rows after one more token, evaluated as one batch."""
    for row, tokens in enumerate(starts[:count]):
        context.read(row, tokens, len(tokens) - 1)
    context.advance([_token(gguf, row, _READ) for row in range(count)])
    return [context.logits(place).tobytes() for place in range(count)]


def _token(gguf: Gguf, row: int, place: int) -> int:
    """An arbitrary but reproducible token of the vocabulary."""
    return (row * 7919 + place * 104729 + 17) % gguf.n_vocab
