"""Splitting a document along its structure: sections, blocks, sentences, words.

A chunk is a stretch of the document's text. A section that fits is one chunk, and small sections
beside each other share one; of a section that doesn't fit, blocks are put together as far as they
go; a block that doesn't fit is split at lines or sentences, and a sentence that doesn't at words.
Only a run of characters that is longer than a chunk by itself is cut within.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from finery_docs.document import Block, Document

Span = tuple[int, int]
_LINE = re.compile(r"\n+")
_SENTENCE = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"'”’)\]]))\s++(?![a-z])|(?<=[。！？])")
_WORD = re.compile(r"\s+")
_CUTS = {"lines": (_LINE, _SENTENCE, _WORD), "text": (_SENTENCE, _WORD)}


class Limits(NamedTuple):
    """In characters: the most of a chunk, what it may repeat of the one before, its fewest."""

    size: int
    overlap: int = 0
    shortest: int = 1


class Chunk(NamedTuple):
    """A stretch of the text, and the headings that all of it stands under."""

    start: int
    end: int
    headings: tuple[str, ...]


def chunks(document: Document, limits: Limits) -> list[Chunk]:
    """The chunks of a document, in order.

    They cover its text, but for space between them; none is longer than `limits.size`. Those
    shorter than `limits.shortest` are where nothing beside them had room.
    """
    root = _sections(document)
    every = [unit.chunk() for unit in _Splitting(document.text, limits).units(root)]
    return [chunk for chunk in every if document.text[chunk.start : chunk.end].strip()]


@dataclass
class _Section:
    """A heading with what follows it, up to the next one of its level or above."""

    level: int
    path: tuple[str, ...]
    blocks: list[Block] = field(default_factory=list)  # its own, its heading included
    parts: list["_Section"] = field(default_factory=list)

    def spans(self) -> Iterator[Span]:
        yield from ((block.start, block.end) for block in self.blocks if block.end > block.start)
        for part in self.parts:
            yield from part.spans()

    def has_content(self) -> bool:
        return any(block.kind != "heading" for block in self.blocks)

    def content_path(self) -> tuple[str, ...] | None:
        """The headings that all content stands under; None where there are only headings."""
        if self.has_content():
            return self.path
        return _common([part.content_path() for part in self.parts])


def _sections(document: Document) -> _Section:
    stack = [_Section(0, ())]
    for block in document.blocks:
        if block.kind == "heading":
            while stack[-1].level >= block.level:
                stack.pop()
            section = _Section(block.level, (*stack[-1].path, *filter(None, [block.title])))
            stack[-1].parts.append(section)
            stack.append(section)
        stack[-1].blocks.append(block)
    return stack[0]


def _common(paths: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The beginning that all paths share, of those that there are."""
    known = [path for path in paths if path is not None]
    if not known:
        return None
    length = 0
    while all(len(path) > length and path[length] == known[0][length] for path in known):
        length += 1
    return known[0][:length]


@dataclass
class _Unit:
    """A chunk in the making. whole: a section, several, or all that one has of its own."""

    start: int
    end: int
    content: tuple[str, ...] | None
    path: tuple[str, ...]
    whole: bool

    def chunk(self) -> Chunk:
        return Chunk(self.start, self.end, self.path if self.content is None else self.content)


class _Splitting:
    """Splits one document."""

    def __init__(self, text: str, limits: Limits) -> None:
        self._text = text
        self._limits = limits

    def units(self, section: _Section) -> list[_Unit]:
        """The chunks of a section."""
        spans = list(section.spans())
        if not spans:
            return []
        start, end = spans[0][0], max(end for _, end in spans)
        if end - start <= self._limits.size:
            return [_Unit(start, end, section.content_path(), section.path, whole=True)]
        groups = [self._own(section), *map(self.units, section.parts)]
        return self._joined([group for group in groups if group])

    def _own(self, section: _Section) -> list[_Unit]:
        """What a section has before its first part."""
        atoms = [atom for block in section.blocks for atom in self._atoms(block)]
        parts = self._packed(self._glued(section, atoms))
        content = section.path if section.has_content() else None
        whole = len(parts) == 1
        return [_Unit(start, end, content, section.path, whole) for start, end in parts]

    def _joined(self, groups: list[list[_Unit]]) -> list[_Unit]:
        """Parts of one section, those that are whole together as long as they fit."""
        joined: list[_Unit] = []
        for first, *rest in groups:
            for unit in (first, *rest) if rest else ():
                unit.whole = False
            if joined and self._may_join(joined[-1], first):
                joined[-1] = _Unit(
                    joined[-1].start,
                    first.end,
                    _common([joined[-1].content, first.content]),
                    _common([joined[-1].path, first.path]) or (),
                    first.whole,
                )
            else:
                joined.append(first)
            joined += rest
        return joined

    def _may_join(self, before: _Unit, unit: _Unit) -> bool:
        """Whether two neighbours make one chunk: whole sections, or a heading before its text."""
        fits = unit.end - before.start <= self._limits.size
        return fits and before.whole and (unit.whole or before.content is None)

    def _atoms(self, block: Block) -> list[Span]:
        """A block in pieces that fit."""
        cuts = _CUTS["lines" if block.kind == "lines" else "text"]
        return list(self._pieces(block.start, block.end, cuts))

    def _pieces(self, start: int, end: int, cuts: Sequence[re.Pattern[str]]) -> Iterator[Span]:
        if not self._text[start:end].strip():
            return
        if end - start <= self._limits.size:
            yield start, end
        elif cuts:
            at = start
            for cut in cuts[0].finditer(self._text, start, end):
                yield from self._pieces(at, cut.start(), cuts[1:])
                at = cut.end()
            yield from self._pieces(at, end, cuts[1:])
        else:
            for at in range(start, end, self._limits.size):
                yield at, min(at + self._limits.size, end)

    def _glued(self, section: _Section, atoms: list[Span]) -> list[Span]:
        """The atoms, a heading and the first piece of what follows it as one where they fit."""
        head = section.blocks[0] if section.blocks else None
        if head is None or head.kind != "heading" or head.end == head.start or len(atoms) < 2:
            return atoms
        together = atoms[0][0], atoms[1][1]
        fits = together[1] - together[0] <= self._limits.size
        return [together, *atoms[2:]] if fits else atoms

    def _packed(self, atoms: list[Span]) -> list[Span]:
        """As many atoms together as fit, beginning with some of what came before."""
        groups: list[list[Span]] = []
        begins: list[int] = []
        for start, end in atoms:
            if groups and end - begins[-1] <= self._limits.size:
                groups[-1].append((start, end))
                continue
            begins.append(self._begin(groups[-1], start, end) if groups else start)
            groups.append([(start, end)])
        self._even_end(groups, begins)
        return [(begin, group[-1][1]) for begin, group in zip(begins, groups, strict=True)]

    def _begin(self, before: list[Span], start: int, end: int) -> int:
        """Where a chunk begins that continues another: up to `overlap` earlier."""
        stop = before[-1][1]
        low = max(stop - self._limits.overlap, end - self._limits.size, before[0][0] + 1)
        for cut in (_SENTENCE, _LINE, _WORD):
            match = cut.search(self._text, max(low - 1, 0), stop)
            if match and low <= match.end() < stop:
                return match.end()
        return start

    def _even_end(self, groups: list[list[Span]], begins: list[int]) -> None:
        """Move atoms into a last chunk that is too short by itself."""
        size, shortest = self._limits.size, self._limits.shortest
        while len(groups) > 1 and groups[-1][-1][1] - begins[-1] < shortest:
            before, last = groups[-2:]
            begin = before[-1][0]
            if len(before) < 2 or last[-1][1] - begin > size:
                return
            if before[-2][1] - begins[-2] < shortest:
                return
            last.insert(0, before.pop())
            begins[-1] = begin
