"""Scores by a judge: the prompt, the form of its answer, and how that is read."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from finery import Completion, FineryError, Job, Model, Request
from finery.origin import name_of
from finery.rows import Conversation, Row, split_turns
from finery.usage import Budget
from finery_data.parts import joined, text_of
from finery_eval.jsonvalues import NotJson, parse
from finery_synth import defaults
from finery_synth.asking import MOST_VARIANTS, T, Used, ask
from finery_synth.checks import Rubric
from finery_synth.prompts import Prompt

TRIES = 3
"""How often a judge is asked whose answer can't be read."""


class Unreadable(ValueError):
    """An answer of a judge that holds no score; the message says why."""


class Score(NamedTuple):
    """What a judge says."""

    score: int
    reason: str


def score_schema(scale: int) -> dict[str, Any]:
    """The JSON Schema of a score from 1 to `scale`; the reason comes first, to be thought of."""
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string"},
            "score": {"type": "integer", "minimum": 1, "maximum": scale},
        },
        "required": ["reason", "score"],
        "additionalProperties": False,
    }


def read_score(text: str, scale: int) -> Score:
    """The score in a judge's answer, tolerant of text around the JSON. Raises `Unreadable`."""
    value = json_in(text)
    if not isinstance(value, dict):
        raise Unreadable("its answer holds no JSON object")
    score = value.get("score")
    if isinstance(score, bool) or not isinstance(score, int | float) or score != int(score):
        raise Unreadable("its answer holds no whole number as score")
    if not 1 <= score <= scale:
        raise Unreadable(f"its score {score} isn't between 1 and {scale}")
    return Score(int(score), str(value.get("reason") or ""))


def json_in(text: str) -> Any:
    """The JSON value that a text is, or that stands between its outermost brackets; else None."""
    spans = [(text.find(opens), text.rfind(closes)) for opens, closes in ("{}", "[]")]
    inner = [text[start : end + 1] for start, end in sorted(spans) if 0 <= start < end]
    for part in (text, *inner):
        with contextlib.suppress(NotJson):
            return parse(part)
    return None


def names_of(row: Row) -> dict[str, Any]:
    """What a judge's template sees of a row: `prompt` with all turns, `answer`, and the row."""
    prompt, answer = split_turns(row)
    return {"row": row, "prompt": transcript(prompt), "answer": joined(answer)}


def transcript(turns: Conversation) -> str:
    """Turns as text: the only turn as it is, several each behind its role."""
    if len(turns) == 1:
        return text_of(turns[0])
    return "\n".join(f"{turn['role']}: {text_of(turn)}" for turn in turns)


class Judge:
    """Scores rows by a rubric. model: its name. used: the answers it gave."""

    def __init__(self, job: Job, model: Model, rubric: Rubric, budget: Budget | None) -> None:
        self.model = name_of(model)
        self.used = Used()
        self._engine = job.engine(model, budget=budget)
        self._rubric = rubric
        self._prompt = Prompt.of(rubric.prompt, defaults.JUDGE)
        self._scratch = job.scratch

    def scores(
        self, rows: Iterable[tuple[T, Row]], total: int
    ) -> Iterator[tuple[T, Score | FineryError | Unreadable]]:
        """(item, what the judge says of its row, or why it says nothing), in any order.

        An answer that can't be read is asked for again, `TRIES` times in all.
        """
        yield from self._asked(rows, total, 0)

    def _asked(
        self, rows: Iterable[tuple[T, Row]], total: int, attempt: int
    ) -> Iterator[tuple[T, Score | FineryError | Unreadable]]:
        again: list[tuple[T, Row]] = []
        for (item, row), answer in ask(
            self._engine, rows, lambda found: self._request(found[1], attempt), total=total,
            progress="judging", max_tokens=self._rubric.max_tokens,
            schema=score_schema(self._rubric.scale),
        ):  # fmt: skip
            self.used.take(answer)
            found = self._read(answer)
            if isinstance(found, Unreadable) and attempt + 1 < TRIES:
                again.append((item, row))
            else:
                yield item, found
        if again:
            yield from self._asked(again, len(again), attempt + 1)

    def _request(self, row: Row, attempt: int) -> Request:
        names = {**names_of(row), "rubric": self._rubric.rubric, "scale": self._rubric.scale}
        return Request(self._prompt.messages(names, row), None, attempt * MOST_VARIANTS)

    def _read(self, answer: Completion | FineryError) -> Score | FineryError | Unreadable:
        if isinstance(answer, FineryError):
            return answer
        try:
            return read_score(answer.text, self._rubric.scale)
        except Unreadable as error:
            return error
