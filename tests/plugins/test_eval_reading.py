"""How answers are read."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finery.rows.answers.reading import Expected, Reader, Reading, Unreadable

ONE = Reader(labels=(("card", "card lost", "cash"),))
TWO = Reader(fields=("category", "priority"), labels=(("bug", "billing"), ("low", "high")))


def row(completion: str = "", **more: Any) -> dict[str, Any]:
    """A row with this completion."""
    return {"prompt": "?", "completion": completion, **more}


def read(reader: Reader, answer: str, completion: str = "", **more: Any) -> Reading:
    """`answer` as read for a row with this completion."""
    return reader.read(answer, reader.expected(row(completion, **more)))


@pytest.mark.parametrize(
    ("match", "answer", "guess", "valid"),
    [
        ("exact", " card\n", "card", True),
        ("exact", "Card", None, False),
        ("first_line", "\ncard\n\nIt is about a card.", "card", False),
        ("contains", "The intent is 'card lost'.", "card lost", False),
        ("contains", "cash or card", None, False),
        ("contains", "cards", None, False),
    ],
)
def test_one_class(match: str, answer: str, guess: str | None, valid: bool) -> None:
    reader = Reader(labels=ONE.labels, match=match)
    assert read(reader, answer, "card") == Reading((guess,), valid)


def test_extract_takes_the_answer_where_it_is_found() -> None:
    reader = Reader(labels=ONE.labels, extract=r"(?i)intent is:? *(\w+)")
    assert read(reader, "Its intent is cash, I think.", "cash") == Reading(("cash",), False)
    assert read(reader, "cash", "cash") == Reading(("cash",), True)
    assert read(reader, "Well. Intent: cash", "cash").values == (None,)


def test_an_answer_in_the_trained_sentence_is_valid() -> None:
    reader = Reader(labels=ONE.labels, extract=r"is (\w+)\.")
    sentence = "It is card."
    assert read(reader, "It is cash.", sentence) == Reading(("cash",), True)
    free = Reader(labels=ONE.labels, match="contains")
    assert read(free, "It's about cash.", sentence) == Reading(("cash",), True)


@pytest.mark.parametrize(
    ("label", "value"), [("card", "card"), (3, "3"), (True, "true"), (" card ", "card")]
)
def test_a_label_goes_before_the_completion(label: Any, value: str) -> None:
    assert Reader().expected(row("other", label=label)).values == (value,)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (row(), "no label in the expected answer"),
        (row("  "), "no label"),
        (row("(invalid)"), "not an allowed label"),
        (row(label={"a": "b"}), "name its parts in `fields`"),
    ],
)
def test_expected_answers_that_are_none(bad: dict[str, Any], why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        Reader().expected(bad)


def test_an_expected_answer_must_be_allowed() -> None:
    with pytest.raises(Unreadable, match="priority 'medium' is not an allowed label"):
        TWO.expected(row("category: bug\npriority: medium"))


GOOD = "category: bug\npriority: high"


@pytest.mark.parametrize(
    ("answer", "values", "valid"),
    [
        (GOOD, ("bug", "high"), True),
        ("priority:high\n\n category :  bug ", ("bug", "high"), True),
        (f"Sure:\n{GOOD}", ("bug", "high"), False),
        (f"{GOOD}\npriority: high", ("bug", "high"), False),
        (f"{GOOD}\npriority: low", ("bug", None), False),
        ("category: bug\npriority: urgent", ("bug", None), False),
        ("Category: bug\nPriority: high", (None, None), False),
    ],
)
def test_fields_in_lines(answer: str, values: tuple[str | None, ...], valid: bool) -> None:
    assert read(TWO, answer, GOOD) == Reading(values, valid)


@pytest.mark.parametrize(
    ("answer", "values", "valid"),
    [
        ('{"priority": "high",\n "category": "bug"}', ("bug", "high"), True),
        ('```json\n{"category": "bug", "priority": "low"}\n```', ("bug", "low"), False),
        ('{"category": "bug", "priority": "high", "note": 1}', ("bug", "high"), False),
        ('{"category": ["bug"]}', (None, None), False),
        (GOOD, (None, None), False),
        ('{"a":' * 5000, (None, None), False),
    ],
)
def test_fields_in_json(answer: str, values: tuple[str | None, ...], valid: bool) -> None:
    assert read(TWO, answer, '{"category": "bug", "priority": "high"}') == Reading(values, valid)


def test_fields_may_be_part_of_a_longer_expected_answer() -> None:
    expected = f"{GOOD}\nsummary: It crashes."
    assert read(TWO, f"summary: It hangs.\n{GOOD}", expected) == Reading(("bug", "high"), True)


@given(st.text(), st.sampled_from(["exact", "first_line", "contains"]))
def test_any_text_can_be_read(answer: str, match: str) -> None:
    """An answer is an allowed class or none, whatever a model writes."""
    one = Reader(labels=ONE.labels, match=match, extract="(a.*)")
    assert one.read(answer, Expected(("card",))).values[0] in (*ONE.labels[0], None)
    for form in ("json", "lines", ""):
        got = TWO.read(answer, Expected(("bug", "low"), frozenset({"category"}), form))
        assert all(v is None or v in ok for v, ok in zip(got.values, TWO.labels, strict=True))
