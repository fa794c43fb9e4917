"""Forecasts of the judges' requests, for `finery plan`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from finery import Asked, Count, Forecast, Request
from finery.rows import Conversation, Row, answer_text
from finery_judge import calibration
from finery_judge.arena import Arena
from finery_judge.judging import Judging
from finery_judge.rubric import RubricJudge
from finery_judge.templates import names
from finery_synth.judge.pairs import ORDERS, Verdict
from finery_synth.judge.scores import TRIES, Score

J = TypeVar("J", bound=Judging)


class _JudgeForecast(Forecast[J]):
    """The requests of the first attempt.

    Answers of the judged models aren't known yet, so each row's own answer takes their place in the
    prompts, and their number is the highest possible one: a judge isn't asked about empty answers,
    and one request serves all equal answers to a row.
    """

    def asked(self, each: int, schema: Mapping[str, Any], taken: Sequence[Count | None]) -> Asked:
        """The requests for the rows in `taken`. each: the number of requests for a row."""
        step = self.step
        sampling = {"max_tokens": step.judge_tokens, "temperature": 0.0, "schema": dict(schema)}
        known = [count.rows for count in taken if count is not None]
        total = each * sum(known) if known and len(known) == len(taken) else None
        return Asked("judge", total, (), sampling, TRIES - 1, step.budget, is_most=True)

    def prompts(
        self, messages: Callable[[Row, str], Conversation], each: int
    ) -> Iterator[tuple[Request, int]]:
        """The requests for all rows. messages: the prompt for a row and an answer to it."""
        for row in self.step.rows:
            yield from [(Request(messages(row, answer_text(row).strip())), 1)] * each


class RubricForecast(_JudgeForecast[RubricJudge]):
    """A request for each answer, and for each answer that people reviewed."""

    def asks(self, taken: Mapping[str, Sequence[Count | None]], *, built: bool) -> Asked:
        """The requests if the rows are built, otherwise their number if it follows from counts."""
        step, each = self.step, len(self.step.models)
        asked = self.asked(each, Score.schema(step.scale), taken.get("rows", ()))
        if not built:
            reviewed = taken.get("reviewed", taken.get("rows", ())) if step.human else ()
            if asked.total is None or None in reviewed:
                return asked._replace(total=None)
            return asked._replace(total=asked.total + sum(c.rows for c in reviewed if c))
        template, given = step.template(), {"rubric": step.rubric, "scale": step.scale}

        def messages(row: Row, answer: str) -> Conversation:
            reference = answer if step.reference else ""
            return template.messages(names(row, reference, answer=answer) | given, row)

        people = calibration.decided(step.seen_by_people(), step.human) if step.human else []
        theirs = ((Request(messages(d.row, answer_text(d.row).strip())), 1) for d in people)
        return asked._replace(
            total=each * len(step.rows) + len(people),
            requests=chain(self.prompts(messages, each), theirs),
        )


class ArenaForecast(_JudgeForecast[Arena]):
    """Two requests for each game, one in each order."""

    def asks(self, taken: Mapping[str, Sequence[Count | None]], *, built: bool) -> Asked:
        """The requests if the rows are built, otherwise their number if it follows from counts."""
        step, each = self.step, len(self.step.pairs()) * len(ORDERS)
        asked = self.asked(each, Verdict.schema(), taken.get("rows", ()))
        if not built:
            return asked
        template = step.template()

        def messages(row: Row, answer: str) -> Conversation:
            reference = answer if step.reference else ""
            given = names(row, reference, a=answer, b=answer) | {"rubric": step.rubric}
            return template.messages(given, row)

        return asked._replace(total=each * len(step.rows), requests=self.prompts(messages, each))
