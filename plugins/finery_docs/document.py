"""Documents as the chunker sees them: one text, and the place of each part."""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["heading", "text", "lines"]


class Block(NamedTuple):
    """A part of a document's text that isn't split if it fits into a chunk.

    kind: `heading` (of `level`, counted from 1, called `title`; its text may be empty), `text`
    (split at sentences if necessary), or `lines` (code, tables, lists; split at lines).
    """

    start: int
    end: int
    kind: Kind
    level: int = 0
    title: str = ""


class Problem(Exception):
    """Why a file, or a page of it, gives no text: a short `reason` to count by, and details."""

    def __init__(self, reason: str, what: str, fix: str) -> None:
        super().__init__(what)
        self.reason = reason
        self.what = what
        self.fix = fix


@dataclass
class Document:
    """A file's text, its blocks in order, and the line or page number of each part.

    places: (offset in the text, number) in order; a number applies up to the next one's offset.
    missing: pages without text.
    """

    text: str
    blocks: list[Block]
    unit: Literal["line", "page"]
    places: list[tuple[int, int]]
    missing: list[int] = field(default_factory=list)

    def place(self, offset: int) -> dict[str, Any]:
        """`{"line": n}` or `{"page": n}` of an offset into the text."""
        at = bisect_right(self.places, offset, key=lambda place: place[0]) - 1
        return {self.unit: self.places[max(at, 0)][1]} if self.places else {}


class Builder:
    """Puts a document together from texts of blocks that a file doesn't hold as they are."""

    def __init__(self, unit: Literal["line", "page"]) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._made = Document("", [], unit, [])

    @property
    def has_text(self) -> bool:
        """Whether any text was added so far."""
        return bool(self._parts)

    def add(self, text: str, kind: Kind, number: int, *, level: int = 0, title: str = "") -> None:
        """Add a block from the line or page `number`, separated by an empty line."""
        if self._parts and text:
            self._parts.append("\n\n")
            self._length += 2
        self._made.places.append((self._length, number))
        self._made.blocks.append(Block(self._length, self._length + len(text), kind, level, title))
        if text:
            self._parts.append(text)
            self._length += len(text)

    def extend(self, texts: Iterable[str], number: int) -> None:
        """Add several paragraphs of one line or page."""
        for text in texts:
            self.add(text, "text", number)

    def document(self) -> Document:
        """The document with all added blocks."""
        self._made.text = "".join(self._parts)
        return self._made


def line_starts(text: str) -> list[tuple[int, int]]:
    """(offset, number) of each line."""
    starts, at = [(0, 1)], text.find("\n")
    while at >= 0:
        starts.append((at + 1, len(starts) + 1))
        at = text.find("\n", at + 1)
    return starts
