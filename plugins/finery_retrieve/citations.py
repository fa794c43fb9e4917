"""Citations and quotes in answers: `The limit is 50 MB. "Files up to 50 MB are read" [2]`.

Input: the text of an answer. Output: the numbers that it cites and the quotes before them. A number
is the place of a chunk in the prompt, from 1. Public for other plugins.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from finery_retrieve.index.words import is_unspaced

_BEFORE_NUMBER = re.compile(
    r"\d[.,':]\Z"  # 1.5, 1,200, 12:30
    r"|(?<!\w)[-−–±]\Z"  # -5, but not 3-5
)
_AFTER_NUMBER = re.compile(r"[.,':]\d")
_FRACTION_BEFORE, _FRACTION_AFTER = re.compile(r"\d[/⁄]\Z"), re.compile(r"[/⁄]\d")
_GROUP_BEFORE, _GROUP_AFTER = re.compile(r"(?<!\d)\d{1,3} \Z"), re.compile(r" \d{3}(?!\d)")
_UNIT = re.compile(r"/[^\W\d]")
_NAME = re.compile(r"\+\+|#|\+(?!\w)")
_FIRST_DIGITS, _LAST_DIGITS = re.compile(r"\d*"), re.compile(r"\d*\Z")
CONTEXT_CHARACTERS = 8
"""Characters before a place that can make it the middle of a number."""


def occurs(needle: str, text: str, *, exactly: bool = False) -> bool:
    """Whether a text contains another one that neither begins nor ends inside a word or a number.

    exactly: also not as a part of a value or a name: `5` isn't in `-5`, `1/2`, `12:30` or `1 000`
    (with a space), nor `50 MB` in `50 MB/s`, nor `C` in `C++`.
    """
    start = text.find(needle) if needle else -1
    while start >= 0:
        text_before, text_after = (
            text[max(0, start - CONTEXT_CHARACTERS) : start],
            text[start + len(needle) :][:CONTEXT_CHARACTERS],
        )
        if not _is_cut(text_before, needle, text_after) and not (
            exactly and _changes_meaning(text_before, needle, text_after)
        ):
            return True
        start = text.find(needle, start + 1)
    return False


def _is_cut(text_before: str, needle: str, text_after: str) -> bool:
    """Whether either end of a part is inside a word or a number."""
    return (
        _joins(text_before[-1:], needle[0])
        or _joins(needle[-1], text_after[:1])
        or (needle[0].isdecimal() and re.search(r"\d[.,]\Z", text_before) is not None)
        or (needle[-1].isdecimal() and re.match(r"[.,]\d", text_after) is not None)
    )


def _changes_meaning(text_before: str, needle: str, text_after: str) -> bool:
    """Whether the characters around a part make it a different value or name."""
    first_digits, last_digits = _FIRST_DIGITS.match(needle), _LAST_DIGITS.search(needle)
    leading, trailing = (
        len(first_digits[0]) if first_digits else 0,
        len(last_digits[0]) if last_digits else 0,
    )
    if leading and (
        _BEFORE_NUMBER.search(text_before)
        or (leading <= 3 and _FRACTION_BEFORE.search(text_before))  # 2024 in 5/2024 is a year
        or (leading == 3 and _GROUP_BEFORE.search(text_before))
    ):
        return True
    if trailing and (
        _AFTER_NUMBER.match(text_after)
        or (trailing <= 3 and (_FRACTION_AFTER.match(text_after) or _GROUP_AFTER.match(text_after)))
    ):
        return True
    if re.match(r"[-−–±]\d", needle) and text_before[-1:].isalnum():
        return True  # -5 in 3-5
    if any(map(str.isdecimal, needle)) and needle[-1].isalpha() and _UNIT.match(text_after):
        return True
    return needle[-1].isalpha() and _NAME.match(text_after) is not None


def _joins(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    return _is_word(left) and _is_word(right) and not (is_unspaced(left) or is_unspaced(right))


def _is_word(character: str) -> bool:
    return bool(character) and (
        character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"
    )


_STRAIGHT_MARKS = str.maketrans({"‘": "'", "’": "'", "ʼ": "'", "“": '"', "”": '"', "\u00ad": None})
Expected = Sequence[str | Sequence[str]]
"""Texts that an answer must contain, each of which may be a list of alternatives."""


def contains(text: str, expected: Expected) -> bool:
    """Whether a text contains all expected texts.

    Case and whitespace don't count: `50 MB` is in `50  mb`, but not in `150 MB`, `50 MBit` or
    `50 MB/s`. A number isn't part of another one: `5` isn't in `-5`, `1/5` or `12:05`.
    """
    line = one_line(text)
    return all(
        any(
            occurs(one_line(alternative), line, exactly=True)
            for alternative in ([expectation] if isinstance(expectation, str) else expectation)
        )
        for expectation in expected
    )


def one_line(text: str) -> str:
    """The text in one line, in one case, with straight quotation marks and apostrophes."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_STRAIGHT_MARKS)
    return " ".join(text.split())


MIN_LETTERS = 8
"""Minimum letters and digits of a quote: a shorter one is in almost any text."""
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)
_NUMBER_RANGE = r"\d{1,3}(?:\s*[-–]\s*\d{1,3})?"
_NUMBERS = (
    rf"(?P<open>\(\s*)?\[\s*(?P<numbers>{_NUMBER_RANGE}(?:\s*[,;]\s*{_NUMBER_RANGE})*)"
    r"\s*\](?(open)\s*\))"
)
"""Four digits are a year. The page of a bundle reads citations in the same way."""
_QUOTES = {
    "straight": '"(?P<straight>[^"]+)"',
    "curly": "“(?P<curly>[^“”]+)”",
    "low": "„(?P<low>[^„“”]+)[“”]",
    "angle": "«(?P<angle>[^«»]+)»",
    "inward": "»(?P<inward>[^«»]+)«",
    "single": r"‘(?P<single>[^‘\[\]]+)’",  # ’ is also an apostrophe
}
_CITATION = re.compile(rf"(?:(?:{'|'.join(_QUOTES.values())})\s*[.,;:!?]?\s*)?{_NUMBERS}")
_NUMBER = re.compile(_NUMBERS)
_UNQUOTABLE = re.compile(r'["“”]|\[[\d\s,;–-]*\]')
MAX_RANGE = 20
"""Maximum length of a range such as `[1-3]`."""
_MARKS = ".,;:!?"
_SURROUNDING = " \t\r\n…"


class Citation(NamedTuple):
    """A cited chunk. number: its place in the prompt, from 1. quote: the text quoted from it."""

    number: int
    quote: str | None = None


class Quote(NamedTuple):
    """A quote, and the numbers that are cited right after it, each once; there is at least one."""

    text: str
    numbers: list[int]


class CheckedCitations(NamedTuple):
    """The citations of an answer, compared with the chunks of its prompt.

    cited: the numbers, each once, in the order of the answer. unknown: those of no chunk.
    quotes: number of quotes. altered: the quotes that are in none of the chunks that they cite.
    """

    cited: list[int]
    unknown: list[int]
    quotes: int
    altered: list[Quote]

    @property
    def faults(self) -> list[str]:
        """The faults, one line each; empty if there are none."""
        numbers = [f"[{number}] is the number of no document" for number in self.unknown]
        return numbers + [
            f'not in {" or ".join(f"[{n}]" for n in quote.numbers)} word for word: "{quote.text}"'
            for quote in self.altered
        ]


def citations(answer: str) -> list[Citation]:
    """The citations of an answer in their order. Numbers in code, e.g. `rows[0]`, don't count.

    `[1, 3]` and `[1] [3]` cite two chunks, and a quote before them belongs to both; `[1-3]` cites
    three. A quote precedes the numbers, with at most a punctuation mark between them; numbers may
    be in parentheses. The quotation marks of other languages count like straight ones. Texts in
    quotation marks that are shorter than `MIN_LETTERS`, e.g. the name of a button, aren't quotes.
    """
    return [
        Citation(number, quote) for numbers, quote in _cited_groups(answer) for number in numbers
    ]


def check_citations(answer: str, chunks: Sequence[str]) -> CheckedCitations:
    """The citations of an answer, compared with the chunks of its prompt, in prompt order."""
    groups = list(_cited_groups(answer))
    cited = list(dict.fromkeys(number for numbers, _ in groups for number in numbers))
    unknown = [number for number in cited if not 1 <= number <= len(chunks)]
    quotes = [
        Quote(quote_text, list(dict.fromkeys(numbers)))
        for numbers, quote_text in groups
        if quote_text is not None
    ]
    altered = [quote for quote in quotes if _is_altered(quote, chunks)]
    return CheckedCitations(cited, unknown, len(quotes), altered)


def strip_citations(answer: str) -> str:
    """The answer in one line, without numbers and without the quotes that belong to them.

    If nothing else would be left, e.g. of an answer that is only a quote, quotes are kept.
    """
    matches = _CITATION.finditer(_without_code(answer))
    text = _without_spans(answer, [_span(match, answer) for match in matches])
    return text if any(map(str.isalnum, text)) else strip_numbers(answer)


def strip_numbers(answer: str) -> str:
    """The answer in one line, without the numbers of citations; quotes stay."""
    return _without_spans(
        answer, [match.span() for match in _NUMBER.finditer(_without_code(answer))]
    )


def is_verbatim(quote: str, text: str) -> bool:
    """Whether a text contains the quote word for word, except for whitespace.

    `200 euros a year` isn't in `1200 euros a year`: a quote neither begins nor ends inside a word
    or a number.

    False for a quote of less than `MIN_LETTERS` letters and digits, unless the text has no more.
    Ellipses at both ends of the quote are ignored.
    """
    words = " ".join(quote.strip(_SURROUNDING).removeprefix("...").removesuffix("...").split())
    if letters(words) < min(MIN_LETTERS, letters(text)) or not words:
        return False
    return occurs(words, " ".join(text.split()))


def quotable_part(quote: str) -> str | None:
    """A quote that can be put between straight quotation marks, in one line.

    If it contains such marks, or numbers like those of citations, the longest part without them;
    None if that is too short to count.
    """
    pieces = [" ".join(piece.split()).lstrip(" ,;:.") for piece in _UNQUOTABLE.split(quote)]
    longest = max(pieces, key=len)
    return longest if letters(longest) >= MIN_LETTERS else None


def letters(text: str) -> int:
    """Number of letters and digits of a text."""
    return sum(map(str.isalnum, text))


def _cited_groups(answer: str) -> Iterator[tuple[list[int], str | None]]:
    """The numbers that are cited together, and the quote before them."""
    numbers, quote, end = list[int](), None, 0
    for match in _CITATION.finditer(_without_code(answer)):
        match_numbers = list(_numbers(match["numbers"]))
        if (
            numbers
            and not any(match[name] is not None for name in _QUOTES)
            and not answer[end : match.start()].strip()
        ):
            numbers += match_numbers
        else:
            if numbers:
                yield numbers, quote
            numbers, quote = match_numbers, _quote_of(match, answer)
        end = match.end()
    if numbers:
        yield numbers, quote


def _is_altered(quote: Quote, chunks: Sequence[str]) -> bool:
    """Whether chunks with its numbers exist, but none contains the quote word for word."""
    cited = [chunks[number - 1] for number in quote.numbers if 1 <= number <= len(chunks)]
    return bool(cited) and not any(is_verbatim(quote.text, chunk) for chunk in cited)


def _numbers(text: str) -> Iterator[int]:
    """The numbers between brackets, with those inside of ranges."""
    for item in re.split("[,;]", text):
        start, *end = map(int, re.findall(r"\d+", item))
        if end and start < end[0] <= start + MAX_RANGE:
            yield from range(start, end[0] + 1)
        else:
            yield from (start, *end)


def _quote_of(match: re.Match[str], answer: str) -> str | None:
    """The quote of a citation as the answer has it: the match lacks the code in it."""
    start, end = max(map(match.span, _QUOTES))  # of those that don't match it is (-1, -1)
    quote = answer[start:end].strip() if start >= 0 else ""
    return quote if letters(quote) >= MIN_LETTERS else None


def _without_code(answer: str) -> str:
    return _CODE.sub(lambda code: " " * len(code[0]), answer)


def _span(match: re.Match[str], answer: str) -> tuple[int, int]:
    """The part of an answer that a citation takes: its number, and its quote if it has one."""
    if _quote_of(match, answer) is None:
        start = match.start("open")
        return (match.string.rindex("[", 0, match.end()) if start < 0 else start), match.end()
    return match.span()


def _without_spans(answer: str, spans: Sequence[tuple[int, int]]) -> str:
    """The answer in one line, without these parts."""
    text, position = "", 0
    for start, end in spans:
        text = _join_texts(text, answer[position:start])
        position = end
    return " ".join(_join_texts(text, answer[position:]).split())


def _join_texts(text: str, addition: str) -> str:
    """Both texts with a space between; punctuation goes to the text, once."""
    text, mark = text.rstrip(), addition.lstrip()[:1]
    if not text or not mark or mark not in _MARKS:
        return f"{text} {addition}"
    return text + addition.lstrip()[1 if text[-1] in _MARKS else 0 :]
