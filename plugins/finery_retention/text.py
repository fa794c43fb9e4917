"""General text, in passages that are scored one by one.

`passages.txt` is the beginning of "In the Year 2889" by Michel and Jules Verne, as published in The
Forum (New York, February 1889), with rejoined lines. It is in the public domain: it was published
in the United States before 1930, and its authors died in 1925 and 1905, so that terms of 70 and of
95 years have ended. The text comes from Project Gutenberg's eBook 19362, without its licence and
trademark.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from finery import DataError
from finery.advanced import shown

SHIPPED = Path(__file__).with_name("passages.txt")
PASSAGE = 600
"""Bytes from which a passage ends. It has at most twice as many, and a blank line in between."""
_WORD = re.compile(r"\S+\s*")


def passages(path: Path, limit: int) -> list[str]:
    """The passages at the beginning of a file. limit: most bytes of all together.

    Raises `DataError` for a file that isn't UTF-8 or has no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the text can't be read: {error}", where=shown(path), fix="save it as UTF-8"
        ) from error
    parts = list(_first(_joined(text), limit))
    if not parts:
        raise DataError("the text is empty", where=shown(path), fix="name a file with text")
    return parts


def _first(parts: Iterable[str], limit: int) -> Iterator[str]:
    """The first parts, up to `limit` bytes; if the first part is longer, its beginning."""
    size = 0
    for part in parts:
        if size and size + len(part.encode()) > limit:
            return
        start = next(_cut(part, limit))
        yield start
        size += len(start.encode())


def _joined(text: str) -> Iterator[str]:
    """Paragraphs; short ones are joined with the next ones."""
    waiting: list[str] = []
    for paragraph in _pieces(text):
        waiting.append(paragraph)
        if len("\n\n".join(waiting).encode()) >= PASSAGE:
            yield "\n\n".join(waiting)
            waiting = []
    if waiting:
        yield "\n\n".join(waiting)


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs, those with more than `PASSAGE` bytes cut between words."""
    lines = "\n".join(line.strip() for line in text.splitlines())
    for paragraph in filter(None, (part.strip() for part in lines.split("\n\n"))):
        piece = ""
        for word in _words(paragraph):
            if piece and len((piece + word.rstrip()).encode()) > PASSAGE:
                yield piece.rstrip()
                piece = ""
            piece += word
        yield piece.rstrip()


def _words(paragraph: str) -> Iterator[str]:
    """Words, each with the whitespace after it.

    Those with more than `PASSAGE` bytes are cut: not all languages put spaces between words.
    """
    for word in _WORD.findall(paragraph):
        *parts, last = _cut(word.rstrip(), PASSAGE)
        yield from parts
        yield last + word[len(word.rstrip()) :]


def _cut(text: str, most: int) -> Iterator[str]:
    """A text in parts of at most so many bytes, cut between characters."""
    start = size = 0
    for place, character in enumerate(text):
        width = len(character.encode())
        if size + width > most:
            yield text[start:place]
            start, size = place, 0
        size += width
    yield text[start:]
