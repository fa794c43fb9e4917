"""Answers rows in parallel with llama.cpp's library: each step adds one token to every row."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from finery_gguf.answering.row import Raw, Row, cut, seed_of
from finery_gguf.answering.shapes import ROWS
from finery_gguf.llama import Context, Gguf, Sampler

if TYPE_CHECKING:
    from finery_gguf.pace import Pace

MEMORY = 2**30
"""Memory for the rows of one size, in bytes. It limits the number of rows of a large model."""


class Slots:
    """A model with one context for each row size, which holds several rows.

    The size of a row's context doesn't depend on the other rows, because some models scale
    positions by it. most: maximum number of rows at once. multiple: of rows in a batch, see
    `shapes`. special: whether answers include the text of control tokens.
    """

    def __init__(
        self, gguf: Gguf, most: int, multiple: int, pace: "Pace", *, special: bool
    ) -> None:
        self.most = min(most, ROWS)
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
        return self._sampled(row.size, [place], first=-1)

    def step(self) -> list[tuple[int, Raw]]:
        """Add one token to every row. Returns (number, answer) of the rows that end with it."""
        ended = []
        for size, active in self._active.items():
            if active:
                self._close_ranks(size)
                places = range(len(active))
                self._contexts[size].advance([active[place].tokens[-1] for place in places])
                ended += self._sampled(size, list(places), first=0)
        return ended

    def _close_ranks(self, size: int) -> None:
        """Move the last rows to the places of ended ones, since a batch must have no gaps."""
        active = self._active[size]
        for place in range(len(active)):
            if place not in active:
                last = max(active)
                self._contexts[size].move(last, place)
                active[place] = active.pop(last)

    def clear(self) -> None:
        """Drop the rows that are being answered."""
        self._active.clear()

    def _sampled(self, size: int, places: list[int], *, first: int) -> list[tuple[int, Raw]]:
        """Sample a token for the rows at `places`; their outputs begin with number `first`."""
        active, ended = self._active[size], []
        for output, place in enumerate(places, first):
            row = active[place]
            raw = row.take(self._contexts[size].sample(output, row.sampler))
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
            idle = [other for other in self._contexts if not self._active.get(other)]
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
        if self._gguf.ends_generation(token):
            return Raw(self._text(), self.tokens, len(self.tokens) + 1, True)
        self.tokens.append(token)
        if self._sampling.stop:
            text = cut(self._text(), self._sampling.stop)
            if text is not None:
                return Raw(text, self.tokens, len(self.tokens), True)
        if len(self.tokens) < self._sampling.max_tokens:
            return None
        return Raw(self._text(), self.tokens, len(self.tokens), False)

    def _text(self) -> str:
        return self._gguf.decode(self.tokens, special=self._special)
