"""Rows to judge models on, and the models' answers to them.

Input: rows and models. Output: rows that can be judged, answers, and what the log says of both.
"""

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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


@dataclass
class Limits:
    """The sampling where no evaluator determines it."""

    max_tokens: int
    temperature: float = 0.0


class Asking(Sampling, Protocol):
    """A step that has models answer. extract: which part of an answer is judged."""

    models: list[Model]
    extract: str | None

    def constraint(self) -> dict[str, Any] | None:
        """The JSON Schema that engines hold answers to."""


Answering = Callable[[CachedEngine, str], list[Completion]]
"""(a model's engine, its name) → its answers, one a row."""


class Exchange(Protocol):
    """The conversation of a row with a model. history: the next prompt."""

    row: Row
    history: Conversation

    @property
    def is_over(self) -> bool:
        """Whether the model isn't prompted any more."""

    def add(self, answer: Completion) -> None:
        """Go on with an answer."""


def read_rows(dataset: Dataset) -> list[Row]:
    """The rows. `DataError` if there are none, or if no engine can answer one of them."""
    rows = require_rows(list(dataset))
    refuse_rows(
        "some rows have no prompt",
        (row["id"] for row in rows if not split_turns(row)[0]),
        fix="give every row a user message, or drop it",
    )
    return rows


def refuse_calls(rows: Iterable[Row]) -> None:
    """Raise `DataError` for rows whose expected answer is a tool call, where texts are judged."""
    refuse_rows(
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
    refuse_rows(
        "some rows have no expected answer",
        (row["id"] for row, text in zip(rows, expected, strict=True) if not text),
        fix="give each row a completion, or drop it",
    )


def require_rows(rows: list[Row]) -> list[Row]:
    """The rows; `DataError` if there is none."""
    if not rows:
        raise DataError(
            "`rows` has no rows to judge the models on", fix="check the step that makes `rows`"
        )
    return rows


def refuse_rows(problem: str, rows: Iterable[str], fix: str) -> None:
    """Raise a `DataError` that lists `rows` (ids, or `id: reason`) if there are any."""
    if failed := list(rows):
        cut = [f"and {len(failed) - SHOWN} more"] if len(failed) > SHOWN else []
        raise DataError(problem, details=[f"row {row}" for row in failed[:SHOWN]] + cut, fix=fix)


def ask(step: Asking, job: Job, rows: Sequence[Row], answer: Answering | None = None) -> Answers:
    """Every model's answers to the prompts of the rows. answer: gets them in another way."""
    prompts = [split_turns(row)[0] for row in rows]
    tools, schema = [row.get("tools") for row in rows], step.constraint()

    def answer_prompts(engine: CachedEngine, name: str) -> list[Completion]:
        return generate(step, job, engine, name, prompts, tools, schema)

    answers = ask_each(step, job, step.models, answer or answer_prompts)
    if step.extract and not any(
        search_in(completion.text, step.extract, "extract")
        for completions in answers.values()
        for completion in completions
    ):
        job.log(f"extract: {step.extract!r} matches no answer of any model")
    return answers


def ask_each(step: Sampling, job: Job, models: Sequence[Model], answer: Answering) -> Answers:
    """Every model's answers, with a log of what is wrong with them."""
    answers: Answers = {}
    for model in models:
        answers[model.name] = answer(job.engine(model), model.name)
        gc.collect()  # the next model may need the memory of this one
        log_answers(job, model.name, answers[model.name], step.max_tokens)
    return answers


def run_exchanges(
    step: Asking, job: Job, engine: CachedEngine, name: str, exchanges: Sequence[Exchange],
    unit: str,
) -> None:  # fmt: skip
    """Have a model lead conversations until all are over, a turn of each at a time.

    unit: what a turn is called in the progress bar.
    """
    schema, number = step.constraint(), 0
    while active := [exchange for exchange in exchanges if not exchange.is_over]:
        number += 1
        prompts = [exchange.history for exchange in active]
        tools = [exchange.row.get("tools") for exchange in active]
        title = f"{name}, {unit} {number}"
        answers = generate(step, job, engine, title, prompts, tools, schema)
        for exchange, answer in zip(active, answers, strict=True):
            exchange.add(answer)


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


def log_answers(job: Job, name: str, answers: Sequence[Completion], max_tokens: int) -> None:
    """Log how many answers of a model were cut off, refused, or ended while it was thinking."""
    of_all = f"of {len(answers)}"
    if cut := truncated(answers):
        job.log(f"{name}: {cut} {of_all} answers were cut off at max_tokens: {max_tokens}")
    unanswered = sum(a.finish_reason == "length" and a.is_empty for a in answers)
    if unanswered and any(a.reasoning for a in answers):
        job.log(f"{name}: {unanswered} of them while it was thinking, so they have no answer")
    thoughts = sum(
        a.finish_reason != "length" and a.is_empty and bool(a.reasoning) for a in answers
    )
    if thoughts:
        problem = "are only thinking, which isn't closed or has nothing after it"
        job.log(f"{name}: {thoughts} {of_all} answers {problem}")
    refused = sum(answer.finish_reason == "refusal" for answer in answers)
    if refused:
        job.log(f"{name}: refused or filtered {refused} {of_all} rows")


def truncated(answers: Sequence[Completion]) -> int:
    """The number of answers that were cut off at `max_tokens`."""
    return sum(answer.finish_reason == "length" for answer in answers)
