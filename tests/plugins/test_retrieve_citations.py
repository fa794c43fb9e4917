"""Citations: what counts as one, and what is compared with the chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery_retrieve.citations import (
    MIN_LETTERS,
    Citation,
    Quote,
    check_citations,
    citations,
    is_verbatim,
    quotable_part,
    strip_citations,
    strip_numbers,
)

CHUNKS = ["Files are read every night.", "Files up to 50 MB\nare read. Others are skipped."]
ANSWER = 'The limit is 50 MB. "Files up to 50 MB are read" [2]'
words = st.lists(st.text("abcdefgh", min_size=2, max_size=8), min_size=4, max_size=12)


@pytest.mark.parametrize(("answer", "expected"), [
    (ANSWER, [Citation(2, "Files up to 50 MB are read")]),
    ("As stated [1], and later [3].", [Citation(1), Citation(3)]),
    ("Both say so [1, 3].", [Citation(1), Citation(3)]),
    ("“Files are read every night.” [1]", [Citation(1, "Files are read every night.")]),
    ('It is so: "Files are read" ([1]).', [Citation(1, "Files are read")]),
    ("„Dateien bis 50 MB“ [1]", [Citation(1, "Dateien bis 50 MB")]),
    ("‘Files aren’t read’ [1]", [Citation(1, "Files aren’t read")]),
    ('"Files are read" [1] ([2])\n[3, 4]', [Citation(n, "Files are read") for n in (1, 2, 3, 4)]),
    ('"Files are read" [1], [2]', [Citation(1, "Files are read"), Citation(2)]),
    ('"Files are read" [1] "OK" [2]', [Citation(1, "Files are read"), Citation(2)]),
    ("Three say so [1-3], and [5 – 6].", [Citation(n) for n in (1, 2, 3, 5, 6)]),
    ("From [3-1] and [1-900].", [Citation(n) for n in (3, 1, 1, 900)]),
    ("It was so in [2024] [1].", [Citation(1)]),
    ('Not "quoted" here [1]', [Citation(1)]),
    ("Write `rows[0]` to get it.", []),
    ("```python\nrows[1]\n```\nSee [2].", [Citation(2)]),
])  # fmt: skip
def test_citations_are_read(answer: str, expected: list[Citation]) -> None:
    assert citations(answer) == expected


def test_quotes_must_be_in_the_chunk_that_they_cite() -> None:
    assert check_citations(ANSWER, CHUNKS).faults == []
    altered = check_citations('"Files up to 60 MB are read" [2]', CHUNKS)
    assert altered.faults == ['not in [2] word for word: "Files up to 60 MB are read"']
    elsewhere = check_citations('"Files up to 50 MB are read" [1]', CHUNKS)
    assert [of.numbers for of in elsewhere.altered] == [[1]]


@pytest.mark.parametrize(
    "numbers", ["[1][2]", "[2] [1]", "[1, 2]", "[1-2]", "([2])([1])", "[2][9]", "[2][1][2]"]
)
def test_a_quote_of_several_chunks_is_in_one_of_them(numbers: str) -> None:
    checked = check_citations(f'"Files up to 50 MB are read" {numbers}', CHUNKS)
    assert (checked.quotes, checked.altered) == (1, [])
    assert len(checked.cited) == 2
    altered = check_citations(f'"Files up to 60 MB are read" {numbers}', CHUNKS)
    assert altered.altered == [Quote("Files up to 60 MB are read", altered.cited)]
    first, second = altered.cited  # each is named once, however often it is cited
    assert altered.faults[-1].startswith(f"not in [{first}] or [{second}] word for word: ")


def test_numbers_must_be_those_of_chunks() -> None:
    checked = check_citations('So it is [0], "Files up to 50 MB are read" [7] and [2].', CHUNKS)
    assert checked.cited == [0, 7, 2]
    assert checked.unknown == [0, 7]
    assert checked.altered == []  # a quote of an unknown number is no second fault
    assert checked.faults == [
        "[0] is the number of no document",
        "[7] is the number of no document",
    ]


@pytest.mark.parametrize(("answer", "left"), [
    (ANSWER, "The limit is 50 MB."),
    ('The limit is 50 MB. "Files up to 50 MB are read" [2].', "The limit is 50 MB."),
    ("Write `rows[0]` [1] first.", "Write `rows[0]` first."),
    ("Wait... what?", "Wait... what?"),
    ('It is 50 MB. "Files up to 50 MB are read". ([1, 2])', "It is 50 MB."),
])  # fmt: skip
def test_citations_are_cut(answer: str, left: str) -> None:
    assert strip_citations(answer) == left


def test_quotes_stay_where_only_numbers_are_cut() -> None:
    assert strip_numbers(ANSWER) == 'The limit is 50 MB. "Files up to 50 MB are read"'


@given(words, st.data())
def test_any_part_of_a_text_is_verbatim_whatever_its_whitespace(
    text: list[str], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text) - 4))
    part = text[start : start + 4]
    between = data.draw(st.sampled_from([" ", "\n", "  \t "]))
    assert is_verbatim(between.join(part), "\n".join(text))
    assert not is_verbatim(" ".join([*part, "zzz"]), " ".join(text))


@given(st.text(max_size=60), st.integers(1, 3))
def test_what_is_quotable_is_read_back_and_is_in_the_text(text: str, number: int) -> None:
    """Also of texts with quotation marks of their own."""
    quote = quotable_part(text)
    if quote is None:
        return
    assert sum(map(str.isalnum, quote)) >= MIN_LETTERS
    assert is_verbatim(quote, text) or quote.strip("….") != quote
    if "```" not in quote:  # begins a block of code, whose numbers cite nothing
        assert citations(f'So it is. "{quote}" [{number}]') == [Citation(number, quote)]
