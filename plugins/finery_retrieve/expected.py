"""Texts that a right answer contains: `expected: ["50 MB", ["daily", "every day"]]`.

In go an answer and the texts, out comes whether it contains them, as whole words and numbers.
"""

import unicodedata
from collections.abc import Sequence

from finery_retrieve.whole import occurs

_MARKS = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "“": '"', "”": '"', "\u00ad": None})
Expected = Sequence[str | Sequence[str]]
"""What an answer must contain: texts, each of which may be a list of alternatives."""


def contains(text: str, expected: Expected) -> bool:
    """Whether a text contains all that is expected.

    Case and whitespace don't count: `50 MB` is in `50  mb`, but not in `150 MB`, `50 MBit` or
    `50 MB/s`. A number is not in another one, e.g. `5` in `-5`, `1/5` or `12:05`.
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
