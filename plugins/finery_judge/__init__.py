"""Judges: a model scores or compares the answers of models, and is itself compared with people.

Input: models, rows, a judge and a rubric. Output: metrics with intervals, and the judge's errors:
unreadable verdicts, position bias, disagreement with human decisions.
"""

from collections.abc import Mapping
from typing import Any

from finery import hookimpl


@hookimpl
def finery_steps() -> dict[str, str]:
    """The step types of this plugin."""
    return {
        "eval.arena": "finery_judge.arena:Arena",
        "eval.judge": "finery_judge.rubric:RubricJudge",
    }


@hookimpl
def finery_notes() -> Mapping[str, Any]:
    """The kinds of notes of this plugin."""
    from finery_judge.judging import ABOUT

    return ABOUT
