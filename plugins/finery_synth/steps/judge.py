"""`synth.judge`: scores of rows, and verdicts on preferences."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from finery import Budget, DataError, Dataset, Job, Model, OneFile, Step, UsageError, setting, takes
from finery.rows import Conversation, Row, is_preference
from finery.rows.dropped import Drops
from finery.rows.generated import Origins
from finery.rows.parts import OWN_COLUMNS, answer, named
from finery_synth.ask.prompts import Prompt
from finery_synth.ask.task import Task
from finery_synth.judge.pairs import ORDERS, PAIR_PROMPT, VERDICT, is_one_answer, pair_messages
from finery_synth.judge.scores import SCORE_PROMPT, score_messages, score_schema

ONLY = "score"
"""The name of a single rubric."""
MADE_OF = OWN_COLUMNS | {"label", "text"}
"""Columns that scores must not overwrite."""


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
    """Judge rows with a model and a rubric.

    `what: answers`: each row's answer (of preferences, the chosen one) gets a score from 1 to
    `scale` in the column `score`, and the reason in `score_reason`. Several rubrics are scored by
    separate requests; `scores` has the scores by name, and `score` is their mean. Rows with a score
    below `min_score` are dropped.

    `what: pairs`: the judge compares the two answers of a preference in both orders, and its
    verdict counts only if both agree. `undecided` defines what happens to other pairs, and `lost`
    what happens to pairs with the better answer rejected. `meta["positions"]` measures how much the
    judge favours a position.

    If an answer of the judge can't be read, the request is repeated. A row that gets no readable
    answer is dropped (`no-score`).
    """

    USE: ClassVar[str] = "synth.judge"
    """The step type's name."""

    model: Model = takes(help="The judge: any model that answers prompts.")
    rows: list[Dataset] = takes(help="Rows to judge, in this order.")
    what: Literal["answers", "pairs"] = setting(
        "answers", help="answers: score each answer. pairs: pick the better of two answers."
    )
    rubric: str | dict[str, str] = setting(
        help="What makes an answer good, as a text for the judge, or several texts by name.",
        examples=["The answer is polite and says what to do.", {"correct": "…", "polite": "…"}],
    )
    scale: int = setting(5, ge=2, le=100, help="The best score; 1 is the worst.")
    min_score: float | None = setting(
        None, ge=1, help="Rows with a lower score are dropped. Default: keep all rows."
    )
    undecided: Literal["drop", "keep"] = setting(
        "drop", help="What to do with pairs on which the two orders disagree."
    )
    lost: Literal["drop", "swap", "keep"] = setting(
        "drop", help="What to do with pairs with the better answer rejected."
    )
    column: str | None = setting(
        None,
        pattern=r"^[A-Za-z_]\w*$",
        help="Column for the score, or for the better side of a pair. Default: score, or better.",
    )
    max_tokens: int = setting(256, ge=16, help="Maximum tokens of the judge's answer.")
    prompt: OneFile | None = setting(
        None,
        help="A Jinja file with the judge's prompt. `finery synth prompt judge` (or `pairs`) "
        "prints the default.",
    )
    budget: Budget | None = setting(
        None,
        affects_output=False,
        help="Limit of one build; answers so far are kept.",
    )

    def check(self) -> None:
        """Raise `UsageError` for settings that don't fit together."""
        if not self.rubric or not all(text.strip() for text in self.rubrics().values()):
            raise UsageError(
                "a rubric is empty", where="rubric", fix="describe what makes a row good"
            )
        if self.min_score is not None and self.min_score > self.scale:
            raise UsageError(
                f"min_score is {self.min_score:g}, but the best score is {self.scale}",
                where="min_score",
                fix="reduce it, or raise `scale`",
            )
        for name, mode in (("min_score", "answers"), ("undecided", "pairs"), ("lost", "pairs")):
            if self.what != mode and getattr(self, name) not in (None, "drop"):
                raise UsageError(
                    f"{name} applies only to what: {mode}",
                    where=name,
                    fix=f"set that, or remove {name}",
                )
        if self.what == "pairs" and isinstance(self.rubric, dict):
            raise UsageError(
                "pairs accept only one rubric", where="rubric", fix="write it as one text"
            )
        for name in self.written():
            if name in MADE_OF:
                raise UsageError(
                    f"the judge's results would overwrite the column '{name}'",
                    where="column",
                    fix="choose another name, or remove `column`",
                )

    def check_files(self) -> None:
        """Raise `UsageError` for an empty or invalid template."""
        Prompt.of(self.prompt, self.default_prompt())

    def written(self) -> tuple[str, ...]:
        """The columns to add: the score or the better side, and the reason.

        With several rubrics: the mean, the scores, and the reasons.
        """
        column = self.column or ("better" if self.what == "pairs" else "score")
        if isinstance(self.rubric, dict):
            return column, f"{column}s", f"{column}_reasons"
        return column, f"{column}_reason"

    def requests(self, rows: int) -> int:
        """The number of requests for a number of rows, if all answers can be read."""
        return rows * (2 if self.what == "pairs" else len(self.rubrics()))

    def tasks(self, prompt: Prompt) -> Iterator[Task]:
        """The judge's first requests, for estimates."""
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
        """The sampling of the first requests."""
        schema = VERDICT if self.what == "pairs" else score_schema(self.scale)
        return {"max_tokens": self.max_tokens, "temperature": 0.0, "schema": schema}

    def default_prompt(self) -> str:
        """The default template."""
        return PAIR_PROMPT if self.what == "pairs" else SCORE_PROMPT

    def needs_rows(self) -> bool:
        """Whether `requests` depends on the content of the rows."""
        return False

    def run(self, job: Job) -> Dataset:
        """Judge the rows, and write them with the results."""
        from finery_synth.flow.comparison import Comparison
        from finery_synth.flow.scoring import Scoring

        self.check()
        judging = Comparison(self, job) if self.what == "pairs" else Scoring(self, job)
        with Drops(job.out) as drops, Origins(job.out) as origins:
            dataset = Dataset.write(job.out, judging.rows(drops, origins))
        drops.refuse_nothing_left(len(dataset), "check the rubric, the prompt and min_score")
        job.log(drops.summary(len(dataset)))
        dataset.meta |= {**judging.facts(), **drops.meta()}
        return dataset

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """(number from 0, row); `DataError` for a row without an answer to judge."""
        number = 0
        for dataset in self.rows:
            for row in dataset:
                if self.what == "pairs" and not is_preference(row):
                    raise DataError(
                        "the row isn't a preference: it needs prompt, chosen and rejected",
                        where=named(number + 1, row),
                        fix="use preferences, or set what: answers",
                    )
                if self.what == "answers" and not answer(row):
                    raise DataError(
                        "the row has no answer to judge",
                        where=named(number + 1, row),
                        fix="remove it, or add an answer with synth.answer",
                    )
                yield number, row
                number += 1

    def seed_count(self) -> int:
        """The number of rows."""
        return sum(len(dataset) for dataset in self.rows)

    def rubrics(self) -> dict[str, str]:
        """Name → rubric."""
        return self.rubric if isinstance(self.rubric, dict) else {ONLY: self.rubric}
