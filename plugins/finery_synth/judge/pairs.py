"""Which of two answers is better: judged in both orders, since judges favour a position."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from finery.rows import Conversation, Row
from finery.rows.parts import texts
from finery_synth.ask.answers import json_in, object_schema
from finery_synth.ask.prompts import Prompt
from finery_synth.judge.scores import Unreadable, names_of

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

    def seen(self, order: int) -> Seen:
        """The result for the pair that was shown in this order."""
        sides = dict(zip(("first", "second"), ORDERS[order], strict=True))
        return Seen(order, sides.get(self.position, "tie"), self.position, self.reason)


def pair_messages(prompt: Prompt, row: Row, rubric: str, order: int) -> Conversation:
    """A judge's prompt for a preference, in order 0 or 1."""
    a, b = (texts(row)[side] for side in ORDERS[order])
    return prompt.messages({**names_of(row), "rubric": rubric, "a": a, "b": b}, row)


class Outcome(NamedTuple):
    """The result of both orders: the better side, `undecided`, or `no-score`; and why."""

    better: str
    detail: str


def outcome(seen: Iterable[Seen]) -> Outcome:
    """A side is better only if both orders agree."""
    both = sorted(seen, key=lambda one: one.order)
    problems = [one.problem for one in both if one.problem]
    if problems:
        return Outcome("no-score", problems[0])
    sides = {one.side for one in both}
    if len(sides) == 1 and sides != {"tie"}:
        return Outcome(both[0].side, both[0].reason)
    positions = {one.position for one in both}
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

    def add(self, seen: Iterable[Seen]) -> None:
        """Count a pair that was judged in both orders."""
        both = [one.position for one in seen]
        self._positions.update(both)
        if len(set(both)) == 1:
            self._twice.update(both[:1])

    def facts(self) -> dict[str, Any]:
        """Verdicts by position, pairs with the same position in both orders, and the bias.

        bias: among the verdicts for a side, the share of the first position minus that of the
        second. It is 1 if the judge always picks the first, and 0 if it only looks at the answers,
        since pairs are shown in both orders.
        """
        first, second = self._positions["first"], self._positions["second"]
        sided = first + second
        return {
            **{name: self._positions[name] for name in ("first", "second", "tie")},
            "first_twice": self._twice["first"],
            "second_twice": self._twice["second"],
            "bias": round((first - second) / sided, 3) if sided else 0.0,
        }


def is_one_answer(row: Row) -> bool:
    """Whether both answers of a preference are the same."""
    sides = texts(row)
    return sides["chosen"].strip() == sides["rejected"].strip()
