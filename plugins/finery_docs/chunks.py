"""Splitting a document along its structure: sections, blocks, sentences, words.

A chunk is a continuous part of the document's text. A section that fits becomes one chunk, and
small neighbouring sections share one. A section that doesn't fit is split between blocks, and each
chunk takes as many blocks as fit. A block that doesn't fit is split at lines or sentences, and a
sentence that doesn't fit at words. Only a word that is longer than a chunk is cut.
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
    """Limits in characters: a chunk's maximum, its overlap with the previous one, its minimum."""

    size: int
    overlap: int = 0
    shortest: int = 1


class Chunk(NamedTuple):
    """A part of the text, and the headings above all of it, outermost first."""

    start: int
    end: int
    headings: tuple[str, ...]


def chunks(document: Document, limits: Limits) -> list[Chunk]:
    """The chunks of a document, in order.

    Together they cover its text, except for white space between them. No chunk is longer than
    `limits.size`. A chunk is only shorter than `limits.shortest` if no neighbour has room for it.
    """
    stack = [_Section(0, ())]
    for block in document.blocks:
        if block.kind == "heading":
            while stack[-1].level >= block.level:
                stack.pop()
            section = _Section(block.level, (*stack[-1].path, *filter(None, [block.title])))
            stack[-1].parts.append(section)
            stack.append(section)
        stack[-1].blocks.append(block)
    units = _Splitting(document.text, limits).units(stack[0])
    found = [unit.chunk() for unit in units]
    return [chunk for chunk in found if document.text[chunk.start : chunk.end].strip()]


@dataclass
class _Section:
    """A heading and all text up to the next heading of the same or a higher level."""

    level: int
    path: tuple[str, ...]
    blocks: list[Block] = field(default_factory=list)  # with the heading, without the parts
    parts: list["_Section"] = field(default_factory=list)

    def spans(self) -> Iterator[Span]:
        yield from ((block.start, block.end) for block in self.blocks if block.end > block.start)
        for part in self.parts:
            yield from part.spans()

    def has_content(self) -> bool:
        return any(block.kind != "heading" for block in self.blocks)

    def content_path(self) -> tuple[str, ...] | None:
        """The headings above all of the content; None if the section only has headings."""
        if self.has_content():
            return self.path
        return _common([part.content_path() for part in self.parts])


def _common(paths: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """The longest common beginning of the paths, ignoring None."""
    present = [path for path in paths if path is not None]
    if not present:
        return None
    length = 0
    while all(len(path) > length and path[length] == present[0][length] for path in present):
        length += 1
    return present[0][:length]


@dataclass
class _Unit:
    """A chunk that may still grow.

    content: the headings above all of its content; None if it only has headings. path: those of
    the section. whole: it holds complete sections, or the complete text before the first part.
    """

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
        atoms: list[Span] = []
        for block in section.blocks:
            cuts = _CUTS["lines" if block.kind == "lines" else "text"]
            atoms += self._pieces(block.start, block.end, cuts)
        parts = self._packed(self._glued(section, atoms))
        content = section.path if section.has_content() else None
        whole = len(parts) == 1
        groups = [
            [_Unit(start, end, content, section.path, whole) for start, end in parts],
            *map(self.units, section.parts),
        ]
        return self._joined([group for group in groups if group])

    def _joined(self, groups: list[list[_Unit]]) -> list[_Unit]:
        """The chunks of a section: neighbouring units that are whole share one if they fit."""
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

    def _may_join(self, previous: _Unit, unit: _Unit) -> bool:
        """Whether two neighbours share a chunk: whole sections, or a heading and its text."""
        fits = unit.end - previous.start <= self._limits.size
        return fits and previous.whole and (unit.whole or previous.content is None)

    def _pieces(self, start: int, end: int, cuts: Sequence[re.Pattern[str]]) -> Iterator[Span]:
        """Split a span at the first of `cuts`, and what still doesn't fit at the next ones."""
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
        """The atoms, with a heading and the atom after it merged if they fit."""
        head = section.blocks[0] if section.blocks else None
        if head is None or head.kind != "heading" or head.end == head.start or len(atoms) < 2:
            return atoms
        together = atoms[0][0], atoms[1][1]
        fits = together[1] - together[0] <= self._limits.size
        return [together, *atoms[2:]] if fits else atoms

    def _packed(self, atoms: list[Span]) -> list[Span]:
        """Spans of as many atoms as fit, each overlapping the previous span."""
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

    def _begin(self, previous: list[Span], start: int, end: int) -> int:
        """Where a chunk with the atom from `start` to `end` begins: up to `overlap` earlier."""
        stop = previous[-1][1]
        low = max(stop - self._limits.overlap, end - self._limits.size, previous[0][0] + 1)
        for cut in (_SENTENCE, _LINE, _WORD):
            match = cut.search(self._text, max(low - 1, 0), stop)
            if match and low <= match.end() < stop:
                return match.end()
        return start

    def _even_end(self, groups: list[list[Span]], begins: list[int]) -> None:
        """Lengthen the last chunk, if it is too short, by atoms of the one before it."""
        size, shortest = self._limits.size, self._limits.shortest
        while len(groups) > 1 and groups[-1][-1][1] - begins[-1] < shortest:
            previous, last = groups[-2:]
            begin = previous[-1][0]
            if len(previous) < 2 or last[-1][1] - begin > size:
                return
            if previous[-2][1] - begins[-2] < shortest:
                return
            last.insert(0, previous.pop())
            begins[-1] = begin
