"""Which language a text is in, by the py3langid library (Lui & Baldwin 2012)."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from finery.errors import UsageError, did_you_mean
from finery_data.streams import load_extra

SURE = 0.8
"""Probability from which on a language is believed; shorter texts reach it less often."""
NO_LANGUAGE = "zxx"
"""What the library calls text in no language: code, numbers."""
MOST = 20_000
"""Characters of a text that are looked at."""


class Languages:
    """Tells texts in other languages than those allowed."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._model = _model()
        self._allowed = set(allowed)
        for code in allowed:
            if code not in self._model.labels:
                raise UsageError(
                    f"'{code}' is no language that py3langid knows",
                    where="languages",
                    fix=did_you_mean(code, self._model.labels),
                )

    def other(self, text: str) -> str | None:
        """The language of the text in words, if it surely isn't one of those allowed."""
        code, sure = self._model.classify(text[:MOST])
        if sure < SURE or code in self._allowed or code == NO_LANGUAGE:
            return None
        return f"{code} ({sure:.0%} sure)"


def language_of(text: str) -> str:
    """The code of the language that a text surely is in, else `unsure`."""
    code, sure = _model().classify(text[:MOST])
    return str(code) if sure >= SURE and code != NO_LANGUAGE else "unsure"


@cache
def _model() -> Any:
    """The library's model, which takes more than a second to load."""
    langid = load_extra("py3langid.langid", "py3langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
