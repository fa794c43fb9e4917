"""The rule by which a budget holds while requests are under way."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from finery import Completion, Request
from finery.advanced import Budget, Price, Usage
from finery.inference.budget import Spending

REQUEST = Request([{"role": "user", "content": "a question"}])
PROMPT = REQUEST.estimated_tokens()
PRICE = Price(input=2.0, output=10.0)


def answer(tokens: int, prompt: int = PROMPT) -> Completion:
    return Completion(
        text="x", finish_reason="stop", prompt_tokens=prompt, completion_tokens=tokens
    )


class Stream:
    """A stream of equal requests, which are answered as a test says."""

    def __init__(self, max_tokens: int = 100, **limits: Any) -> None:
        self.used, self.own = Usage(), Usage()
        self.spending = Spending(Budget(**limits), self.used, self.own, PRICE, max_tokens)
        self.flying: list[int] = []
        self.sent = 0

    def ask(self, at_once: int) -> int:
        """Ask while there is room; how many then fly."""
        while len(self.flying) < at_once and self.spending.affords([REQUEST]):
            self.spending.begin(self.sent, [REQUEST])
            self.flying.append(self.sent)
            self.sent += 1
        return len(self.flying)

    def answered(self, which: int, answer: Completion) -> None:
        """One that flies is answered."""
        self.spending.end(self.flying.pop(which % len(self.flying)))
        self.used.add(answer, PRICE)
        self.own.add(answer, PRICE)


def test_before_an_answer_those_that_fly_count_with_their_most() -> None:
    most = PROMPT + 100
    assert Stream(tokens=5 * most).ask(50) == 5
    assert Stream(tokens=5 * most - 1).ask(50) == 4
    assert Stream(dollars=5 * PRICE.of(PROMPT, 100)).ask(50) == 5


def test_answers_beyond_what_was_taken_for_the_most_raise_it() -> None:
    stream = Stream(tokens=10_000)
    stream.ask(1)
    stream.answered(0, answer(100, prompt=900))
    assert stream.ask(50) == 9


@given(
    budget=st.integers(1, 5000),
    max_tokens=st.integers(1, 600),
    at_once=st.integers(1, 30),
    answers=st.lists(st.tuples(st.integers(0, 29), st.floats(0, 1)), min_size=200, max_size=200),
)
def test_no_budget_is_passed_by_more_than_one_answer_nor_left_unused(
    budget: int, max_tokens: int, at_once: int, answers: list[tuple[int, float]]
) -> None:
    stream = Stream(max_tokens, tokens=budget)
    for which, share in answers:
        if not stream.ask(at_once):
            break
        stream.answered(which, answer(round(share * max_tokens)))
    else:
        return
    mean = stream.used.tokens / max(stream.used.calls, 1) or PROMPT
    assert stream.used.tokens <= budget + max_tokens
    assert stream.used.tokens > budget - mean
