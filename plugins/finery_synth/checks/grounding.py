"""Whether a quote is in the text that it claims to be from."""

import re

LEAST = 8
"""Letters and digits that a quote must have: fewer are found in any text."""
_AROUND = " \t\r\n\"'“”‘’„«»…"


def quoted(quote: str, text: str) -> str | None:
    """The part of a text that a quote repeats word for word, spaces and line ends aside.

    None where it doesn't, or says too little to tell. Quotation marks and ellipses around the
    quote don't count.
    """
    words = quote.strip(_AROUND).removeprefix("...").removesuffix("...").split()
    if sum(map(str.isalnum, "".join(words))) < min(LEAST, sum(map(str.isalnum, text))):
        return None
    match = re.search(r"\s+".join(map(re.escape, words)), text) if words else None
    return match[0] if match else None
