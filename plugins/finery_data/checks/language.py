"""Language identification with the py3langid library (Lui & Baldwin 2012)."""

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from finery import UsageError
from finery.advanced import did_you_mean, percent
from finery.rows.tables.streams import load_extra

SURE = 0.8
"""Minimum probability at which a language is reported. Short texts reach it less often."""
_KNOWN = """
ace af am an ar ary arz as az ba bcl be bg bn br bs ca crh cs cy da de dz el en
eo es et eu ext fa fi fo fr fuv fy ga gcf gcr gd gl gom grc gu gug guw ha hbo he
hi hr ht hu hy id ig is it ja jv ka kab kik kk km kn ko ku ky la lb lg lij ln lo
lt ltg lv mg mk ml mn mr ms mt my ne nl nn no nso oc om or pa pcm pl ps pt qu ro
ru rw sa sdh se si sk sl sn so sq sr st sv sw ta te tg th tk tl tr tt ug uk ur
uz uzs vec vi vo wa wuu xh yo yue zh zu
"""
CODES = frozenset(_KNOWN.split())
"""The languages that the library knows. Listed here because loading it takes over a second."""
NO_LANGUAGE = "zxx"
"""The library's code for text in no language, e.g. source code and numbers."""
MOST = 20_000
"""Number of characters of a text that are examined."""


def check_codes(codes: Iterable[str]) -> None:
    """Raise `UsageError` for a code that the library doesn't know."""
    for code in codes:
        if code not in CODES:
            raise UsageError(
                f"py3langid doesn't know the language '{code}'",
                where="languages",
                fix=did_you_mean(code, CODES),
            )


def foreign_language(text: str, allowed: Collection[str]) -> str | None:
    """A description of the text's language if it is certain and not allowed; else None."""
    code, probability = _model().classify(text[:MOST])
    if probability < SURE or code in allowed or code == NO_LANGUAGE:
        return None
    return f"{code} ({percent(probability)} sure)"


def language_of(text: str) -> str:
    """The code of the text's language, or `unsure` if its probability is below `SURE`."""
    code, probability = _model().classify(text[:MOST])
    return str(code) if probability >= SURE and code != NO_LANGUAGE else "unsure"


@cache
def _model() -> Any:
    """The library's model, which takes more than a second to load."""
    langid = load_extra("py3langid.langid", "py3langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
