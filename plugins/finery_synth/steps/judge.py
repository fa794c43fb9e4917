"""`synth.judge`: scores of rows, and verdicts on preferences."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from finery import DataError, Dataset, File, Job, Model, UsageError, setting, takes
from finery.rows import Conversation, Row, is_preference
from finery.rows.dropped import Drops
from finery.rows.generated import CheckResult, Origin, Origins, author_name
from finery.rows.parts import STANDARD_COLUMNS, answer_or_none, replace_content, row_label
from finery_synth.asking import Spool, Task, Used
from finery_synth.generator import Prompting
from finery_synth.judges import (
    ORDERS,
    PAIR_PROMPT,
    SCORE_PROMPT,
    TRIES,
    Positions,
    Score,
    Seen,
    Verdict,
    is_one_answer,
    outcome,
    pair_messages,
    readings,
    score_messages,
)
from finery_synth.prompts import Prompt

V = TypeVar("V")
ONLY = "score"
"""The name of a single rubric."""
MADE_OF = STANDARD_COLUMNS | {"label", "text"}
"""Columns that scores must not overwrite."""


class JudgeRows(Prompting, packages=("jinja2",), keeps_prompts=True):
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
    prompt: File | None = setting(
        None,
        help="A Jinja file with the judge's prompt. `finery synth prompt judge` (or `pairs`) "
        "prints the default.",
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
        for _, row in self.numbered():
            for view in self.views(row, range(self.requests(1))):
                yield Task(messages=self.messages(prompt, row, view), seeds=[row])

    def views(self, row: Row, views: Sequence[int]) -> Sequence[int]:
        """Those of `views` that the judge needs: none of a pair with the same answer twice."""
        return () if self.what == "pairs" and is_one_answer(row) else views

    def messages(self, prompt: Prompt, row: Row, view: int) -> Conversation:
        """The judge's prompt for a row. view: the number of the rubric, or the order of a pair."""
        rubrics = list(self.rubrics().values())
        if self.what == "pairs":
            return pair_messages(prompt, row, rubrics[0], view)
        return score_messages(prompt, row, rubrics[view], self.scale)

    def sampling(self) -> dict[str, Any]:
        """The sampling of the first requests."""
        schema = Verdict.schema() if self.what == "pairs" else Score.schema(self.scale)
        return {"max_tokens": self.max_tokens, "temperature": 0.0, "schema": schema}

    def default_prompt(self) -> str:
        """The default template."""
        return PAIR_PROMPT if self.what == "pairs" else SCORE_PROMPT

    def run(self, job: Job) -> Dataset:
        """Judge the rows, and write them with the results."""
        run = _Run(self, job)
        with Drops(job.out) as drops, Origins(job.out) as origins:
            rows = run.compared if self.what == "pairs" else run.scored
            dataset = Dataset.write(job.out, rows(drops, origins))
        drops.refuse_nothing_left(len(dataset), "check the rubric, the prompt and min_score")
        job.log(drops.summary(len(dataset)))
        dataset.meta |= {**run.facts, "answers": run.used.meta(), **drops.meta()}
        return dataset

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """(number from 0, row); `DataError` for a row without an answer to judge."""
        number = 0
        for dataset in self.rows:
            for row in dataset:
                if self.what == "pairs" and not is_preference(row):
                    raise DataError(
                        "the row isn't a preference: it needs prompt, chosen and rejected",
                        where=row_label(number + 1, row),
                        fix="use preferences, or set what: answers",
                    )
                if self.what == "answers" and not answer_or_none(row):
                    raise DataError(
                        "the row has no answer to judge",
                        where=row_label(number + 1, row),
                        fix="remove it, or add an answer with synth.answer",
                    )
                yield number, row
                number += 1

    def rubrics(self) -> dict[str, str]:
        """Name → rubric."""
        return self.rubric if isinstance(self.rubric, dict) else {ONLY: self.rubric}

    def repeats(self) -> int:
        """How often a request is repeated."""
        return TRIES - 1


class _Run:
    """One run. used: the judge's answers. facts: what `meta` says, once all rows are judged."""

    def __init__(self, step: JudgeRows, job: Job) -> None:
        self.used = Used()
        self.facts: dict[str, Any] = {}
        self._step = step
        self._job = job
        self._model = author_name(step.model)
        self._engine = job.engine(step.model, budget=step.budget)
        self._prompt = Prompt.of(step.prompt, step.default_prompt())

    def scored(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        """The rows with a score by each rubric."""
        step, spool = self._step, Spool(self._job.scratch, Score)
        for view in range(len(step.rubrics())):
            for number, _, verdict in self._verdicts([view], lambda t: Score.read(t, step.scale)):
                score = verdict if isinstance(verdict, Score) else Score(0, verdict)
                spool.add(number, score)
        counts, total, judged = Counter[int](), 0.0, 0
        for number, row in step.numbered():
            given = dict(zip(step.rubrics(), spool.of(number), strict=True))
            problems = [score.reason for score in given.values() if not score.score]
            if problems:
                drops.add(row, "no-score", problems[0])
                continue
            values = {name: score.score for name, score in given.items()}
            reasons = {name: score.reason for name, score in given.items()}
            mean = sum(values.values()) / len(values)
            counts.update(values.values())
            total, judged = total + mean, judged + 1
            columns: tuple[Any, ...] = round(mean, 3), values, reasons
            if isinstance(step.rubric, str):
                columns = values[ONLY], reasons[ONLY]
            made = replace_content(row, {**row, **dict(zip(step.written(), columns, strict=True))})
            origin = self._origin(row, made, {"scores": values, "scale": step.scale})
            origin.checks = [
                CheckResult(check=f"judge.{name}", passed=True, value=value, detail=reasons[name])
                for name, value in values.items()
            ]
            if step.min_score is not None and mean < step.min_score:
                worst = min(given.values(), key=lambda score: score.score)
                low = f"scored {mean:.3g} of {step.scale}, below {step.min_score:g}"
                drops.add(made, "low-score", f"{low}: {worst.reason}", origin)
                continue
            origins.add(origin)
            yield made
        self.facts = {
            "verdicts": judged,
            "mean_score": round(total / judged, 3) if judged else None,
            "scores": {str(score): n for score, n in sorted(counts.items())},
        }

    def compared(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        """The preferences on which the judge agrees in both orders, and what settings keep."""
        step, spool = self._step, Spool(self._job.scratch, Seen)
        for number, order, verdict in self._verdicts(range(len(ORDERS)), Verdict.read):
            spool.add(number, Seen.of(order, verdict))
        counts, positions = Counter[str](), Positions()
        for number, row in step.numbered():
            if is_one_answer(row):
                drops.add(row, "identical", "chosen and rejected are the same")
                continue
            seen = sorted(spool.of(number), key=lambda verdict: verdict.order)
            better, detail = outcome(seen)
            origin = self._origin(row, row, {"orders": seen})
            if better != "no-score":
                positions.add(seen)
                counts[better] += 1
            if better == "no-score" or (better == "undecided" and step.undecided == "drop"):
                drops.add(row, better, detail, origin)
                continue
            if better == "rejected" and step.lost == "drop":
                drops.add(row, "lost", f"the rejected answer is better: {detail}", origin)
                continue
            sides = {}
            if better == "rejected" and step.lost == "swap":
                better = "chosen"
                sides = {"chosen": row["rejected"], "rejected": row["chosen"]}
            verdicts = dict(zip(step.written(), (better, detail), strict=True))
            made = replace_content(row, {**row, **sides, **verdicts})
            origins.add(self._origin(row, made, {"orders": seen}))
            yield made
        if judged := counts.total():
            self._job.log(
                f"both orders agree on {judged - counts['undecided']:,} of {judged:,} pairs: "
                f"chosen is better in {counts['chosen']:,}, rejected in {counts['rejected']:,}"
            )
        self.facts = {
            "verdicts": judged,
            "pairs": {side: counts[side] for side in ("chosen", "rejected", "undecided")},
            "positions": positions.facts(),
        }

    def _verdicts(
        self, views: Sequence[int], read: Callable[[str], V]
    ) -> Iterator[tuple[int, int, V | str]]:
        """(number of the row, view, verdict or why there is none) of all rows, in any order."""
        step = self._step
        for (number, _, view), verdict in readings(
            self._engine,
            self.used,
            ((n, row, view) for n, row in step.numbered() for view in step.views(row, views)),
            lambda item: step.messages(self._prompt, item[1], item[2]),
            read,
            total=sum(len(step.views(row, views)) for _, row in step.numbered()),
            max_tokens=step.max_tokens,
            schema=step.sampling()["schema"],
        ):
            yield number, view, verdict

    def _origin(self, row: Row, made: Row, judge: dict[str, Any]) -> Origin:
        return Origin(
            id=made["id"],
            use=self._step.use,
            prompt=self._step.messages(self._prompt, row, 0),
            parents=made.get("parents", []),
            template=self._prompt.origin,
            judge={"model": self._model, **judge},
        )
