"""`synth.judge`: rows with scores, and preferences that a judge agrees with."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from finery import Budget, DataError, Dataset, Job, Model, OneFile, Step, UsageError, setting, takes
from finery.rows import Conversation, Row
from finery.rows.dropped import Drops
from finery.rows.generated import Origins
from finery.rows.parts import OWN_COLUMNS, answer, named
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.task import Task
from finery_synth.judge.pairs import ORDERS, PAIR_PROMPT, VERDICT, is_one_answer, pair_messages
from finery_synth.judge.scores import SCORE_PROMPT, score_messages, score_schema

ONLY = "score"
"""What a rubric without a name is called."""
MADE_OF = OWN_COLUMNS | {"label", "text"}
"""Columns that rows are made of, which no score may take the place of."""


class JudgeRows(
    Step,
    engines=True,
    sections=("generate",),
    seeded=False,
    packages=("jinja2",),
    version="1",
    keeps_prompts=True,
    forecast="finery_synth.estimate.forecast:AskingForecast",
):
    """Have rows judged by a model, with a rubric.

    `what: answers`: each row's answer (of preferences, the chosen one) gets a score from 1 to
    `scale`, in the column `score`, with the reason in `score_reason`. With several rubrics, each is
    asked for by itself; `scores` has them by name, and `score` is their mean. Rows that score below
    `min_score` are dropped.

    `what: pairs`: which answer of a preference is better is asked in both orders, and counts only
    where both say the same. Pairs without such a verdict are dropped (`undecided`), and those whose
    rejected answer is the better one as `lost` says. `meta["positions"]` measures how far the judge
    favours a position.

    An answer of the judge that can't be read is asked for again; a row without one in the end is
    dropped (`no-score`).
    """

    USE: ClassVar[str] = "synth.judge"
    """The step type's name."""

    model: Model = takes(help="The judge: any model that answers prompts.")
    rows: list[Dataset] = takes(help="Rows to judge, in this order.")
    what: Literal["answers", "pairs"] = setting(
        "answers", help="answers: a score for each answer. pairs: the better of two."
    )
    rubric: str | dict[str, str] = setting(
        help="What makes an answer good, in words for the judge; or several by name.",
        examples=["The answer is polite and says what to do.", {"correct": "…", "polite": "…"}],
    )
    scale: int = setting(5, ge=2, le=100, help="The best score; 1 is the worst.")
    min_score: float | None = setting(
        None, ge=1, help="Rows with a lower score are dropped. Default: all are kept."
    )
    undecided: Literal["drop", "keep"] = setting(
        "drop", help="What becomes of pairs on which the two orders don't agree."
    )
    lost: Literal["drop", "swap", "keep"] = setting(
        "drop", help="What becomes of pairs whose rejected answer is the better one."
    )
    column: str | None = setting(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        help="Column for the score, or for the better side of a pair. Default: score, or better.",
    )
    max_tokens: int = setting(256, ge=16, help="Longest answer of the judge, in tokens.")
    prompt: OneFile | None = setting(
        None,
        help="A Jinja file with the judge's prompt. `finery synth prompt judge`, or pairs, prints "
        "ours, to edit.",
    )
    budget: Budget | None = setting(
        None,
        affects_output=False,
        help="What one build may use; what was answered by then is kept.",
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        if not self.rubric or not all(text.strip() for text in self.rubrics().values()):
            raise UsageError("a rubric is empty", where="rubric", fix="say what makes a row good")
        if self.min_score is not None and self.min_score > self.scale:
            raise UsageError(
                f"no score reaches {self.min_score:g}: the best is {self.scale}",
                where="min_score",
                fix="lower it, or raise `scale`",
            )
        for name, mode in (("min_score", "answers"), ("undecided", "pairs"), ("lost", "pairs")):
            if self.what != mode and getattr(self, name) not in (None, "drop"):
                raise UsageError(
                    f"{name} means nothing here", where=name, fix=f"what: {mode}, or drop it"
                )
        if self.what == "pairs" and isinstance(self.rubric, dict):
            raise UsageError(
                "pairs are judged by one rubric", where="rubric", fix="write it as one text"
            )
        for name in self.written():
            if name in MADE_OF:
                raise UsageError(
                    f"what the judge says would overwrite the rows' column '{name}'",
                    where="column",
                    fix="give it another name, or leave it out",
                )

    def check_files(self) -> None:
        """Raise `UsageError` for a template that is empty or broken."""
        Prompt.of(self.prompt, self.default_prompt())

    def written(self) -> tuple[str, ...]:
        """The columns that rows get: the score, or the better side, and the reason for it.

        With several rubrics: their mean, the scores, and the reasons.
        """
        column = self.column or ("better" if self.what == "pairs" else "score")
        if isinstance(self.rubric, dict):
            return column, f"{column}s", f"{column}_reasons"
        return column, f"{column}_reason"

    def requests(self, rows: int) -> int:
        """How often the judge is asked about so many rows, if all its answers can be read."""
        return rows * (2 if self.what == "pairs" else len(self.rubrics()))

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """What the judge is asked at first, for estimates."""
        number = 0
        for _, row in self.numbered():
            if self.what == "pairs" and is_one_answer(row):
                continue
            for messages in self._asked(prompt, row):
                yield Task(number=number, messages=messages, seeds=[])
                number += 1

    def _asked(self, prompt: Prompt, row: Row) -> Iterator[Conversation]:
        for rubric in self.rubrics().values():
            if self.what == "answers":
                yield score_messages(prompt, row, rubric, self.scale)
            else:
                yield from (pair_messages(prompt, row, rubric, n) for n in range(len(ORDERS)))

    def sampling(self) -> dict[str, Any]:
        """How the judge answers at first."""
        schema = VERDICT if self.what == "pairs" else score_schema(self.scale)
        return {"max_tokens": self.max_tokens, "temperature": 0.0, "schema": schema}

    def default_prompt(self) -> str:
        """The template where the recipe names none."""
        return PAIR_PROMPT if self.what == "pairs" else SCORE_PROMPT

    def needs_rows(self) -> bool:
        """Whether `requests` can only be told from the rows themselves."""
        return False

    def run(self, job: Job) -> Dataset:
        """Ask the judge, and write the rows with what it says."""
        from finery_synth.flow.comparison import Comparison
        from finery_synth.flow.scoring import Scoring

        self.check()
        judging = Comparison(self, job) if self.what == "pairs" else Scoring(self, job)
        with Drops(job.out) as drops, Origins(job.out) as origins:
            dataset = Dataset.write(job.out, judging.rows(drops, origins))
        drops.refuse_nothing_left(len(dataset), "look at the rubric, the prompt and min_score")
        job.log(drops.summary(len(dataset)))
        dataset.meta |= {**judging.facts(), **drops.meta()}
        return dataset

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """(number from 0, row); `DataError` for a row that has nothing to judge."""
        number = 0
        for dataset in self.rows:
            for row in dataset:
                if self.what == "pairs" and not all(
                    row.get(side) for side in ("prompt", "chosen", "rejected")
                ):
                    raise DataError(
                        "the row is no preference: it needs prompt, chosen and rejected",
                        where=named(number + 1, row),
                        fix="name preferences, or what: answers",
                    )
                if self.what == "answers" and not answer(row):
                    raise DataError(
                        "the row has no answer to judge",
                        where=named(number + 1, row),
                        fix="drop it, or have it answered with synth.answer",
                    )
                yield number, row
                number += 1

    def seed_count(self) -> int:
        """How many rows there are."""
        return sum(len(dataset) for dataset in self.rows)

    def rubrics(self) -> dict[str, str]:
        """Name → rubric."""
        return self.rubric if isinstance(self.rubric, dict) else {ONLY: self.rubric}
