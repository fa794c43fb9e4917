"""Finds texts in a broken encoding, in all texts of a row."""

import re
from collections.abc import Iterator

from finery.rows import TURN_COLUMNS, Row
from finery.rows.parts import NOT_TEXT, text_of
from finery_data.checks.personal import Found

# A lead byte of UTF-8 and the bytes after it, each read as Windows-1252 or Latin-1.
_AFTER = "\x80-\xbf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MOJIBAKE = re.compile(
    f"(?:[\xc2-\xdf][{_AFTER}]|[\xe0-\xef][{_AFTER}]{{2}}|[\xf0-\xf4][{_AFTER}]{{3}})+"
)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def garbled(text: str) -> Iterator[Found]:
    """Signs of a wrong encoding: UTF-8 read as Latin-1, U+FFFD, control characters.

    The package ftfy knows more code pages, and takes a single misread letter (`ę`, `ř`, `ş`) for an
    unusual text in a fifth of all cases.
    """
    if text.isascii():
        control = _CONTROL.search(text)
    else:
        for match in _MOJIBAKE.finditer(text):
            meant = _meant(match[0], text[match.end() : match.end() + 1])
            if meant is not None:
                what = f"{match[0]!r:.40} for {meant!r:.40}: UTF-8 read as Latin-1"
                yield Found(what, match[0], match.start())
                break
        if "\ufffd" in text:
            yield Found("U+FFFD, which stands for what couldn't be decoded", "\ufffd")
        control = _CONTROL.search(text)
    if control:
        yield Found(f"the control character U+{ord(control[0]):04X}", control[0])


def garbled_texts(row: Row) -> Iterator[str]:
    """What is garbled in the texts of a row, with its place."""
    for place, text in texts_of(row):
        for match in garbled(text):
            yield f"{place}: {match.what}"


def texts_of(row: Row) -> Iterator[tuple[str, str]]:
    """(place, text) of every text of a row, whatever shape its turns have."""
    for name, value in row.items():
        if name in NOT_TEXT or value is None:
            continue
        if name in TURN_COLUMNS and isinstance(value, list):
            place = "" if name == "messages" else f"'{name}' "
            for number, turn in enumerate(value, 1):
                if isinstance(turn, dict):
                    yield f"{place}turn {number} ({turn.get('role')})", text_of(turn)
                else:
                    yield f"{place}turn {number}", str(turn)
        else:
            yield f"'{name}'", value if isinstance(value, str) else text_of({"content": value})


def _meant(piece: str, after: str) -> str | None:
    """A garbled piece decoded as UTF-8, if that is probably right.

    A single character must be common in European languages and typography, because a letter like
    'É' followed by a closing quotation mark is also valid UTF-8, of a phonetic letter. after: the
    next character, which distinguishes a closing quotation mark from one within a word.
    """
    try:
        meant = b"".join(_byte(c) for c in piece).decode("utf-8")
    except UnicodeDecodeError:
        return None
    if len(piece) == 2 and piece[1] in "‘’“”" and not after.isalpha():
        return None
    likely = len(meant) > 1 or "\xa0" <= meant <= "\u017f" or "\u2000" <= meant <= "\u2bff"
    return meant if likely or ord(meant) > 0xFFFF else None


def _byte(character: str) -> bytes:
    if ord(character) < 256:
        return character.encode("latin-1")
    return character.encode("cp1252")
