"""Rows answered at the same time by llama.cpp's library: one token of each in every step."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from finery_gguf.answering.row import Raw, Row, cut, seed_of
from finery_gguf.answering.shapes import ROWS
from finery_gguf.llama import Context, Gguf, Sampler

if TYPE_CHECKING:
    from finery_gguf.pace import Pace

MEMORY = 2**30
"""Bytes for the rows of one size. More rows of a larger model would take too much memory."""


class Slots:
    """A model with room for a number of rows, in contexts by the size that rows need.

    A row's context has the same size whatever else is answered, since some models scale positions
    by it.
    """

    def __init__(
        self, gguf: Gguf, most: int, multiple: int, pace: "Pace", *, special: bool
    ) -> None:
        """most: rows at once. multiple: see `shapes`. special: with the text of control tokens."""
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
        """Whether a row of this size can begin now."""
        active = self._active.get(size, {})
        return self.active < self.most and len(active) < self._rows(size)

    def begin(self, number: int, row: Row) -> list[tuple[int, Raw]]:
        """Read a row's prompt and its first token; returns its answer if that ends it."""
        context = self._context(row.size)
        active = self._active.setdefault(row.size, {})
        place = next(p for p in range(context.rows) if p not in active)
        context.read(place, row.tokens, row.prefix)
        active[place] = _Answering(number, row, self._gguf, special=self._special)
        return self._sampled(row.size, [place], first=-1)

    def step(self) -> list[tuple[int, Raw]]:
        """One more token for every row; returns (number, answer) of those that it ends."""
        ended = []
        for size, active in self._active.items():
            if active:
                self._close_ranks(size)
                places = range(len(active))
                self._contexts[size].advance([active[place].tokens[-1] for place in places])
                ended += self._sampled(size, list(places), first=0)
        return ended

    def _close_ranks(self, size: int) -> None:
        """Move the last rows into the places of ended ones: llama.cpp evaluates neighbours."""
        active = self._active[size]
        for place in range(len(active)):
            if place not in active:
                last = max(active)
                self._contexts[size].move(last, place)
                active[place] = active.pop(last)

    def clear(self) -> None:
        """Forget the rows that are being answered."""
        self._active.clear()

    def _sampled(self, size: int, places: list[int], *, first: int) -> list[tuple[int, Raw]]:
        """Sample the rows at `places`, which were evaluated last, from the output `first` on."""
        active, ended = self._active[size], []
        for output, place in enumerate(places, first):
            row = active[place]
            raw = row.take(self._contexts[size].sample(output, row.sampler))
            if raw is not None:
                del active[place]
                ended.append((row.number, raw))
        return ended

    def _rows(self, size: int) -> int:
        """How many rows of a size are evaluated at once; one for a model that has no room for more.

        Whether it is one depends on the model and the size alone.
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
        greedy = row.sampling.temperature == 0
        self.sampler = None if greedy else _sampler(row)

    def take(self, token: int) -> Raw | None:
        """Add a token; the answer, if it is the last one."""
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


def _sampler(row: Row) -> Sampler:
    return Sampler(row.sampling.temperature, row.sampling.top_p, seed_of(row))
