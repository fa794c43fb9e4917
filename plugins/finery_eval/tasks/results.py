"""The values of metrics for a model's work on a task."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from finery.rows.parts import prompt as prompt_of
from finery_eval.calls.calls import readable
from finery_eval.predictions import PROMPT_SHOWN
from finery_eval.tables import table
from finery_eval.tasks.play import Play
from finery_eval.verdicts import Verdict

DIFFERENCES = 5
"""Differing parts of two states that are named."""


class Expect(msgspec.Struct, frozen=True):
    """What must match: `state`, `answer` or both. normal: normalises an answer for comparison."""

    parts: frozenset[str]
    normal: Callable[[str], str]

    def metrics(self) -> list[str]:
        """The metrics, the headline first."""
        parts = [part for part in ("state", "answer") if part in self.parts]
        return ["accuracy", *parts, "finished", "no_call", "valid"]

    def verdict(self, play: Play) -> Verdict:
        """The values of the metrics; None for a metric that doesn't apply."""
        task, problems = play.task, [c.problem.text for c in play.calls if c.problem]
        values = {
            "accuracy": self._is_right(play),
            "state": play.state == task.state,
            "answer": self._is_answered(play),
            "finished": play.is_finished,
            "no_call": None if task.calls else not play.calls,
            "valid": all(call.problem is None for call in play.calls) if play.calls else None,
        }
        return Verdict(
            {metric: values[metric] for metric in self.metrics()},
            {
                "prompt": prompt_of({"prompt": task.prompt})[:PROMPT_SHOWN],
                "expected": _shown(readable(task.calls), task.answer),
                "prediction": _shown(readable(play.calls), play.answer or ""),
                "error": _unfinished(play),
                "problem": "; ".join(problems) or None,
                "changed": dict(islice(self._differing(play), DIFFERENCES)),
                "steps": len(play.answers),
            },
        )

    def _is_right(self, play: Play) -> bool:
        states = "state" not in self.parts or play.state == play.task.state
        return (
            play.is_finished and states and ("answer" not in self.parts or self._is_answered(play))
        )

    def _is_answered(self, play: Play) -> bool:
        return self.normal(play.answer or "") == self.normal(play.task.answer)

    def _differing(self, play: Play) -> Iterator[tuple[str, Any]]:
        if "state" in self.parts:
            states = [json.loads(state) for state in (play.task.state, play.state)]
            yield from differences(*states)
        if "answer" in self.parts and play.is_finished and not self._is_answered(play):
            yield "answer", {"expected": play.task.answer, "answered": play.answer}


def _unfinished(play: Play) -> str | None:
    """Why the work on a task didn't come to its end."""
    if play.is_finished:
        return None
    if play.is_cut:
        return "the last answer was cut off at max_tokens"
    return f"didn't end within {len(play.answers)} turns"


def _shown(calls: str, answer: str) -> str:
    return f"{calls}\n{answer}" if answer.strip() else calls


def differences(expected: Any, actual: Any, path: str = "state") -> Iterator[tuple[str, Any]]:
    """(part of a state, its two values) where two states differ; a missing value is left out."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted({*expected, *actual}):
            values = {"expected": expected, "answered": actual}
            given = {name: state[key] for name, state in values.items() if key in state}
            if len(given) == 2:
                yield from differences(expected[key], actual[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}", given
    elif expected != actual:
        yield path, {"expected": expected, "answered": actual}


def steps_table(plays: Mapping[str, Sequence[Play]], most: int) -> dict[str, Any]:
    """How many turns and calls each model needs, and how many errors it gets."""
    columns = [
        "model",
        "turns a row",
        "calls a row",
        "tool errors",
        f"not finished in {most} turns",
    ]
    rows = [
        [
            name,
            sum(len(play.answers) for play in of) / len(of),
            sum(len(play.calls) for play in of) / len(of),
            sum(play.errors for play in of),
            sum(not play.is_finished for play in of),
        ]
        for name, of in plays.items()
    ]
    return table("Steps", columns, rows)
