"""Texts that a right answer contains: `expected: ["50 MB", ["daily", "every day"]]`.

In go an answer and the texts, out comes whether it contains them, as whole words and numbers.
"""

import re
import unicodedata
from collections.abc import Sequence

Expected = Sequence[str | Sequence[str]]
"""What an answer must contain: texts, each of which may be a list of alternatives."""


def contains(text: str, expected: Expected) -> bool:
    """Whether a text contains all that is expected.

    Case and whitespace don't count: `50 MB` is in `50  mb`, but not in `150 MB` or `50 MBit`.
    """
    line = one_line(text)
    return all(
        any(_has(line, one_line(one)) for one in ([each] if isinstance(each, str) else each))
        for each in expected
    )


def one_line(text: str) -> str:
    """The text in one line, in one case, with straight apostrophes."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return " ".join(text.split())


def _has(text: str, part: str) -> bool:
    before = r"(?<!\w)(?<!\d[.,])" if part[:1].isalnum() else ""
    after = r"(?!\w)(?![.,]\d)" if part[-1:].isalnum() else ""
    return bool(part) and bool(re.search(before + re.escape(part) + after, text))
