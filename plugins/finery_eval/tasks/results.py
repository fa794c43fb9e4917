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
            given = {name: state[key] for name, state in values.items() if key in state}
            if len(given) == 2:
                yield from differences(expected[key], actual[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}", given
    elif expected != actual:
        yield path, {"expected": expected, "answered": actual}


def steps_table(plays: Mapping[str, Sequence[Play]], most: int) -> dict[str, Any]:
    """How many turns and calls each model needs, and how often it gets an error."""
    unfinished = f"not finished in {most} turns"
    columns = ["model", "turns a row", "calls a row", "tool errors", unfinished]
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
