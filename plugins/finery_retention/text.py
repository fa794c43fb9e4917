"""General text, in passages that are scored one by one.

`passages.txt` is the beginning of "In the Year 2889" by Michel and Jules Verne, as published in The
Forum (New York, February 1889), with rejoined lines. It is in the public domain: it was published
in the United States before 1930, and its authors died in 1925 and 1905, so that terms of 70 and of
95 years have ended. The text comes from Project Gutenberg's eBook 19362, without its licence and
trademark.
"""

from collections.abc import Iterator
from pathlib import Path

from finery import DataError, shown

SHIPPED = Path(__file__).with_name("passages.txt")
PASSAGE = 600
"""Bytes from which a passage ends at the next paragraph, and at most twice as many."""


def passages(path: Path, limit: int) -> list[str]:
    """The passages at the beginning of a file. limit: bytes of all together.

    Raises `DataError` for a file that isn't UTF-8 or has no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the text can't be read: {error}", where=shown(path), fix="save it as UTF-8"
        ) from error
    parts: list[str] = []
    size = 0
    for part in _joined(text):
        size += len(part.encode())
        if size > limit and parts:
            break
        parts.append(part)
    if not parts:
        raise DataError("the text is empty", where=shown(path), fix="name a file with text")
    return parts


def _joined(text: str) -> Iterator[str]:
    """Paragraphs, short ones joined with the next ones."""
    waiting: list[str] = []
    for paragraph in _pieces(text):
        waiting.append(paragraph)
        if len("\n\n".join(waiting).encode()) >= PASSAGE:
            yield "\n\n".join(waiting)
            waiting = []
    if waiting:
        yield "\n\n".join(waiting)


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs, long ones cut between words."""
    lines = "\n".join(line.strip() for line in text.splitlines())
    for paragraph in filter(None, (part.strip() for part in lines.split("\n\n"))):
        words: list[str] = []
        size = 0
        for word in paragraph.split(" "):
            if words and size + len(word.encode()) > PASSAGE:
                yield " ".join(words)
                words, size = [], 0
            words.append(word)
            size += len(word.encode()) + 1
        yield " ".join(words)
