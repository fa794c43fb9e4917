"""Which of two answers is better: judged in both orders, since judges favour a position."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from finery import Budget, FineryError, Job, Model, OneFile
from finery.rows import Conversation, Row
from finery.rows.generated import name_of
from finery.rows.parts import texts
from finery_synth.ask.asking import Used
from finery_synth.ask.contents import json_in
from finery_synth.ask.prompts import Prompt
from finery_synth.judge.scores import Unreadable, names_of, no_score, readings

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
VERDICT = {
    "type": "object",
    "properties": {
        "reason": {"type": "string"},
        "better": {"type": "string", "enum": ["A", "B", "tie"]},
    },
    "required": ["reason", "better"],
    "additionalProperties": False,
}


class Verdict(NamedTuple):
    """A judge's verdict on two answers: the better position (first, second, tie), and why."""

    position: str
    reason: str


class Seen(msgspec.Struct, omit_defaults=True):
    """The result for a pair in one order (0, 1): the better side, or what went wrong."""

    order: int
    side: str = ""
    position: str = ""
    reason: str = ""
    problem: str = ""


def read_verdict(text: str) -> Verdict:
    """The verdict in a judge's answer, ignoring text around the JSON. Raises `Unreadable`."""
    value = json_in(text)
    if not isinstance(value, dict):
        raise Unreadable("the judge's answer doesn't contain a JSON object")
    better = str(value.get("better") or "").strip().upper().removeprefix("ANSWER ")
    if better not in POSITIONS:
        raise Unreadable("the judge's answer is neither A, B nor tie")
    return Verdict(POSITIONS[better], str(value.get("reason") or ""))


class PairJudge:
    """Compares the chosen and rejected answers of preferences by a rubric."""

    def __init__(
        self,
        job: Job,
        model: Model,
        rubric: str,
        *,
        prompt: OneFile | None,
        max_tokens: int,
        budget: Budget | None,
    ) -> None:
        self.model = name_of(model)
        self.used = Used()
        self._engine = job.engine(model, budget=budget)
        self._rubric = rubric
        self._max_tokens = max_tokens
        self._prompt = Prompt.of(prompt, PAIR_PROMPT)
        self.template = self._prompt.origin

    def seen(self, rows: Iterable[tuple[int, Row]], total: int) -> Iterator[tuple[int, Seen]]:
        """(number, result) for each row in each order, in any order."""
        items = ((number, order, row) for number, row in rows for order in range(len(ORDERS)))
        for (number, order, _), verdict in readings(
            self._engine, self.used, items, lambda item: self.messages(item[2], item[1]),
            read_verdict, total=total * len(ORDERS), max_tokens=self._max_tokens,
            schema=VERDICT,
        ):  # fmt: skip
            yield number, seen_as(order, verdict)

    def messages(self, row: Row, order: int) -> Conversation:
        """The judge's prompt for a row, in order 0 or 1."""
        return pair_messages(self._prompt, row, self._rubric, order)


def pair_messages(prompt: Prompt, row: Row, rubric: str, order: int) -> Conversation:
    """A judge's prompt for a preference, in order 0 or 1."""
    a, b = (texts(row)[side] for side in ORDERS[order])
    return prompt.messages({**names_of(row), "rubric": rubric, "a": a, "b": b}, row)


def seen_as(order: int, verdict: Verdict | FineryError | Unreadable) -> Seen:
    """The result for a pair in one order."""
    if not isinstance(verdict, Verdict):
        return Seen(order, problem=no_score(verdict))
    sides = dict(zip(("first", "second"), ORDERS[order], strict=True))
    side = sides.get(verdict.position, "tie")
    return Seen(order, side, verdict.position, verdict.reason)


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
