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
CONTEXT_CHARACTERS = 8
"""Characters before a place that can make it the middle of a number."""


def occurs(needle: str, text: str, *, exactly: bool = False) -> bool:
    """Whether a text contains another one that neither begins nor ends inside a word or a number.

    exactly: also not as a part of a value or a name: `5` isn't in `-5`, `1/2`, `12:30` or `1 000`
    (with a space), nor `50 MB` in `50 MB/s`, nor `C` in `C++`.
    """
    start = text.find(needle) if needle else -1
    while start >= 0:
        text_before, text_after = (
            text[max(0, start - CONTEXT_CHARACTERS) : start],
            text[start + len(needle) :][:CONTEXT_CHARACTERS],
        )
        if not _is_cut(text_before, needle, text_after) and not (
            exactly and _changes_meaning(text_before, needle, text_after)
        ):
            return True
        start = text.find(needle, start + 1)
    return False


def _is_cut(text_before: str, needle: str, text_after: str) -> bool:
    """Whether either end of a part is inside a word or a number."""
    return (
        _joins(text_before[-1:], needle[0])
        or _joins(needle[-1], text_after[:1])
        or (needle[0].isdecimal() and re.search(r"\d[.,]\Z", text_before) is not None)
        or (needle[-1].isdecimal() and re.match(r"[.,]\d", text_after) is not None)
    )


def _changes_meaning(text_before: str, needle: str, text_after: str) -> bool:
    """Whether the characters around a part make it a different value or name."""
    first_digits, last_digits = _FIRST_DIGITS.match(needle), _LAST_DIGITS.search(needle)
    leading, trailing = (
        len(first_digits[0]) if first_digits else 0,
        len(last_digits[0]) if last_digits else 0,
    )
    if leading and (
        _BEFORE_NUMBER.search(text_before)
        or (leading <= 3 and _FRACTION_BEFORE.search(text_before))  # 2024 in 5/2024 is a year
        or (leading == 3 and _GROUP_BEFORE.search(text_before))
    ):
        return True
    if trailing and (
        _AFTER_NUMBER.match(text_after)
        or (trailing <= 3 and (_FRACTION_AFTER.match(text_after) or _GROUP_AFTER.match(text_after)))
    ):
        return True
    if re.match(r"[-−–±]\d", needle) and text_before[-1:].isalnum():
        return True  # -5 in 3-5
    if any(map(str.isdecimal, needle)) and needle[-1].isalpha() and _UNIT.match(text_after):
        return True
    return needle[-1].isalpha() and _NAME.match(text_after) is not None


def _joins(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return _is_word(left) and _is_word(right) and not (is_unspaced(left) or is_unspaced(right))


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
            occurs(one_line(alternative), line, exactly=True)
            for alternative in ([expectation] if isinstance(expectation, str) else expectation)
        )
        for expectation in expected
    )


def one_line(text: str) -> str:
    """The text in one line, in one case, with straight quotation marks and apostrophes."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_MARKS)
    return " ".join(text.split())
