"""Scores by a judge: its prompt, the format of its answer, and how it is read."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

from finery import CachedEngine, FineryError, Request
from finery.rows import Conversation, Row, split_turns
from finery.rows.parts import joined, text_of
from finery_synth.ask.answers import json_in, object_schema
from finery_synth.ask.asking import MOST_VARIANTS, T, Used, ask
from finery_synth.ask.prompts import Prompt

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
    return {"row": row, "prompt": transcript(prompt), "answer": joined(answer)}


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
) -> Iterator[tuple[T, "R | FineryError | Unreadable"]]:
    """(item, the content of a judge's answer, or an error), in any order, each item once.

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
            result: R | FineryError | Unreadable
            try:
                result = answer if isinstance(answer, FineryError) else read(answer.text)
            except Unreadable as error:
                result = error
            if isinstance(result, Unreadable) and attempt + 1 < TRIES:
                again.append(item)
            else:
                yield item, result
        if not again:
            return
        items, total = again, len(again)


def no_score(problem: FineryError | Unreadable) -> str:
    """Why there is no score, for people."""
    return problem.what if isinstance(problem, FineryError) else str(problem)
