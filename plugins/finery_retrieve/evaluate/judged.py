"""The verdicts of another evaluator, e.g. a judge, on the answers from retrieved documents.

Input: prompts, answers and the evaluator. Output: its metrics, question by question.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from finery import Completion, Job, UsageError
from finery.rows import TURN_COLUMNS, Row
from finery.rows.report import Remark, Scores
from finery_eval.measure import Value
from finery_eval.nested import Nested
from finery_eval.verdicts import Verdicts
from finery_retrieve.evaluate.contexts import Asked, Context

CONTEXT: Context = "retrieved"
"""The context whose answers are judged: what the model is shipped with."""


class Judged(NamedTuple):
    """values: metric → model → its value for each question. remarks: on the judge.

    more: scores that aren't values of questions, see `Report`.
    """

    values: Mapping[str, Mapping[str, Sequence[Value]]] = {}
    remarks: Sequence[Remark] = ()
    more: Scores = {}


def check_judge(judge: Nested, contexts: Sequence[Context], own: Sequence[str]) -> None:
    """Raise `UsageError` for an evaluator that can't be used. own: the metrics without it."""
    if CONTEXT not in contexts:
        raise UsageError(
            f"the judge judges answers with the context `{CONTEXT}`, which `contexts` lacks",
            where=judge.setting,
            fix=f"add {CONTEXT} to contexts, or remove `{judge.setting}`",
        )
    taken = [name.removeprefix(f"{CONTEXT}.") for name in own if name.startswith(f"{CONTEXT}.")]
    judge.check(slices=False, taken=taken)


def judging(
    job: Job, judge: Nested | None, asked: Sequence[Asked], questions: int
) -> Callable[[Mapping[str, Sequence[Completion]]], Judged]:
    """Read what the evaluator judges; the result judges answers. questions: their number.

    Only answers to answerable questions are judged. The evaluator sees the whole prompt with its
    documents, and the row's answer. Its shares of answers become metrics, and so do means over
    answers; others, such as an F1 of classes, are left out.
    """
    at = [i for i, one in enumerate(asked) if one.context == CONTEXT and one.expects_answer]
    if judge is None or not at:
        return lambda answers: Judged()
    rows: list[Row] = []
    for one in (asked[i] for i in at):
        answer = one.question.answer
        own = [{"role": "assistant", "content": answer}] if answer else []
        columns = {n: v for n, v in one.question.row.items() if n not in TURN_COLUMNS}
        rows.append({**columns, "messages": [*one.messages, *own]})
    verdicts = judge.judging(job, rows)
    places = [asked[i].number for i in at]

    def judged(answers: Mapping[str, Sequence[Completion]]) -> Judged:
        of = verdicts({name: [texts[i] for i in at] for name, texts in answers.items()})
        values = {
            f"{CONTEXT}.{metric}": {
                model: _placed(values, places, questions) for model, values in by_model.items()
            }
            for metric, by_model in _by_row(of).items()
        }
        more: Scores = {}
        for name, scores in of.report.more.items():
            prefix = f"{CONTEXT}." if name in of.judged else ""
            more[name] = {f"{prefix}{metric}": score for metric, score in scores.items()}
        return Judged(values, of.report.remarks, more)

    return judged


def _placed(values: Sequence[Value], places: Sequence[int], questions: int) -> list[Value]:
    placed: list[Value] = [None] * questions
    for place, value in zip(places, values, strict=True):
        placed[place] = value
    return placed


def _by_row(verdicts: Verdicts) -> dict[str, dict[str, Sequence[Value]]]:
    """Metric → model → the value of each answer, for shares and means over answers.

    Other metrics, e.g. an F1 over all answers, are left out.
    """
    values: dict[str, dict[str, Sequence[Value]]] = {}
    for metric, measure in verdicts.measures(None).items():
        by_model = {name: measure.by_row(name) for name in verdicts.judged}
        if all(of is not None for of in by_model.values()):
            values[metric] = {name: of for name, of in by_model.items() if of is not None}
    return values
