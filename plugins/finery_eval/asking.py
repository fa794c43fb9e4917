"""Rows to judge models on, and the models' answers to them.

Input: rows and models. Output: rows that can be judged, answers, and what the log says of both.
"""

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from finery import CachedEngine, Completion, DataError, Dataset, Job, Model
from finery.rows import Conversation, Row, answer_text, split_turns
from finery.rows.answers.reading import search_in
from finery_eval.turns import place_of
from finery_eval.verdicts import Answers

SHOWN = 10
"""Rows that an error names one by one."""


class Sampling(Protocol):
    """Settings that determine how models answer."""

    max_tokens: int
    temperature: float


class Asking(Sampling, Protocol):
    """A step that has models answer. extract: which part of an answer is judged."""

    models: list[Model]
    extract: str | None

    def constraint(self) -> dict[str, Any] | None:
        """The JSON Schema that engines hold answers to."""


def read_rows(dataset: Dataset) -> list[Row]:
    """The rows. `DataError` if there are none, or if no engine can answer one of them."""
    rows = some(list(dataset))
    refuse(
        "some rows have no prompt",
        (row["id"] for row in rows if not split_turns(row)[0]),
        fix="give every row a user message, or drop it",
    )
    return rows


def refuse_calls(rows: Iterable[Row]) -> None:
    """Raise `DataError` for rows whose expected answer is a tool call, where texts are judged."""
    refuse(
        "the expected answer of some rows is a tool call, but texts are judged",
        (
            place_of(row)
            for row in rows
            if not answer_text(row).strip()
            and any(turn.get("tool_calls") for turn in split_turns(row)[1])
        ),
        fix="judge them with eval.tools, or drop them (in eval.dialog: turns: answers)",
    )


def refuse_empty(rows: Sequence[Row], expected: Sequence[str]) -> None:
    """Raise `DataError` for rows without an expected answer."""
    refuse_calls(rows)
    refuse(
        "some rows have no expected answer",
        (row["id"] for row, text in zip(rows, expected, strict=True) if not text),
        fix="give each row a completion, or drop it",
    )


def some(rows: list[Row]) -> list[Row]:
    """The rows; `DataError` if there is none."""
    if not rows:
        raise DataError(
            "`rows` has no rows to judge the models on", fix="check the step that makes `rows`"
        )
    return rows


def refuse(what: str, rows: Iterable[str], fix: str) -> None:
    """Raise a `DataError` that lists `rows` (ids, or `id: reason`) if there are any."""
    named = list(rows)
    if named:
        more = [f"and {len(named) - SHOWN} more"] if len(named) > SHOWN else []
        raise DataError(what, details=[f"row {row}" for row in named[:SHOWN]] + more, fix=fix)


def ask(step: Asking, job: Job, rows: Sequence[Row]) -> Answers:
    """Every model's answers to every row's prompt."""
    prompts = [split_turns(row)[0] for row in rows]
    tools = [row.get("tools") for row in rows]
    return answers_by(
        step, job,
        lambda engine, name: generate(
            step, job, engine, name, prompts, tools, step.constraint()
        ),
    )  # fmt: skip


def answers_by(
    step: Asking, job: Job, answer: Callable[[CachedEngine, str], list[Completion]]
) -> Answers:
    """What `answer` gets from every model, by its engine and name, with a log of what is wrong."""
    answers: Answers = {}
    for model in step.models:
        answers[model.name] = answer(job.engine(model), model.name)
        gc.collect()  # the next model may need the memory of this one
        log_answers(step, job, model.name, answers[model.name])
    if step.extract and not any(
        search_in(a.text, step.extract, "extract") for of in answers.values() for a in of
    ):
        job.log(f"extract: {step.extract!r} matches no answer of any model")
    return answers


def generate(
    step: Sampling,
    job: Job,
    engine: CachedEngine,
    name: str,
    prompts: Sequence[Conversation],
    tools: Sequence[list[dict[str, Any]] | None] | None = None,
    schema: dict[str, Any] | None = None,
) -> list[Completion]:
    """One model's answers. name: of the model, for the progress bar.

    `StepError` if its engine can't hold answers to `schema`.
    """
    return engine.generate(
        prompts,
        max_tokens=step.max_tokens,
        temperature=step.temperature,
        # At temperature 0 the seed can't matter: a fixed one lets steps share their cached answers.
        seed=job.seed if step.temperature > 0 else 0,
        tools=tools,
        schema=schema,
        strict=schema is not None,
        refusals=True,
        progress=name,
    )


def log_answers(step: Sampling, job: Job, name: str, answers: Sequence[Completion]) -> None:
    """Log how many answers of a model were cut off, refused, or ended while it was thinking."""
    log_cut_off(job, name, answers, step.max_tokens)
    unanswered = sum(a.finish_reason == "length" and a.is_empty for a in answers)
    if unanswered and any(a.reasoning for a in answers):
        job.log(f"{name}: {unanswered} of them while it was thinking, so they have no answer")
    thoughts = sum(
        a.finish_reason != "length" and a.is_empty and bool(a.reasoning) for a in answers
    )
    if thoughts:
        of_all = f"{thoughts} of {len(answers)} answers"
        job.log(f"{name}: {of_all} are only thinking, which isn't closed or has nothing after it")
    refused = sum(answer.finish_reason == "refusal" for answer in answers)
    if refused:
        job.log(f"{name}: refused or filtered {refused} of {len(answers)} rows")


def log_cut_off(job: Job, name: str, answers: Sequence[Completion], max_tokens: int) -> None:
    """Log how many answers of a model were cut off."""
    cut = truncated(answers)
    if cut:
        limit = f"max_tokens: {max_tokens}"
        job.log(f"{name}: {cut} of {len(answers)} answers were cut off at {limit}")


def truncated(answers: Sequence[Completion]) -> int:
    """The number of answers that were cut off at `max_tokens`."""
    return sum(answer.finish_reason == "length" for answer in answers)
