"""Which chunks count as right ones, and which can't be distractors."""

from typing import Any

from finery.rows import Row, with_id
from finery_retrieve.evaluate.contexts import QuestionInContext
from finery_retrieve.evaluate.outcome import verdict_on
from finery_retrieve.index.retriever import Hit
from finery_retrieve.questions import Question, question_in

QUOTE = "Refunds aren't paid after 30 days."


def asked(**row: Any) -> Question:
    turns = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "30 days"}]
    full: Row = with_id({"messages": turns, **row})
    return question_in(full)


def hit(text: str, id: str = "other", source: str = "a.md") -> Hit:
    return Hit(id, text, source, "", 1.0, {})


def cites(question: Question, number: int, *hits: Hit) -> float | bool | None:
    prompt = QuestionInContext(
        0, question, "retrieved", list(hits), question.prompt, expects_answer=True,
        has_answer=any(map(question.is_answered_by, hits)),
    )  # fmt: skip
    return verdict_on(prompt, f"After 30 days [{number}].", "I don't know it.", 0.5).values["cited"]


def test_a_chunk_that_only_contains_an_expected_text_is_no_proof() -> None:
    question = asked(chunk="right", expected=["30"])
    right, other = hit(QUOTE, "right"), hit("The office has 30 rooms.")
    assert cites(question, 1, right, other) is True
    assert cites(question, 2, right, other) is False
    assert cites(question, 1, other) is None  # the answer isn't in this context
    assert question.may_be_answered_by(other)  # yet it is no distractor


def test_a_quote_counts_only_in_the_document_that_the_row_names() -> None:
    question = asked(quote=QUOTE, source="a.md")
    right, other = hit(QUOTE, "right"), hit(QUOTE, source="b.md")
    assert cites(question, 1, right, other) is True
    assert cites(question, 2, right, other) is False
    assert question.gains([other, right], [right]) == [False, True]
    assert asked(quote=QUOTE).gains([other, right], [right]) == [True, False]


def test_what_may_answer_is_no_distractor_whatever_its_case_and_apostrophes() -> None:
    question = asked(chunk="right", quote=QUOTE, source="a.md")
    assert question.may_be_answered_by(hit("REFUNDS AREN’T PAID AFTER 30 DAYS."))
    assert question.may_be_answered_by(hit(QUOTE, source="b.md"))
    assert not question.is_answered_by(hit("REFUNDS AREN’T PAID AFTER 30 DAYS."))
    assert not question.may_be_answered_by(hit("Refunds are paid."))
    assert not asked(chunk="right").may_be_answered_by(hit("Refunds are paid."))
