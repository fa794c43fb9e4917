"""Texts in other texts as whole words and numbers: expected texts, quotes, abstentions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery_retrieve.citations import is_verbatim, occurs
from finery_retrieve.evaluate.outcome import abstains, has_expected


@pytest.mark.parametrize(("expected", "answer"), [
    ("5 °C", "It is -5 °C."),
    ("-5", "It takes 3-5 days."),
    ("1 000", "There are 1 000 000 of them."),
    ("2", "It is 1/2 of it."),
    ("1", "It is ½ of it."),
    ("30", "It begins at 12:30."),
    ("C", "Write it in C++."),
    ("50", "It is 1.50."),
    ("क", "कि"),
])  # fmt: skip
def test_a_part_of_a_value_is_not_the_expected_one(expected: str, answer: str) -> None:
    assert not has_expected(answer, [expected])


@pytest.mark.parametrize(("expected", "answer"), [
    ("5 °C", "It is 5 °C."),
    ("-5 °C", "It is -5 °C."),
    ("50 MB", "It is 50 MB, or 60."),
    ("127.0.0.1:8080", "Open http://127.0.0.1:8080/v1"),
    ("1 000", "There are 1 000 of them."),
    ("12:30", "It begins at 12:30."),
    ("C++", "Write it in C++."),
    ("50 MB", "上限は50 MBです"),
])  # fmt: skip
def test_a_whole_value_is_the_expected_one(expected: str, answer: str) -> None:
    assert has_expected(answer, [expected])


@pytest.mark.parametrize(("quote", "text", "is_in_it"), [
    ("200 euros a year", "It costs 1200 euros a year.", False),
    ("200 euros a year", "It costs 1,200 euros a year.", False),
    ("200 euros a year", "It costs 200 euros a year.", True),
    ("it costs 200", "it costs 200.50 euros", False),
    ("上限是五十兆字节的文件", "文件的上限是五十兆字节的文件大小", True),
])  # fmt: skip
def test_quotes_neither_begin_nor_end_inside_words(quote: str, text: str, is_in_it: bool) -> None:
    assert is_verbatim(quote, text) is is_in_it


@pytest.mark.parametrize(("answer", "unknown", "is_abstention"), [
    ("There is no limit.", "No", False),
    ("No, it is 50 MB.", "No", False),
    ("No.", "No", True),
    ("Unknowns are listed in the file.", "unknown", False),
    ("Notes unavailableness", "unavailable", False),
    ("The limit is 50 MB.", "...", False),
])  # fmt: skip
def test_a_short_sentence_must_be_the_whole_answer(
    answer: str, unknown: str, is_abstention: bool
) -> None:
    assert abstains(answer, unknown) is is_abstention


words = st.text("abc12 .,/-:", min_size=1, max_size=12).filter(lambda text: text.strip() == text)


@given(words, words)
def test_what_occurs_exactly_occurs_and_is_in_the_text(part: str, text: str) -> None:
    assert occurs(part, part)
    assert occurs(part, f"x {part} y")
    if occurs(part, text, exactly=True):
        assert occurs(part, text)
    if occurs(part, text):
        assert part in text
