"""Tasks in several steps: a model is asked, its calls are executed, it is asked again.

The calls in the row's own conversation are executed in the same way, and their effect is what is
expected: the state of the functions, or the answer.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from finery import Completion, StepError
from finery.rows import Conversation, Message, Row, Turns
from finery.rows.parts import prompt_text as prompt_of
from finery.rows.report import ReportTable
from finery_eval.calls import (
    SHOWN,
    BadTools,
    Call,
    Toolbox,
    Tools,
    answered_calls,
    expected_calls,
    readable,
)
from finery_eval.functions import Functions, Session
from finery_eval.predictions import PROMPT_SHOWN
from finery_eval.turns import assistant_turn, tool_turns
from finery_eval.verdicts import Verdict


class Task(NamedTuple):
    """The task of a row.

    prompt: up to the last turn of the user. before: the calls in the prompt, which are executed
    first. calls, answer: the rest of the row. state: after these calls, as JSON.
    """

    row: Row
    tools: Tools
    prompt: Conversation
    before: list[Call]
    calls: list[Call]
    answer: str
    state: str
    errors: "Errors"


class Errors(NamedTuple):
    """The number of a row's calls that end in an error."""

    before: int
    expected: int


def task_of(
    row: Row, toolbox: Toolbox, functions: Functions, *, by_state: bool, coerce: bool
) -> Task:
    """The task of a row, whose calls are executed. Raises `BadTools` for one that isn't a task.

    by_state: whether only the state decides what is right.
    """
    tools = toolbox.of(row)
    prompt, reference = split_task(row)
    calls = [_calls(turn, n, tools, coerce=coerce) for n, turn in enumerate(prompt + reference, 1)]
    before, after = (list(chain(*part)) for part in (calls[: len(prompt)], calls[len(prompt) :]))
    answer = str(reference[-1].get("content") or "")
    if reference[-1].get("tool_calls") and not by_state:
        raise BadTools("the last turn has calls, but must be the expected answer")
    effect = _effect(row, partial(functions.session, row, list(tools)), before, after)
    if by_state and after and effect.state == effect.start:
        raise BadTools("its calls change nothing, so the state doesn't show if an answer is right")
    return Task(row, tools, prompt, before, after, answer, effect.state, effect.errors)


class _Effect(NamedTuple):
    """The effect of a row's calls. start, state: before and after the expected ones, as JSON."""

    start: str
    state: str
    errors: Errors


def _effect(
    row: Row, begin: Callable[[], Session], before: Sequence[Call], after: Sequence[Call]
) -> _Effect:
    """The effect of a row's calls. begin: starts a session in the initial state.

    Raises `StepError` if a second session changes the first one, or if the calls have another
    effect there. Otherwise other sessions or random numbers would decide how rows and models are
    judged.
    """

    def executed(session: Session) -> _Effect:
        early = sum(session.call(call, is_expected=True)[1] for call in before)
        start = session.state()
        errors = sum(session.call(call, is_expected=True)[1] for call in after)
        return _Effect(start, session.state(), Errors(early, errors))

    session, second_session = begin(), begin()
    effect = executed(session)
    second_session.state()
    states = [(effect.state, session.state())]
    again = executed(second_session)
    states += [(effect.start, again.start), (effect.state, again.state)]
    session.close()
    second_session.close()
    for first, second in states:
        if first != second:
            raise StepError(
                f"row {row['id']}: its calls lead to another state when they are executed again",
                where="execute.factory",
                details=[f"first: {first:.{SHOWN}}", f"then: {second:.{SHOWN}}"],
                fix="keep the state in attributes of the object, not of its class or module, and "
                "leave random numbers and times out of it, or out of what `snapshot` returns",
            )
    return effect


def split_task(row: Row) -> tuple[Conversation, Conversation]:
    """(prompt, the turns that are expected after it). Raises `BadTools` without such turns."""
    prompt, reference, _, is_split = Turns.of(row)
    if not is_split:
        turns = [*prompt, *reference]
        users = [number for number, turn in enumerate(turns, 1) if turn["role"] == "user"]
        last = users[-1] if users else len(turns)
        prompt, reference = turns[:last], turns[last:]
    if not reference or reference[-1]["role"] != "assistant":
        raise BadTools("there is no assistant turn to expect")
    if any(turn["role"] not in ("assistant", "tool") for turn in reference):
        raise BadTools("the expected turns may only be those of the assistant and of tools")
    return prompt, reference


def _calls(turn: Message, number: int, tools: Tools, *, coerce: bool) -> list[Call]:
    """The calls of a turn of a row; none of a user's. number: of the turn, from 1."""
    if turn["role"] != "assistant":
        return []
    try:
        return expected_calls(turn, tools, coerce=coerce)
    except BadTools as error:
        error.turn = number
        raise


class Play:
    """A model at work on a task.

    calls: those that it made so far. errors: how many were answered with an error. answer: the text
    of its last turn, if that has no calls. is_cut: whether that turn was cut off instead.
    """

    def __init__(self, task: Task, functions: Functions, *, coerce: bool) -> None:
        self.task, self.row = task, task.row
        self.calls: list[Call] = []
        self.errors = 0
        self.answer: str | None = None
        self.is_cut = False
        self.state = ""
        self.answers: list[Completion] = []
        self.history = list(task.prompt)
        self._session = functions.session(task.row, list(task.tools))
        self._max_steps = functions.settings.max_steps
        self._coerce = coerce
        for call in task.before:
            self._session.call(call)

    @property
    def is_finished(self) -> bool:
        """Whether the model ended with a turn without calls that wasn't cut off."""
        return self.answer is not None

    @property
    def is_over(self) -> bool:
        """Whether the model isn't prompted any more."""
        return self.is_finished or self.is_cut or len(self.answers) == self._max_steps

    def add(self, answer: Completion) -> None:
        """Execute the calls of an answer and add it, and theirs, to the history."""
        self.answers.append(answer)
        calls = answered_calls(answer, self.task.tools, coerce=self._coerce)
        self.calls += calls
        if not calls:
            self.is_cut = answer.finish_reason == "length"
            self.answer = None if self.is_cut else answer.text
            return
        turn = assistant_turn(answer, len(self.answers))
        results = [self._session.call(call) for call in calls]
        self.errors += sum(is_error for _, is_error in results)
        called = len(answer.tool_calls or [])
        self.history += [turn, *tool_turns(turn, [text for text, _ in results[:called]])]
        # A call that can't be parsed has no id that a tool's answer could refer to.
        self.history += [{"role": "user", "content": text} for text, _ in results[called:]]

    def end(self) -> Completion:
        """Keep the state and forget the session.

        The result has all turns of the model as one answer: the last text, all calls, the tokens of
        all.
        """
        self.state = self._session.state()
        self._session.close()
        last = self.answers[-1]
        is_cut = any(answer.finish_reason == "length" for answer in self.answers)
        thinking = "\n".join(a.reasoning for a in self.answers if a.reasoning)
        return msgspec.structs.replace(
            last,
            finish_reason="length" if is_cut else last.finish_reason,
            prompt_tokens=sum(a.prompt_tokens for a in self.answers),
            completion_tokens=sum(a.completion_tokens for a in self.answers),
            tool_calls=[call for a in self.answers for call in a.tool_calls or []] or None,
            reasoning=thinking or None,
        )


# -- the values of metrics for a model's work on a task -------------------------------------------


DIFFERENCES = 5
"""Differing parts of two states that are named."""


class Expect(msgspec.Struct, frozen=True):
    """What must match: `state`, `answer` or both. normal: normalises an answer for comparison."""

    parts: frozenset[str]
    normal: Callable[[str], str]

    def metrics(self) -> list[str]:
        """The metrics; the first one decides."""
        parts = [part for part in ("state", "answer") if part in self.parts]
        return ["accuracy", *parts, "finished", "no_call", "valid"]

    def verdict(self, play: Play) -> Verdict:
        """The values of the metrics; None for a metric that doesn't apply."""
        task, problems = play.task, [c.problem.text for c in play.calls if c.problem]
        same = {
            "state": play.state == task.state,
            "answer": self.normal(play.answer or "") == self.normal(task.answer),
        }
        values = {
            "accuracy": play.is_finished and all(same[part] for part in self.parts),
            **same,
            "finished": play.is_finished,
            "no_call": None if task.calls else not play.calls,
            "valid": not problems if play.calls else None,
        }
        changed = {}
        if "state" in self.parts:
            parts = differences(json.loads(task.state), json.loads(play.state))
            changed = dict(islice(parts, DIFFERENCES))
        if "answer" in self.parts and play.is_finished and not same["answer"]:
            changed["answer"] = {"expected": task.answer, "answered": play.answer}
        unfinished = f"didn't end within {len(play.answers)} turns"
        if play.is_cut:
            unfinished = "the last answer was cut off at max_tokens"
        return Verdict(
            {metric: values[metric] for metric in self.metrics()},
            {
                "prompt": prompt_of({"prompt": task.prompt})[:PROMPT_SHOWN],
                "expected": _shown(readable(task.calls), task.answer),
                "prediction": _shown(readable(play.calls), play.answer or ""),
                "error": None if play.is_finished else unfinished,
                "problem": "; ".join(problems) or None,
                "changed": dict(islice(changed.items(), DIFFERENCES)),
                "steps": len(play.answers),
            },
        )


def _shown(calls: str, answer: str) -> str:
    return f"{calls}\n{answer}" if answer.strip() else calls


def differences(expected: Any, actual: Any, path: str = "state") -> Iterator[tuple[str, Any]]:
    """(part of a state, its two values) where two states differ; a missing value is left out."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted({*expected, *actual}):
            values = {"expected": expected, "answered": actual}
            shared = {name: state[key] for name, state in values.items() if key in state}
            if len(shared) == 2:
                yield from differences(expected[key], actual[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}", shared
    elif expected != actual:
        yield path, {"expected": expected, "answered": actual}


def steps_table(plays: Mapping[str, Sequence[Play]], longest: int) -> ReportTable:
    """How many turns and calls each model needs, and how often it gets an error."""
    unfinished = f"not finished in {longest} turns"
    columns = ["model", "turns a row", "calls a row", "tool errors", unfinished]
    rows = [
        [
            name,
            sum(len(play.answers) for play in model_plays) / len(model_plays),
            sum(len(play.calls) for play in model_plays) / len(model_plays),
            sum(play.errors for play in model_plays),
            sum(not play.is_finished for play in model_plays),
        ]
        for name, model_plays in plays.items()
    ]
    return ReportTable("Steps", columns, rows)
