"""The words of a text, as BM25 compares them: in lower case, and pairs of characters in CJK.

In goes a text, out come its words in order. This module is part of the app of a bundle, and needs
nothing but Python.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise

_ASCII = re.compile(r"\w\w+")
_INVISIBLE = {ord(character): None for character in "\u00ad\u200c\u200d\u2060\ufeff"}
"""Soft hyphens, joiners and byte order marks: they are inside words, and nobody types them."""
_BLOCKS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF),  # Thai, Lao, Burmese, Khmer
    (0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7AF),  # Hangul
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D),
    (0x2E80, 0x2FDF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),  # the last five: Han
)  # fmt: skip
"""Scripts without spaces between words, and Hangul, whose words end in particles."""


def split(text: str) -> list[str]:
    """The words of a text in lower case, each of at least two letters or digits.

    Text is normalised first (NFKC: composed accents, no ligatures, no full-width letters). In
    scripts without spaces between words, and in Hangul, each pair of neighbouring characters is a
    word, and so is a single character on its own: as in the CJKAnalyzer of Lucene.
    """
    text = normal(text)
    if text.isascii():
        return _ASCII.findall(text)
    word, character = _patterns()
    return [
        part
        for match in word.finditer(text)
        for part in (_pairs(character.findall(match[0])) if match["unspaced"] else (match[0],))
    ]


def normal(text: str) -> str:
    """The text that is split into words: in NFKC and in lower case, without soft hyphens."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_INVISIBLE))
    return text.lower()


def is_unspaced(character: str) -> bool:
    """Whether words begin and end at any such character."""
    return any(first <= ord(character) <= last for first, last in _BLOCKS)


def _pairs(characters: list[str]) -> Iterator[str]:
    if len(characters) == 1:
        yield characters[0]
    for first, second in pairwise(characters):
        yield first + second


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(a word, or characters without spaces between them; one of these characters)."""
    unspaced = _class(_BLOCKS)
    marks = _class((code, code) for code in range(0x300, 0x1F000) if _is_mark(code))
    character = rf"(?=\w)[{unspaced}][{marks}]*"
    letter = rf"[^\W{unspaced}]"
    word = rf"(?P<unspaced>(?:{character})+)|{letter}(?:{letter}|[{marks}])+"
    return re.compile(word), re.compile(character)


def _is_mark(code: int) -> bool:
    return unicodedata.category(chr(code))[0] == "M"


def _class(ranges: Iterable[tuple[int, int]]) -> str:
    """The inside of a character class."""
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
