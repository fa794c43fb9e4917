"""Texts without what doesn't tell them apart."""

import re
import unicodedata

_NOT_WORD = re.compile(r"[^a-z0-9]+")


def normalised(text: str) -> str:
    """Letters and digits only, in Unicode's compatibility form (NFKC) and case-folded."""
    if text.isascii():
        return _NOT_WORD.sub("", text.lower())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # Marks are kept: in Hindi or Thai they are the vowels.
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")
