"""Test rows whose label is probably wrong, since all good models give the same other answer."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from finery.advanced import counted, some_of
from finery.views import Field, Finding, Part, Record, Records, Section
from finery_eval.view.answers import compact
from finery_eval.view.judgements import Judgement

QUESTION = "Are the labels of the test rows right?"
GOOD = 0.5
"""Share of right answers from which on a model counts. An untrained one often gives one answer."""
LISTED = 5


class Doubtful(NamedTuple):
    """Rows of a step to which all of its good models give the same other answer.

    models: their names. answers: of the first of them.
    """

    step: str
    models: list[str]
    answers: list[Any]


def doubtful_rows(judged: Sequence[Judgement]) -> Iterator[Doubtful]:
    """The doubtful rows of each step with at least two good models, if it has any.

    A file that is exported from a judged model gives its answers again, so it doesn't count.
    """
    for step in dict.fromkeys(each.step for each in judged):
        rivals = [each for each in judged if each.step == step and each.role != "reference"]
        names = {each.model for each in rivals}
        good = [
            each
            for each in rivals
            if not (each.role == "shipped" and each.source in names) and _is_good(each)
        ]
        if len(good) > 1:
            rows = zip(*(each.answers for each in good), strict=True)
            found = [answers[0] for answers in rows if _agree_on_another(answers)]
            if found:
                yield Doubtful(step, [each.model for each in good], found)


def _is_good(judged: Judgement) -> bool:
    right = sum(facts.get("correct") is True for facts in judged.answers)
    return bool(judged.answers) and right >= GOOD * len(judged.answers)


def _agree_on_another(answers: Sequence[Any]) -> bool:
    """Whether the answers to a row are all wrong, readable and equal."""
    read = {json.dumps(facts.get("prediction"), sort_keys=True) for facts in answers}
    rows = {facts.get("id") for facts in answers}
    is_wrong = all(facts.get("correct") is False for facts in answers)
    return is_wrong and len(read) == len(rows) == 1 and answers[0].get("prediction") is not None


def doubtful_finding(judged: Sequence[Judgement]) -> Iterator[Finding]:
    """How many rows of each step are doubtful."""
    for step, models, answers in doubtful_rows(judged):
        names = some_of([str(facts["id"]) for facts in answers], LISTED)
        rows = f"{counted(len(answers), 'row')} of {step}"
        text = (
            f"Perhaps not: for {rows}, {some_of(models)} give the same answer, which isn't the "
            f"label: {names}. Read them before you trust the score."
        )
        yield Finding(QUESTION, text, "open", 3)


def doubtful_parts(judged: Sequence[Judgement], most: int) -> Iterator[Part]:
    """The doubtful rows, with the label and the answer of the models."""
    for _, models, answers in doubtful_rows(judged):
        records = [
            Record(
                [
                    Field("id", str(facts["id"]), "soft"),
                    Field("prompt", str(facts.get("prompt", ""))),
                    Field("label", compact(facts.get("expected"))),
                    Field("all models", compact(facts["prediction"]), "warning"),
                ]
            )
            for facts in answers[:most]
        ]
        note = f"{some_of(models)} give the same answer, which isn't the label"
        rows = Records(records, len(answers), "doubtful", shown=most)
        yield Section("Labels that may be wrong", [rows], note=note)
