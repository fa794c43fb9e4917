"""The content of an answer, without the text that a model puts around it."""

import contextlib
import re
from typing import Any

from finery.rows.answers.jsonvalues import NotJson, parse

_DASHES = re.compile(r"\s*-{3,}\s*")
"""A line such as those that prompts put around a text."""
QUOTES = {'"': '"', "“": "”", "„": "“", "«": "»", "'": "'"}


def json_in(text: str) -> Any:
    """The JSON value of a text, or between its outermost brackets; None if there is none."""
    spans = [(text.find(opens), text.rfind(closes)) for opens, closes in ("{}", "[]")]
    inner = [text[start : end + 1] for start, end in sorted(spans) if 0 <= start < end]
    for part in (text, *inner):
        with contextlib.suppress(NotJson):
            return parse(part)
    return None


def bare(text: str) -> str:
    """A text without the lines of dashes and the quotation marks around it."""
    lines = text.strip().split("\n")
    while lines and _DASHES.fullmatch(lines[0]):
        del lines[0]
    while lines and _DASHES.fullmatch(lines[-1]):
        del lines[-1]
    text = "\n".join(lines).strip()
    if len(text) > 1 and QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text
