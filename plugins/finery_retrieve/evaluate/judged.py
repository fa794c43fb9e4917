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
from finery_retrieve.evaluate.contexts import Context, QuestionInContext

CONTEXT: Context = "retrieved"
"""The context whose answers are judged: what the model is shipped with."""


class JudgedAnswers(NamedTuple):
    """values: metric → model → its value for each question. remarks: on the judge.

    more: scores that aren't values of questions, see `Report`.
    """

    values: Mapping[str, Mapping[str, Sequence[Value]]] = {}
    remarks: Sequence[Remark] = ()
    more: Scores = {}


def check_judge(judge: Nested, contexts: Sequence[Context], own_metrics: Sequence[str]) -> None:
    """Raise `UsageError` for an evaluator that can't be used. own_metrics: those without it."""
    if CONTEXT not in contexts:
        raise UsageError(
            f"the judge judges answers with the context `{CONTEXT}`, which `contexts` lacks",
            where=judge.setting,
            fix=f"add {CONTEXT} to contexts, or remove `{judge.setting}`",
        )
    used_names = [
        name.removeprefix(f"{CONTEXT}.") for name in own_metrics if name.startswith(f"{CONTEXT}.")
    ]
    judge.check(slices=False, taken=used_names)


def make_judge(
    job: Job, judge: Nested | None, prompts: Sequence[QuestionInContext], questions: int
) -> Callable[[Mapping[str, Sequence[Completion]]], JudgedAnswers]:
    """Read what the evaluator judges; the result judges answers. questions: their number.

    Only answers to answerable questions are judged. The evaluator sees the whole prompt with its
    documents, and the row's answer. Its shares of answers become metrics, and so do means over
    answers; others, such as an F1 of classes, are left out.
    """
    places = [
        i for i, prompt in enumerate(prompts) if prompt.context == CONTEXT and prompt.expects_answer
    ]
    if judge is None or not places:
        return lambda answers: JudgedAnswers()
    rows: list[Row] = []
    for prompt in (prompts[i] for i in places):
        answer = prompt.question.answer
        reply = [{"role": "assistant", "content": answer}] if answer else []
        columns = {n: v for n, v in prompt.question.row.items() if n not in TURN_COLUMNS}
        rows.append({**columns, "messages": [*prompt.messages, *reply]})
    judge_rows = judge.judging(job, rows)
    numbers = [prompts[i].number for i in places]

    def judge_answers(answers: Mapping[str, Sequence[Completion]]) -> JudgedAnswers:
        verdicts = judge_rows(
            {name: [completions[i] for i in places] for name, completions in answers.items()}
        )
        values: dict[str, dict[str, Sequence[Value]]] = {}
        for metric, measure in verdicts.measures(None).items():
            columns = {name: measure.by_row(name) for name in verdicts.judged}
            if None not in columns.values():
                column_values = {
                    n: dict(zip(numbers, column_of_name or (), strict=True))
                    for n, column_of_name in columns.items()
                }
                values[f"{CONTEXT}.{metric}"] = {
                    name: [column.get(i) for i in range(questions)]
                    for name, column in column_values.items()
                }
        other_scores: Scores = {}
        for name, scores in verdicts.report.more.items():
            prefix = f"{CONTEXT}." if name in verdicts.judged else ""
            other_scores[name] = {f"{prefix}{metric}": score for metric, score in scores.items()}
        return JudgedAnswers(values, verdicts.report.remarks, other_scores)

    return judge_answers
