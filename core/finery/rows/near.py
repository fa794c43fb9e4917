"""Near copies: texts that share most of their pieces of five letters.

Texts are compared as `normalised` leaves them, letters and digits only, by the Jaccard similarity
of their sets of five-character pieces (Broder 1997): the pieces that both have, over the pieces
that one of them has. One changed letter in a text of 30 gives 0.68, in one of 100 0.90.

MinHash (Broder 1997, by the rensa library) and locality-sensitive hashing find candidates without
comparing every pair; each candidate is then compared exactly. A pair at the threshold is found
with a probability of 98 % or more, a more similar one with a higher one.

Two rules keep texts apart that only look alike. The numbers in a short text are part of every
piece: "What is 12 plus 7?" is no near copy of "What is 12 plus 8?". And pieces that a fifth of the
rows have aren't compared, since they are the template that the rows are written from, as the
instruction in front of every ticket; only in texts that have nothing else they are.
"""

import heapq
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, NamedTuple

import msgspec
from blake3 import blake3

from finery.rows.parts import canonical, is_conversation, joined, prompt
from finery.rows.row import Row, Turns

PIECE = 5
"""Characters of a piece."""
SHORT = 100
"""Characters of a text, letters and digits, up to which its numbers are part of each piece."""
LONG = 100_000
"""Characters from which on the similarity is MinHash's estimate: exact sets would not fit."""
COMMON = 0.2
"""Share of rows from which on a piece that they have is part of a template."""
COMMON_ROWS = 10
"""Rows that must have such a piece, at least."""
SAMPLE = 1_000
"""Rows that are searched for templates."""
SEARCHED = 20_000
"""Characters of a text that are searched for templates."""
PERMUTATIONS = 120
SLACK = 0.15
"""What the estimate of a candidate may be below the threshold: four of its standard deviations."""
FOUND = 0.98
"""Probability that a pair at the threshold is found, at least."""
CROWD = 200
"""Entries that may resemble one another: of more, only these are compared with others."""
COMPARED = 100
"""Candidates that an entry is compared with exactly, until one is a near copy."""
PLACE = frozenset({"heading", "line", "page"})
"""Columns of a document's chunk that say where in its `source` it is."""
_SEED = 1
_CHUNK = 50_000
_DIGITS = re.compile(r"\d+")
_NOT_WORD = {code: None for code in range(128) if not chr(code).isalnum()}


def normalised(text: str) -> str:
    """Letters and digits only, in Unicode's compatibility form (NFKC) and case-folded."""
    if text.isascii():
        return text.lower().translate(_NOT_WORD)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # Marks are kept: in Hindi or Thai they are the vowels.
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")


class Match(NamedTuple):
    """An earlier entry that is a copy or near copy. number: its place among those added."""

    number: int
    similarity: float

    @property
    def exact(self) -> bool:
        """Whether they only differ in case, punctuation and spaces."""
        return self.similarity == 1.0


class Entry(msgspec.Struct, array_like=True):
    """What of a row is compared: texts, normalised, each with its like; and what must be equal."""

    texts: list[str]
    equal: str = ""

    def digest(self) -> bytes:
        """16 bytes that only exact copies share."""
        return blake3(msgspec.msgpack.encode(self)).digest(16)


class NearIndex:
    """Entries added so far, and which of them a new one is a near copy of.

    Holds 2 to 3 KB an entry in memory; the texts are in a nameless file in `folder`. threshold:
    least similarity of a near copy, each text of the one with that of the other; at 1 only exact
    copies count. common: pieces that aren't compared, see `Common`.

    The time for an entry doesn't grow with the number of entries, even where all of them resemble
    one another: an entry that already resembles `CROWD` others is only found by its exact copies.
    `crowded` counts these.
    """

    def __init__(
        self, threshold: float, folder: Path, common: Collection[str] = frozenset()
    ) -> None:
        self._threshold = threshold
        self._common = common
        self._exact: dict[bytes, int] = {}
        self._numbers: list[int] = []  # slot → number
        self._offsets = array("Q")
        self._file: Any = TemporaryFile(dir=folder)  # noqa: SIM115  (lives as long as the index)
        self._sketches: list[Any] = []
        self._buckets: Any = None
        if threshold < 1:
            from rensa import RMinHashLSH  # type: ignore[import-untyped]

            bands = PERMUTATIONS // rows_of_a_band(threshold)
            self._buckets = RMinHashLSH(threshold, PERMUTATIONS, bands)
        self.crowded = 0
        self._stored = lru_cache(maxsize=16)(self._read)

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, entry: Entry) -> Match | None:
        """The first entry added that is an exact copy, else the first near copy."""
        return next(self.matches(entry), None)

    def matches(self, entry: Entry) -> Iterator[Match]:
        """The entry added that is an exact copy, then all near copies in their order."""
        same = self._exact.get(entry.digest())
        if same is not None:
            yield Match(same, 1.0)
        if self._buckets is None or not any(entry.texts):
            return
        sketch, left = sketch_of(entry, self._common), COMPARED
        for slot in sorted(self._buckets.query(sketch)):
            estimate = sketch.jaccard(self._sketches[slot])
            if estimate < self._threshold - SLACK:
                continue
            exact = self._similarity(entry, slot, estimate)
            if self._threshold <= exact < 1:
                yield Match(self._numbers[slot], exact)
                continue
            left -= 1
            if not left:
                return

    def add(self, number: int, entry: Entry) -> bool:
        """Add an entry under a number; False where an exact copy of it is there already."""
        digest = entry.digest()
        if digest in self._exact:
            return False
        self._exact[digest] = number
        if self._buckets is not None and any(entry.texts):
            sketch = sketch_of(entry, self._common)
            if len(self._buckets.query(sketch)) >= CROWD:
                self.crowded += 1
                return True
            self._sketches.append(sketch)
            self._buckets.insert(len(self._numbers), self._sketches[-1])
            self._numbers.append(number)
            self._offsets.append(self._file.seek(0, 2))
            self._file.write(msgspec.msgpack.encode(entry))
        return True

    def _read(self, slot: int) -> "tuple[Entry, list[_Pieces]]":
        start = self._offsets[slot]
        end = self._offsets[slot + 1] if slot + 1 < len(self._offsets) else self._file.seek(0, 2)
        self._file.seek(start)
        entry = msgspec.msgpack.decode(self._file.read(end - start), type=Entry)
        return entry, [] if _is_long(entry) else _pieces_of(entry, self._common)

    def _similarity(self, one: Entry, slot: int, estimate: float) -> float:
        other, others = self._stored(slot)
        if one.equal != other.equal or len(one.texts) != len(other.texts):
            return 0.0
        if _is_long(one) or not others:
            return min(estimate, 0.999)  # exact copies are found without it
        pairs = zip(
            one.texts, other.texts, _prepared(one, self._common).pieces, others, strict=True
        )
        return min(1.0 if a == b else _jaccard(its, theirs) for a, b, its, theirs in pairs)


class Common:
    """Finds the pieces that many of some rows have: their template.

    Looks at the entries with the lowest digests, 1,000 of them, each different one once: so
    neither the rows' order nor their copies matter, and added rows little.
    """

    def __init__(self) -> None:
        self._lowest: list[tuple[int, Entry]] = []  # a heap of negated digests
        self._kept: set[int] = set()

    def add(self, entry: Entry) -> None:
        """Take an entry into account."""
        rank = -int.from_bytes(entry.digest(), "big")
        full = len(self._lowest) >= SAMPLE
        if rank in self._kept or (full and rank < self._lowest[0][0]):
            return
        short = Entry([text[:SEARCHED] for text in entry.texts])
        if full:
            self._kept.discard(heapq.heapreplace(self._lowest, (rank, short))[0])
        else:
            heapq.heappush(self._lowest, (rank, short))
        self._kept.add(rank)

    def pieces(self) -> frozenset[str]:
        """The pieces that a fifth of the entries have, and at least ten of them."""
        counts: Counter[str] = Counter()
        for _, entry in self._lowest:
            for index, text in enumerate(entry.texts):
                counts.update(set(pieces(text, _tag(index))))
        least = max(COMMON_ROWS, COMMON * len(self._lowest))
        return frozenset(piece for piece, count in counts.items() if count >= least)


class _Pieces(NamedTuple):
    every: set[str]
    own: set[str]


class _Prepared(NamedTuple):
    """What is computed of an entry. pieces: of each text, none where a text is too long."""

    entry: Entry
    common: Collection[str]
    sketch: Any
    pieces: list[_Pieces]


_last: list[_Prepared] = []
"""The last one: an entry is looked for in several indexes, and then added to one."""


def _prepared(entry: Entry, common: Collection[str]) -> _Prepared:
    for last in _last:
        if last.entry is entry and last.common is common:
            return last
    made = _prepare(entry, common)
    _last[:] = [made]
    return made


def _prepare(entry: Entry, common: Collection[str]) -> _Prepared:
    from rensa import RMinHash

    sketch = RMinHash(PERMUTATIONS, _SEED)
    if not _is_long(entry):
        pieces = _pieces_of(entry, common)
        for every, own in pieces:
            sketch.update(list(own or every))
        return _Prepared(entry, common, sketch, pieces)
    for index, text in enumerate(entry.texts):
        for part in _parts(text):
            every, own = _pieces(part, common, _tag(index))
            sketch.update(list(own or every))
    return _Prepared(entry, common, sketch, [])


def _is_long(entry: Entry) -> bool:
    return any(len(text) > LONG for text in entry.texts)


def _pieces_of(entry: Entry, common: Collection[str]) -> list[_Pieces]:
    return [_pieces(text, common, _tag(index)) for index, text in enumerate(entry.texts)]


def _pieces(text: str, common: Collection[str], tag: str) -> _Pieces:
    every = set(pieces(text, tag))
    return _Pieces(every, every.difference(common))


def similarity(one: str, other: str, common: Collection[str] = frozenset(), tag: str = "") -> float:
    """Jaccard similarity of the pieces of two normalised texts; 1 only where they are equal.

    Texts of the same pieces in another order or number are at most 0.999 similar.
    """
    if one == other:
        return 1.0
    return _jaccard(_pieces(one, common, tag), _pieces(other, common, tag))


def _jaccard(one: _Pieces, other: _Pieces) -> float:
    a, b = (one.own, other.own) if one.own and other.own else (one.every, other.every)
    both = len(a & b)
    return min(0.999, both / (len(a) + len(b) - both))


def pieces(text: str, tag: str = "") -> list[str]:
    """All pieces of a normalised text, each behind `tag` and, in a short text, its numbers."""
    if len(text) <= SHORT:
        tag += ",".join(_DIGITS.findall(text))
    last = max(1, len(text) - PIECE + 1)
    if not tag:
        return [text[i : i + PIECE] for i in range(last)]
    return [f"{tag}\0{text[i : i + PIECE]}" for i in range(last)]


def is_template(text: str, common: Collection[str]) -> bool:
    """Whether a normalised text has no piece of its own."""
    return not any(_pieces(part, common, "").own for part in _parts(text))


def _parts(text: str) -> Iterator[str]:
    """The text in parts that have its pieces: a list of all of them might not fit in memory."""
    for start in range(0, max(1, len(text) - PIECE + 1), _CHUNK):
        yield text[start : start + _CHUNK + PIECE - 1]


def _tag(index: int) -> str:
    """What keeps the pieces of an entry's texts apart: nothing for the first."""
    return f"{index}:" if index else ""


def sketch_of(entry: Entry, common: Collection[str] = frozenset()) -> Any:
    """The MinHash signature of an entry's pieces, those of each text that aren't common."""
    return _prepared(entry, common).sketch


def rows_of_a_band(threshold: float) -> int:
    """How many values of a signature must agree to make a candidate; fewer find more.

    The most with which a pair at the threshold is still found with the probability `FOUND`:
    1 - (1 - threshold ^ rows) ^ bands (Leskovec et al., Mining of Massive Datasets, 3.4).
    """
    fitting = [r for r in range(1, PERMUTATIONS + 1) if PERMUTATIONS % r == 0]
    return max(r for r in fitting if _found(threshold, r) >= FOUND)


def _found(threshold: float, rows: int) -> float:
    return 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows)


def row_entry(row: Row, on: Literal["row", "prompt"]) -> Entry:
    """What of a row is compared with others; a row that is no conversation as it is, whole."""
    if not is_conversation(row):
        left_out = {"id", "parents", "source"} | (PLACE if "source" in row else set())
        content = {k: v for k, v in row.items() if k not in left_out}
        text = content.pop("text", "")
        return entry_of([str(text)], canonical(content))
    texts = [prompt(row)]
    if on == "prompt":
        return entry_of(texts)
    turns = Turns.of(row)
    answers = [turns.answer] if turns.rejected is None else [turns.answer, turns.rejected]
    texts += map(joined, answers)
    return entry_of(texts, canonical([row.get("label"), row.get("tools")]))


def entry_of(texts: Sequence[str], equal: str = "") -> Entry:
    """The entry of some texts as they are written."""
    return Entry([normal(text) for text in texts], equal)


def normal(text: str) -> str:
    """The text as it is compared; one without letters and digits keeps what it has (emoji)."""
    return normalised(text) or " ".join(text.casefold().split())
