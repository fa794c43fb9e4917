"""Texts that a right answer contains, as whole words and numbers: `expected: ["50 MB"]`.

Input: an answer and the texts. Output: whether it contains them.
"""

import re
import unicodedata
from collections.abc import Sequence

from finery_retrieve.index.words import is_unspaced

_BEFORE_NUMBER = re.compile(
    r"\d[.,':]\Z"  # 1.5, 1,200, 12:30
    r"|(?<!\w)[-−–±]\Z"  # -5, but not 3-5
)
_AFTER_NUMBER = re.compile(r"[.,':]\d")
_FRACTION_BEFORE, _FRACTION_AFTER = re.compile(r"\d[/⁄]\Z"), re.compile(r"[/⁄]\d")
_GROUP_BEFORE, _GROUP_AFTER = re.compile(r"(?<!\d)\d{1,3} \Z"), re.compile(r" \d{3}(?!\d)")
_UNIT = re.compile(r"/[^\W\d]")
_NAME = re.compile(r"\+\+|#|\+(?!\w)")
_FIRST_DIGITS, _LAST_DIGITS = re.compile(r"\d*"), re.compile(r"\d*\Z")
LOOKED_AT = 8
"""Characters before a place that can make it the middle of a number."""


def occurs(part: str, text: str, *, exactly: bool = False) -> bool:
    """Whether a text contains another one that neither begins nor ends inside a word or a number.

    exactly: also not as a part of a value or a name: `5` isn't in `-5`, `1/2`, `12:30` or `1 000`
    (with a space), nor `50 MB` in `50 MB/s`, nor `C` in `C++`.
    """
    start = text.find(part) if part else -1
    while start >= 0:
        before, after = (
            text[max(0, start - LOOKED_AT) : start],
            text[start + len(part) :][:LOOKED_AT],
        )
        if not _is_cut(before, part, after) and not (exactly and _is_less(before, part, after)):
            return True
        start = text.find(part, start + 1)
    return False


def _is_cut(before: str, part: str, after: str) -> bool:
    """Whether either end of a part is inside a word or a number."""
    return (
        _joins(before[-1:], part[0])
        or _joins(part[-1], after[:1])
        or (part[0].isdecimal() and re.search(r"\d[.,]\Z", before) is not None)
        or (part[-1].isdecimal() and re.match(r"[.,]\d", after) is not None)
    )


def _is_less(before: str, part: str, after: str) -> bool:
    """Whether the characters around a part make it a different value or name."""
    first, last = _FIRST_DIGITS.match(part), _LAST_DIGITS.search(part)
    leading, trailing = len(first[0]) if first else 0, len(last[0]) if last else 0
    if leading and (
        _BEFORE_NUMBER.search(before)
        or (leading <= 3 and _FRACTION_BEFORE.search(before))  # 2024 in 5/2024 is a year
        or (leading == 3 and _GROUP_BEFORE.search(before))
    ):
        return True
    if trailing and (
        _AFTER_NUMBER.match(after)
        or (trailing <= 3 and (_FRACTION_AFTER.match(after) or _GROUP_AFTER.match(after)))
    ):
        return True
    if re.match(r"[-−–±]\d", part) and before[-1:].isalnum():
        return True  # -5 in 3-5
    if any(map(str.isdecimal, part)) and part[-1].isalpha() and _UNIT.match(after):
        return True
    return part[-1].isalpha() and _NAME.match(after) is not None


def _joins(first: str, second: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return _is_word(first) and _is_word(second) and not (is_unspaced(first) or is_unspaced(second))


def _is_word(character: str) -> bool:
    return bool(character) and (
        character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"
    )


_MARKS = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "“": '"', "”": '"', "\u00ad": None})
Expected = Sequence[str | Sequence[str]]
"""Texts that an answer must contain, each of which may be a list of alternatives."""


def contains(text: str, expected: Expected) -> bool:
    """Whether a text contains all expected texts.

    Case and whitespace don't count: `50 MB` is in `50  mb`, but not in `150 MB`, `50 MBit` or
    `50 MB/s`. A number isn't part of another one: `5` isn't in `-5`, `1/5` or `12:05`.
    """
    line = one_line(text)
    return all(
        any(
            occurs(one_line(one), line, exactly=True)
            for one in ([each] if isinstance(each, str) else each)
        )
        for each in expected
    )


def one_line(text: str) -> str:
    """The text in one line, in one case, with straight quotation marks and apostrophes."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_MARKS)
    return " ".join(text.split())
