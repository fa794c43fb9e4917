"""Answers several rows at the same time with llama.cpp's library.

Each step adds one token to every row.
"""

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from blake3 import blake3

from finery import Sampling
from finery_gguf.llama import Context, Gguf, Sampler

if TYPE_CHECKING:
    from finery_gguf.pace import Pace
    from finery_transformers.answering.constraint import Constraint


class Row(NamedTuple):
    """A row to answer.

    prefix: the number of leading tokens that other rows may share. size: tokens of its context.
    schema: what its answer must follow. constraint: holds the library's answers to it.
    """

    tokens: list[int]
    prefix: int
    size: int
    sampling: Sampling
    schema: dict[str, Any] | None = None
    constraint: "Constraint | None" = None


class Raw(NamedTuple):
    """An answer as the model generated it.

    tokens: without the token that ends the turn. evaluated: their number, including that token.
    is_finished: whether the answer ended before it reached the token limit. first_token: when the
    first token came, by `time.perf_counter`.
    """

    text: str
    tokens: list[int]
    evaluated: int
    is_finished: bool
    first_token: float


def seed_of(row: Row) -> int:
    """A seed from `sampling.seed` and the prompt, so that rows don't draw the same numbers."""
    digest = blake3(msgspec.json.encode([row.sampling.seed, row.tokens])).digest(4)
    return int.from_bytes(digest, "little")


def cut_at_stop(text: str, stop: Sequence[str]) -> str | None:
    """The text before the first stop string; None if it contains none."""
    positions = [at for string in stop if (at := text.find(string)) >= 0]
    return text[: min(positions)] if positions else None


ROWS = 16
"""The largest batch, with which smaller ones are compared."""
_COUNTS = (1, 2, 3, 4, 6, 8, 12)
_START = 8  # tokens before the one whose logits are compared, the same in each row
_SIZE = 256
MEMORY = 2**30
"""Memory for the rows of one size, in bytes. It limits the number of rows of a large model."""


class Slots:
    """A model with one context for each row size, which holds several rows.

    The size of a row's context doesn't depend on the other rows, because some models scale
    positions by it. most: maximum number of rows at once. multiple: of rows in a batch, see
    `multiple_of`. special: whether answers include the text of control tokens.
    """

    def __init__(
        self, gguf: Gguf, max_rows: int, multiple: int, pace: "Pace", *, special: bool
    ) -> None:
        self.most = min(max_rows, ROWS)
        self._gguf = gguf
        self._multiple = multiple
        self._pace = pace
        self._special = special
        self._contexts: dict[int, Context] = {}
        self._active: dict[int, dict[int, _Answering]] = {}  # size → place in the context → row

    @property
    def active(self) -> int:
        """The number of rows that are being answered."""
        return sum(map(len, self._active.values()))

    def has_room(self, size: int) -> bool:
        """Whether a row that needs a context of `size` tokens can begin now."""
        active = self._active.get(size, {})
        return self.active < self.most and len(active) < self._rows(size)

    def begin(self, number: int, row: Row) -> list[tuple[int, Raw]]:
        """Evaluate a row's prompt and sample the first token; the answer, if that token ends it."""
        context = self._context(row.size)
        active = self._active.setdefault(row.size, {})
        place = next(p for p in range(context.rows) if p not in active)
        context.read(place, row.tokens, row.prefix)
        active[place] = _Answering(number, row, self._gguf, special=self._special)
        return self._sample(row.size, [place], first_output=-1)

    def step(self) -> list[tuple[int, Raw]]:
        """Add one token to every row. Returns (number, answer) of the rows that end with it."""
        ended = []
        for size, active in self._active.items():
            if active:
                self._close_ranks(size)
                places = range(len(active))
                self._contexts[size].advance([active[place].tokens[-1] for place in places])
                ended += self._sample(size, list(places), first_output=0)
        return ended

    def _close_ranks(self, size: int) -> None:
        """Move the last rows to the places of ended ones, since a batch must have no gaps."""
        active = self._active[size]
        for place in range(len(active)):
            if place not in active:
                last_place = max(active)
                self._contexts[size].move(last_place, place)
                active[place] = active.pop(last_place)

    def clear(self) -> None:
        """Drop the rows that are being answered."""
        self._active.clear()

    def _sample(self, size: int, places: list[int], *, first_output: int) -> list[tuple[int, Raw]]:
        """Sample a token for the rows at `places`; their outputs begin with number `first`."""
        active, ended = self._active[size], []
        for output, place in enumerate(places, first_output):
            row = active[place]
            allowed = row.constraint.allowed(row.tokens) if row.constraint else None
            raw = row.take(self._contexts[size].sample(output, row.sampler, allowed))
            if raw is not None:
                del active[place]
                ended.append((row.number, raw))
        return ended

    def _rows(self, size: int) -> int:
        """How many rows of a size are evaluated at once; at least one, whatever the memory.

        Whether memory allows only one depends on nothing but the model and the size.
        """
        room = MEMORY // (size * max(self._gguf.cache_bytes, 1)) // self._multiple
        return max(1, min(-(-self.most // self._multiple), room) * self._multiple)

    def _context(self, size: int) -> Context:
        if size not in self._contexts:
            idle = [
                size_of_context
                for size_of_context in self._contexts
                if not self._active.get(size_of_context)
            ]
            while idle and self._bytes([*self._contexts, size]) > 2 * MEMORY:
                del self._contexts[idle.pop()]
            rows = self._rows(size)
            multiple = self._multiple if rows > 1 else 1
            self._contexts[size] = Context(self._gguf, size, rows, self._pace, multiple)
        return self._contexts[size]

    def _bytes(self, sizes: Iterable[int]) -> int:
        return sum(size * self._rows(size) * self._gguf.cache_bytes for size in sizes)


class _Answering:
    """A row that is being answered."""

    def __init__(self, number: int, row: Row, gguf: Gguf, *, special: bool) -> None:
        self.number = number
        self.tokens: list[int] = []
        self._first_token = 0.0
        self.constraint = row.constraint
        self._sampling = row.sampling
        self._gguf = gguf
        self._special = special
        sampling = row.sampling
        self.sampler = (
            Sampler(sampling.temperature, sampling.top_p, seed_of(row))
            if sampling.temperature
            else None  # greedy
        )

    def take(self, token: int) -> Raw | None:
        """Add a token. Returns the answer if the token ends it."""
        self._first_token = self._first_token or time.perf_counter()
        if self._gguf.ends_generation(token):
            return self._raw(self._text(), len(self.tokens) + 1, True)
        self.tokens.append(token)
        if self._sampling.stop:
            text = cut_at_stop(self._text(), self._sampling.stop)
            if text is not None:
                return self._raw(text, len(self.tokens), True)
        if len(self.tokens) < self._sampling.max_tokens:
            return None
        return self._raw(self._text(), len(self.tokens), False)

    def _raw(self, text: str, evaluated: int, is_finished: bool) -> Raw:
        return Raw(text, self.tokens, evaluated, is_finished, self._first_token)

    def _text(self) -> str:
        return self._gguf.decode(self.tokens, special=self._special)


def multiple_of(gguf: Gguf, pace: "Pace") -> int:
    """The smallest number such that batches of its multiples give bit-identical logits.

    llama.cpp uses different kernels for one vector and for several, and multiplies k-quants in
    tiles of rows, which sum in a different order. On an AVX2 CPU, q8_0 gives the same bits for any
    number of rows, f16 and bf16 for two or more, and q4_k_m for multiples of eight. Measured with
    this model on this machine, with rows of arbitrary tokens.
    """
    context = Context(gguf, _SIZE, ROWS, pace)
    expected = _logits(context, ROWS, gguf)
    same = {n for n in _COUNTS if _logits(context, n, gguf) == expected[:n]} | {ROWS}
    return next(m for m in (1, 2, 4, 8, ROWS) if same.issuperset(n for n in _COUNTS if n % m == 0))


def _logits(context: Context, count: int, gguf: Gguf) -> list[bytes]:
    """The logits of the first `count` rows after one more token, evaluated as one batch.

    The tokens before it are evaluated once for all rows and calls, if the model can drop tokens.
    """
    start = [_token(gguf, number) for number in range(_START)]
    for row in range(count):
        context.read(row, start, len(start))
    context.advance([_token(gguf, _START + row) for row in range(count)])
    return [context.logits(place).tobytes() for place in range(count)]


def _token(gguf: Gguf, number: int) -> int:
    """An arbitrary but reproducible token of the vocabulary."""
    return (number * 104729 + 17) % gguf.n_vocab
