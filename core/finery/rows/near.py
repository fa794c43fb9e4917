"""Near-duplicate detection: texts that share most of their five-character pieces.

Texts are first reduced to letters and digits (`normalise_text`). Their similarity is the Jaccard
index of their sets of five-character pieces (Broder 1997): the size of the intersection divided by
the size of the union. One changed letter gives 0.68 in a text of 30 characters and 0.90 in one of
100.

MinHash (Broder 1997, by the rensa library) and locality-sensitive hashing find candidates without
comparing every pair. Each candidate is then compared exactly. A pair at the threshold is found
with a probability of at least 98 %; the probability rises with the similarity.

Two rules prevent false matches. In a short text, every piece includes the text's numbers, so that
"What is 12 plus 7?" doesn't match "What is 12 plus 8?". And pieces that occur in a fifth of the
rows are ignored, because they come from a template, such as the instruction that precedes every
ticket. They are only compared in texts that consist of nothing else.
"""

import heapq
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, NamedTuple

import msgspec
from blake3 import blake3

from finery.rows.parts import canonical_json, is_conversation, join_turns, prompt_text
from finery.rows.row import Row, Turns

NEAR_SIMILARITY = 0.7
"""Minimum similarity of near copies, wherever no setting says otherwise."""
PIECE_CHARACTERS = 5
"""Length of a piece in characters."""
SHORT_CHARACTERS = 100
"""Longest normalised text, in characters, whose numbers are part of each piece."""
LONG_CHARACTERS = 100_000
"""Longest text, in characters, that is compared exactly. Beyond, exact sets wouldn't fit into
memory, and MinHash's estimate is used."""
TEMPLATE_SHARE = 0.2
"""Share of the rows in which a piece must occur to count as part of a template."""
TEMPLATE_ROWS = 10
"""Minimum number of rows in which such a piece must occur."""
TEMPLATE_SAMPLE = 1_000
"""Number of rows that are searched for templates."""
SEARCHED_SLOTS = 20_000
"""Number of characters of each text that are searched for templates."""
PERMUTATIONS = 120
ESTIMATE_SLACK = 0.15
"""How far below the threshold a candidate's estimate may be: four standard deviations."""
FOUND_SHARE = 0.98
"""Minimum probability that a pair at the threshold is found."""
CROWDED_BUCKET = 200
"""Size limit of a group of similar entries. Further ones only match exact copies."""
MAX_COMPARED = 100
"""Number of candidates that may fail the exact comparison before the search stops."""
PLACE_COLUMNS = frozenset({"heading", "line", "page"})
"""Columns that locate a chunk in its `source` document."""
_SEED = 1
_CHUNK = 50_000
_DIGITS = re.compile(r"\d+")
_NOT_WORD = {code: None for code in range(128) if not chr(code).isalnum()}


def normalise_text(text: str) -> str:
    """The letters and digits of a text, case-folded and in Unicode's compatibility form (NFKC)."""
    if text.isascii():
        return text.lower().translate(_NOT_WORD)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # Marks are kept: in Hindi or Thai they are the vowels.
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")


class Match(NamedTuple):
    """An earlier entry that is a copy or near copy. number: the one that it was added under."""

    number: int
    similarity: float

    @property
    def exact(self) -> bool:
        """Whether the two only differ in case, punctuation and spaces."""
        return self.similarity == 1.0


class Entry(msgspec.Struct, array_like=True):
    """The compared content of a row.

    texts: normalised; each is compared with the text at the same index of another entry. equal:
    what must be identical for two entries to match.
    """

    texts: list[str]
    equal: str = ""

    def digest(self) -> bytes:
        """16 bytes that only exact copies share."""
        return blake3(msgspec.msgpack.encode(self)).digest(16)


class NearIndex:
    """Finds which of the entries added so far a new one is a copy or near copy of.

    threshold: minimum similarity of a near copy, which every pair of texts must reach; with 1,
    only exact copies count. common: pieces to ignore, see `TemplateFinder`. Takes 2 to 3 KB of
    memory per entry; the texts are in an unnamed temporary file in `folder`.

    The time per entry doesn't grow with the number of entries, even if all of them are similar: an
    entry that already resembles `CROWDED_BUCKET` others is only found by its exact copies.
    `crowded` counts such entries.
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

            bands = PERMUTATIONS // rows_per_band(threshold)
            self._buckets = RMinHashLSH(threshold, PERMUTATIONS, bands)
        self.crowded = 0
        self._stored = lru_cache(maxsize=16)(self._read)

    def __len__(self) -> int:
        return len(self._exact)

    def find(self, entry: Entry) -> Match | None:
        """The exact copy of an entry, or else the near copy that was added first."""
        return next(self.matches(entry), None)

    def matches(self, entry: Entry) -> Iterator[Match]:
        """The exact copy of an entry, then its near copies in the order of their addition."""
        exact_copy = self._exact.get(entry.digest())
        if exact_copy is not None:
            yield Match(exact_copy, 1.0)
        if self._buckets is None or not any(entry.texts):
            return
        sketch, remaining = sketch_of(entry, self._common), MAX_COMPARED
        for slot in sorted(self._buckets.query(sketch)):
            estimate = sketch.jaccard(self._sketches[slot])
            if estimate < self._threshold - ESTIMATE_SLACK:
                continue
            exact = self._similarity(entry, slot, estimate)
            if self._threshold <= exact < 1:
                yield Match(self._numbers[slot], exact)
                continue
            remaining -= 1
            if not remaining:
                return

    def add(self, number: int, entry: Entry) -> bool:
        """Add an entry under a number. False if the index already has an exact copy of it."""
        digest = entry.digest()
        if digest in self._exact:
            return False
        self._exact[digest] = number
        if self._buckets is not None and any(entry.texts):
            sketch = sketch_of(entry, self._common)
            if len(self._buckets.query(sketch)) >= CROWDED_BUCKET:
                self.crowded += 1
                return True
            self._sketches.append(sketch)
            self._buckets.insert(len(self._numbers), self._sketches[-1])
            self._numbers.append(number)
            self._offsets.append(self._file.seek(0, 2))
            self._file.write(msgspec.msgpack.encode(entry))
        return True

    def _read(self, slot: int) -> "tuple[Entry, list[_TextPieces]]":
        start = self._offsets[slot]
        end = self._offsets[slot + 1] if slot + 1 < len(self._offsets) else self._file.seek(0, 2)
        self._file.seek(start)
        entry = msgspec.msgpack.decode(self._file.read(end - start), type=Entry)
        return entry, [] if _is_long(entry) else _pieces_of(entry, self._common)

    def _similarity(self, entry: Entry, slot: int, estimate: float) -> float:
        stored, other_pieces = self._stored(slot)
        if entry.equal != stored.equal or len(entry.texts) != len(stored.texts):
            return 0.0
        if _is_long(entry) or not other_pieces:
            return min(estimate, 0.999)  # exact copies are found without it
        entry_pieces = _sketched_entry(entry, self._common).pieces
        pairs = zip(entry.texts, stored.texts, entry_pieces, other_pieces, strict=True)
        return min(1.0 if a == b else _jaccard(in_a, in_b) for a, b, in_a, in_b in pairs)


class TemplateFinder:
    """Finds the pieces that many rows share because they come from the same template.

    Looks at the 1,000 different entries with the lowest digests. So the order of the rows and
    their copies don't matter, and added rows hardly do.
    """

    def __init__(self) -> None:
        self._lowest: list[tuple[int, Entry]] = []  # a heap of negated digests
        self._kept: set[int] = set()

    def add(self, entry: Entry) -> None:
        """Keep an entry if its digest is among the lowest."""
        rank = -int.from_bytes(entry.digest(), "big")
        full = len(self._lowest) >= TEMPLATE_SAMPLE
        if rank in self._kept or (full and rank < self._lowest[0][0]):
            return
        short = Entry([text[:SEARCHED_SLOTS] for text in entry.texts])
        if full:
            self._kept.discard(heapq.heapreplace(self._lowest, (rank, short))[0])
        else:
            heapq.heappush(self._lowest, (rank, short))
        self._kept.add(rank)

    def pieces(self) -> frozenset[str]:
        """The pieces that occur in at least a fifth of the kept entries, and in at least ten."""
        counts: Counter[str] = Counter()
        for _, entry in self._lowest:
            for index, text in enumerate(entry.texts):
                counts.update(set(pieces(text, _text_prefix(index))))
        min_count = max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(self._lowest))
        return frozenset(piece for piece, count in counts.items() if count >= min_count)


def common_pieces(entries: Iterable[Entry | None]) -> frozenset[str]:
    """The pieces that many of these entries share; None stands for a row without one."""
    common = TemplateFinder()
    for entry in entries:
        if entry is not None:
            common.add(entry)
    return common.pieces()


class _TextPieces(NamedTuple):
    """The pieces of a text. specific: those that aren't part of a template."""

    every: set[str]
    specific: set[str]


class _SketchedEntry(NamedTuple):
    """An entry's signature and the pieces of each text; no pieces if a text is too long."""

    entry: Entry
    common: Collection[str]
    sketch: Any
    pieces: list[_TextPieces]


_last_sketched: list[_SketchedEntry] = []
"""The most recent one, since an entry is looked up in several indexes and then added to one."""


def _sketched_entry(entry: Entry, common: Collection[str]) -> _SketchedEntry:
    for entry_sketch in _last_sketched:
        if entry_sketch.entry is entry and entry_sketch.common is common:
            return entry_sketch
    _last_sketched[:] = [_sketch_entry(entry, common)]
    return _last_sketched[0]


def _sketch_entry(entry: Entry, common: Collection[str]) -> _SketchedEntry:
    from rensa import RMinHash

    sketch = RMinHash(PERMUTATIONS, _SEED)
    if not _is_long(entry):
        pieces = _pieces_of(entry, common)
        for all_pieces, specific in pieces:
            sketch.update(list(specific or all_pieces))
        return _SketchedEntry(entry, common, sketch, pieces)
    for index, text in enumerate(entry.texts):
        for chunk in _chunks(text):
            all_pieces, specific = _text_pieces(chunk, common, _text_prefix(index))
            sketch.update(list(specific or all_pieces))
    return _SketchedEntry(entry, common, sketch, [])


def _is_long(entry: Entry) -> bool:
    return any(len(text) > LONG_CHARACTERS for text in entry.texts)


def _pieces_of(entry: Entry, common: Collection[str]) -> list[_TextPieces]:
    return [
        _text_pieces(text, common, _text_prefix(index)) for index, text in enumerate(entry.texts)
    ]


def _text_pieces(text: str, common: Collection[str], tag: str) -> _TextPieces:
    all_pieces = set(pieces(text, tag))
    return _TextPieces(all_pieces, all_pieces.difference(common))


def similarity(first: str, second: str, common: Collection[str] = frozenset()) -> float:
    """Jaccard similarity of the pieces of two normalised texts; 1 only if they are equal.

    Different texts are at most 0.999 similar, even if they consist of the same pieces.
    """
    if first == second:
        return 1.0
    return _jaccard(_text_pieces(first, common, ""), _text_pieces(second, common, ""))


def _jaccard(left: _TextPieces, right: _TextPieces) -> float:
    if left.specific and right.specific:
        a, b = left.specific, right.specific
    else:
        a, b = left.every, right.every
    shared = len(a & b)
    return min(0.999, shared / (len(a) + len(b) - shared))


def pieces(text: str, tag: str = "") -> list[str]:
    """All pieces of a normalised text, prefixed by `tag` and, if it is short, by its numbers."""
    if len(text) <= SHORT_CHARACTERS:
        tag += ",".join(_DIGITS.findall(text))
    end = max(1, len(text) - PIECE_CHARACTERS + 1)
    if not tag:
        return [text[i : i + PIECE_CHARACTERS] for i in range(end)]
    return [f"{tag}\0{text[i : i + PIECE_CHARACTERS]}" for i in range(end)]


def is_template(text: str, common: Collection[str]) -> bool:
    """Whether a normalised text has no pieces except those of the template."""
    return not any(_text_pieces(chunk, common, "").specific for chunk in _chunks(text))


def _chunks(text: str) -> Iterator[str]:
    """Overlapping parts of a text, since a list of all its pieces might not fit into memory."""
    for start in range(0, max(1, len(text) - PIECE_CHARACTERS + 1), _CHUNK):
        yield text[start : start + _CHUNK + PIECE_CHARACTERS - 1]


def _text_prefix(index: int) -> str:
    """A prefix that distinguishes the pieces of an entry's texts; empty for the first text."""
    return f"{index}:" if index else ""


def sketch_of(entry: Entry, common: Collection[str] = frozenset()) -> Any:
    """The MinHash signature of an entry's pieces, without those of the template."""
    return _sketched_entry(entry, common).sketch


def rows_per_band(threshold: float) -> int:
    """How many values of a band must agree to make a pair a candidate; fewer give more candidates.

    The largest number of rows that finds a pair at the threshold with at least the probability
    `FOUND_SHARE`: 1 - (1 - threshold ^ rows) ^ bands (Leskovec et al., Mining of Massive Datasets,
    3.4).
    """
    divisors = [rows for rows in range(1, PERMUTATIONS + 1) if PERMUTATIONS % rows == 0]
    return max(
        rows
        for rows in divisors
        if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= FOUND_SHARE
    )


def row_entry(row: Row, on: Literal["row", "prompt"]) -> Entry:
    """The compared content of a row: its prompt, with `row` its answers, too.

    Of a row without turns, or with an empty prompt, everything is compared.
    """
    entry = prompt_entry(row)
    if on == "prompt" and entry is not None:
        return entry
    if entry is None or not is_conversation(row):
        left_out = {"id", "parents", "source"} | (PLACE_COLUMNS if "source" in row else set())
        content = {k: v for k, v in row.items() if k not in left_out}
        text = content.pop("text", "")
        return make_entry([str(text)], canonical_json(content))
    turns = Turns.of(row)
    answers = [turns.answer] if turns.rejected is None else [turns.answer, turns.rejected]
    texts = [prompt_text(row), *map(join_turns, answers)]
    return make_entry(texts, canonical_json([row.get("label"), row.get("tools")]))


def prompt_entry(row: Row) -> Entry | None:
    """The compared part of a row's prompt, of a document its text; None if it has none."""
    text = prompt_text(row)
    return make_entry([text]) if text.strip() else None


def make_entry(texts: Sequence[str], equal: str = "") -> Entry:
    """The entry of texts that aren't normalised yet."""
    return Entry([normalise_or_keep(text) for text in texts], equal)


def normalise_or_keep(text: str) -> str:
    """The text as it is compared. A text without letters and digits (emoji) is kept as it is."""
    return normalise_text(text) or " ".join(text.casefold().split())
