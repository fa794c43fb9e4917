"""Whether a quote is in its source text."""

import re

LEAST = 8
"""Minimum letters and digits of a quote: fewer are found in any text."""
_AROUND = " \t\r\n\"'“”‘’„«»…"


def quoted(quote: str, text: str) -> str | None:
    """The part of a text that a quote repeats word for word, except for whitespace.

    None if there is none, or if the quote is too short. Quotation marks and ellipses around the
    quote are ignored.
    """
    words = quote.strip(_AROUND).removeprefix("...").removesuffix("...").split()
    if sum(map(str.isalnum, "".join(words))) < min(LEAST, sum(map(str.isalnum, text))):
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), text) if words else None
    return match[0] if match else None
