"""Judges: a model that scores an answer, or compares two, with a rubric.

Input: a row and a rubric. Output: a score or a preference, or the reason why there is none.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import msgspec

from finery import CachedEngine, FineryError, Request
from finery.rows import Conversation, Row, split_turns
from finery.rows.parts import join_turns, row_texts, text_of
from finery_synth.asking import MOST_VARIANTS, T, Used, ask, json_in, object_schema
from finery_synth.prompts import Prompt

SCORE_PROMPT = """\
{# system #}
You judge examples of a data set strictly, by a rubric. You answer with JSON alone.
{# user #}
Rubric:
{{ rubric }}

Prompt:
{{ prompt }}

Answer:
{{ answer }}

Give the example a score from 1 (worst) to {{ scale }} (best) by the rubric, after a reason in one
sentence. Answer with a JSON object: {"reason": "…", "score": 1}
"""
"""The prompt of the check `judge` and of `synth.judge`, to score an answer."""

TRIES = 3
"""Maximum number of requests for one readable answer of the judge."""
RETRY_TEMPERATURE = 0.7
R = TypeVar("R")


class Unreadable(ValueError):
    """A judge's answer without a score; the message gives the reason."""


class Score(NamedTuple):
    """A judge's score."""

    score: int
    reason: str

    @staticmethod
    def schema(scale: int) -> dict[str, Any]:
        """The JSON Schema of a judge's answer. The reason comes first, and the score after it."""
        score = {"type": "integer", "minimum": 1, "maximum": scale}
        return object_schema(reason={"type": "string"}, score=score)

    @staticmethod
    def read(text: str, scale: int) -> "Score":
        """The score in a judge's answer, ignoring text around the JSON. Raises `Unreadable`."""
        value = json_in(text)
        if not isinstance(value, dict):
            raise Unreadable("the judge's answer doesn't contain a JSON object")
        score = value.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or score != int(score):
            raise Unreadable("the judge's score isn't an integer")
        if not 1 <= score <= scale:
            raise Unreadable(f"the judge's score {score} isn't between 1 and {scale}")
        return Score(int(score), str(value.get("reason") or ""))


def names_of(row: Row) -> dict[str, Any]:
    """The names in a judge's template: `prompt` with all turns, `answer`, and the row."""
    prompt, answer = split_turns(row)
    return {"row": row, "prompt": transcript(prompt), "answer": join_turns(answer)}


def transcript(turns: Conversation) -> str:
    """Turns as text: a single turn unchanged, several turns each after its role."""
    if len(turns) == 1:
        return text_of(turns[0])
    return "\n".join(f"{turn['role']}: {text_of(turn)}" for turn in turns)


def score_messages(prompt: Prompt, row: Row, rubric: str, scale: int) -> Conversation:
    """A judge's prompt to score a row's answer."""
    return prompt.messages({**names_of(row), "rubric": rubric, "scale": scale}, row)


def readings(
    engine: CachedEngine,
    used: Used,
    items: Iterable[T],
    messages: Callable[[T], Conversation],
    read: Callable[[str], R],
    *,
    total: int,
    **sampling: Any,
) -> Iterator[tuple[T, R | str]]:
    """(item, the content of a judge's answer, or why there is none), in any order, each item once.

    used: counts the answers. read: raises `Unreadable`; then the request is repeated, up to `TRIES`
    requests in all. Repetitions use a temperature above 0, since the answer might else be the same.
    """

    def request(item: T) -> Request:
        return Request(messages(item), None, attempt * MOST_VARIANTS)

    for attempt in range(TRIES):
        again: list[T] = []
        for item, answer in ask(
            engine, used, items, request, total=total, progress="judging",
            temperature=RETRY_TEMPERATURE if attempt else 0.0, **sampling,
        ):  # fmt: skip
            result: R | str
            try:
                result = answer.what if isinstance(answer, FineryError) else read(answer.text)
            except Unreadable as error:
                if attempt + 1 < TRIES:
                    again.append(item)
                    continue
                result = str(error)
            yield item, result
        if not again:
            return
        items, total = again, len(again)


# -- pairs, judged in both orders, since judges favour a position ---------------------------------


PAIR_PROMPT = """\
{# system #}
You compare two answers to a prompt strictly, by a rubric. Neither their order nor their length
counts. You answer with JSON alone.
{# user #}
Rubric:
{{ rubric }}

Prompt:
{{ prompt }}

Answer A:
{{ a }}

Answer B:
{{ b }}

Say which answer is better by the rubric, A or B, or that it is a tie, after a reason in one
sentence. Answer with a JSON object: {"reason": "…", "better": "A"}
"""
"""The prompt of `synth.judge` for pairs."""

ORDERS = (("chosen", "rejected"), ("rejected", "chosen"))
"""The sides shown as answers A and B, in each order."""
POSITIONS = {"A": "first", "B": "second", "TIE": "tie"}


class Seen(msgspec.Struct, omit_defaults=True):
    """The result for a pair in one order (0, 1): the better side, or what went wrong."""

    order: int
    side: str = ""
    position: str = ""
    reason: str = ""
    problem: str = ""

    @classmethod
    def of(cls, order: int, verdict: "Verdict | str") -> "Seen":
        """The result for the pair that was shown in this order. verdict: or why there is none."""
        if isinstance(verdict, str):
            return cls(order, problem=verdict)
        sides = dict(zip(("first", "second"), ORDERS[order], strict=True))
        return cls(order, sides.get(verdict.position, "tie"), verdict.position, verdict.reason)


class Verdict(NamedTuple):
    """A judge's verdict on two answers: the better position (first, second, tie), and why."""

    position: str
    reason: str

    @staticmethod
    def schema() -> dict[str, Any]:
        """The JSON Schema of a judge's answer. The reason comes first, as in `Score.schema`."""
        better = {"type": "string", "enum": ["A", "B", "tie"]}
        return object_schema(reason={"type": "string"}, better=better)

    @staticmethod
    def read(text: str) -> "Verdict":
        """The verdict in a judge's answer, ignoring text around the JSON. Raises `Unreadable`."""
        value = json_in(text)
        if not isinstance(value, dict):
            raise Unreadable("the judge's answer doesn't contain a JSON object")
        better = str(value.get("better") or "").strip().upper().removeprefix("ANSWER ")
        if better not in POSITIONS:
            raise Unreadable("the judge's answer is neither A, B nor tie")
        return Verdict(POSITIONS[better], str(value.get("reason") or ""))


def pair_messages(prompt: Prompt, row: Row, rubric: str, order: int) -> Conversation:
    """A judge's prompt for a preference, in order 0 or 1."""
    a, b = (row_texts(row)[side] for side in ORDERS[order])
    return prompt.messages({**names_of(row), "rubric": rubric, "a": a, "b": b}, row)


class Outcome(NamedTuple):
    """The result of both orders: the better side, `undecided`, or `no-score`; and why."""

    better: str
    detail: str


def outcome(verdicts: Iterable[Seen]) -> Outcome:
    """A side is better only if both orders agree."""
    both = sorted(verdicts, key=lambda verdict: verdict.order)
    problems = [verdict.problem for verdict in both if verdict.problem]
    if problems:
        return Outcome("no-score", problems[0])
    sides = {verdict.side for verdict in both}
    if len(sides) == 1 and sides != {"tie"}:
        return Outcome(both[0].side, both[0].reason)
    positions = {verdict.position for verdict in both}
    if len(positions) == 1:
        (position,) = positions
        verdict = "calls a tie" if position == "tie" else f"picks the {position} answer"
        return Outcome("undecided", f"the judge {verdict} in both orders")
    return Outcome("undecided", "the judge calls a tie in one of the two orders")


class Positions:
    """How much a judge favours a position, over all pairs."""

    def __init__(self) -> None:
        self._positions: Counter[str] = Counter()
        self._twice: Counter[str] = Counter()

    def add(self, verdicts: Iterable[Seen]) -> None:
        """Count a pair that was judged in both orders."""
        both = [verdict.position for verdict in verdicts]
        self._positions.update(both)
        if len(set(both)) == 1:
            self._twice.update(both[:1])

    def facts(self) -> dict[str, Any]:
        """Verdicts by position, pairs with the same position in both orders, and the bias.

        bias: among the verdicts for a side, the share of the first position minus that of the
        second. It is 1 if the judge always picks the first, and 0 if it only looks at the answers,
        since pairs are shown in both orders.
        """
        chose_first, second = self._positions["first"], self._positions["second"]
        sided = chose_first + second
        return {
            **{name: self._positions[name] for name in ("first", "second", "tie")},
            "first_twice": self._twice["first"],
            "second_twice": self._twice["second"],
            "bias": round((chose_first - second) / sided, 3) if sided else 0.0,
        }


def is_one_answer(row: Row) -> bool:
    """Whether both answers of a preference are the same."""
    sides = row_texts(row)
    return sides["chosen"].strip() == sides["rejected"].strip()
