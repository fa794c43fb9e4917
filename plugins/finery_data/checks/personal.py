"""Finds personal data that has a recognisable form.

It doesn't find names and addresses, and some numbers only look like phone numbers. Findings are
masked, so that logs and lists don't spread the data. `serve.bundle` ships this file, so it imports
nothing of finery.
"""

import re
from bisect import bisect
from collections.abc import Callable, Collection, Iterator
from ipaddress import ip_address
from typing import NamedTuple

KINDS = ("email", "phone", "iban", "card", "ip")


class Found(NamedTuple):
    """A part of a text, what it is, and where it begins."""

    what: str
    text: str
    start: int = 0

    def masked(self) -> str:
        """The piece with all but its ends hidden."""
        length = 2 if len(self.text) > 8 else 1
        return f"{self.text[:length]}…{self.text[-length:]}"


GROUPS = 7
"""Separators in a phone number, at most."""
# Every repetition is bounded, and no text can be divided among two in many ways, so that a text of
# millions of characters takes time in proportion to its length.
_EMAIL = re.compile(
    r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_EXAMPLE = re.compile(
    r"@(?:[\w-]{1,63}\.){0,4}(?:example\.(?:com|org|net)|[\w-]{1,63}\.(?:example|invalid|test))$",
    re.I,
)
_PHONE = re.compile(
    r"(?<![\w.,:/#+-])(?<!\d )(?:"
    r"(?:\+|00)[1-9]\d{0,2}(?:[ ./-]?\(0?\d{1,4}\))?(?:[ ./-]?\d){2,18}"  # international
    r"|\(0\d{1,5}\)[ ./-]?\d{2,9}(?:[ ./-]\d{2,8}){0,4}"  # (030) 123 456
    r"|0\d{1,5}[ ./-]\d{2,9}(?:[ ./-]\d{2,8}){0,4}"  # 030 123 456
    r"|(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}"  # North America
    r")(?![\w-]|[.,:]\d)"
)
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ ]?[A-Za-z0-9]{1,4}+){3,8}(?!\w)")
_CARD = re.compile(
    r"(?<![\w.,+-])(?<!\d )[2-6](?:"
    r"\d{12,18}|\d{3}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{3}([ -])\d{6}\2\d{4,5}"
    r")(?![\w-]|[.,]\d| \d)"
)
_IPV4 = re.compile(r"(?<![\w.-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_BETWEEN = re.compile(r"[ ./-]")
_DATE = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}$")


def emails(text: str) -> Iterator[Found]:
    """E-mail addresses, but those of domains that are reserved for examples (RFC 2606)."""
    if "@" in text:
        for match in _EMAIL.finditer(text):
            if not _EXAMPLE.search(match[0]):
                yield Found("an e-mail address", match[0], match.start())


def phones(text: str) -> Iterator[Found]:
    """Phone numbers of 7 to 15 digits (E.164): international, with a leading 0, North American.

    National numbers of other forms (`912 345 678`) are ignored, because too many other numbers look
    like them. The package phonenumbers finds them for given countries if they are grouped in the
    standard way, but misses more than two thirds of those that people group differently.
    """
    for match in _PHONE.finditer(text):
        digits = sum(c.isdigit() for c in match[0])
        groups = len(_BETWEEN.findall(match[0]))
        if 7 <= digits <= 15 and groups <= GROUPS and not _DATE.match(match[0]):
            yield Found("a phone number", match[0], match.start())


def ibans(text: str) -> Iterator[Found]:
    """Bank accounts: IBANs with the right check digits (ISO 13616, ISO 7064), in any case."""
    for match in _IBAN.finditer(text):
        groups = match[0].split(" ")
        for count in range(len(groups), 0, -1):  # short words may follow
            number = "".join(groups[:count]).upper()
            if 15 <= len(number) <= 34 and _mod_97(number) == 1:
                yield Found("an IBAN", " ".join(groups[:count]), match.start())
                break


def _mod_97(number: str) -> int:
    moved = number[4:] + number[:4]
    return int("".join(str(int(c, 36)) for c in moved)) % 97


def cards(text: str) -> Iterator[Found]:
    """Payment cards: 13 to 19 digits that pass Luhn's check (ISO/IEC 7812)."""
    for match in _CARD.finditer(text):
        digits = [int(c) for c in match[0] if c.isdigit()]
        if 13 <= len(digits) <= 19 and len(set(digits)) > 1 and _luhn(digits):
            yield Found("a card number", match[0], match.start())


def _luhn(digits: list[int]) -> bool:
    doubled = [d * 2 - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


def ips(text: str) -> Iterator[Found]:
    """IP addresses (version 4 and 6) that belong to someone, without private and reserved ones."""
    matches = [*_IPV4.finditer(text), *(_IPV6.finditer(text) if ":" in text else ())]
    for match in matches:
        try:
            public = ip_address(match[0]).is_global
        except ValueError:
            continue
        if public:
            yield Found("an IP address", match[0], match.start())


FINDERS: dict[str, Callable[[str], Iterator[Found]]] = {
    "iban": ibans,
    "card": cards,
    "email": emails,
    "ip": ips,
    "phone": phones,
}
"""The most reliable first. Later ones ignore what an earlier one has found."""


def personal_data(text: str, kinds: Collection[str]) -> Iterator[tuple[str, Found]]:
    """(kind, find) of the personal data in a text, of these kinds."""
    taken: list[tuple[int, int]] = []  # (start, end) of finds, none overlapping, in order
    for kind, finder in FINDERS.items():
        for found in finder(text):
            place = found.start, found.start + len(found.text)
            at = bisect(taken, place)
            before, after = taken[at - 1 : at], taken[at : at + 1]
            if any(start < place[1] and place[0] < end for start, end in before + after):
                continue
            taken.insert(at, place)
            if kind in kinds:
                yield kind, found


def masked(text: str) -> str:
    """The text with the kind of all personal data in its place, e.g. `[email]`."""
    finds = sorted(personal_data(text, KINDS), key=lambda find: -find[1].start)
    for kind, found in finds:
        text = f"{text[: found.start]}[{kind}]{text[found.start + len(found.text) :]}"
    return text
