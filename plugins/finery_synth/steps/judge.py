"""`synth.judge`: rows with scores, and preferences that a judge agrees with."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from finery import Budget, DataError, Dataset, Job, Model, OneFile, Step, UsageError, setting, takes
from finery.rows import Conversation, Row
from finery.rows.dropped import Drops
from finery.rows.generated import Checked, Origin, Origins
from finery.rows.parts import OWN_COLUMNS, answer, as_turns, changed, joined, named
from finery_synth.ask import defaults
from finery_synth.ask.asking import Spool, Task
from finery_synth.ask.prompts import Prompt
from finery_synth.checks.checks import Rubric
from finery_synth.generator import PACKAGES
from finery_synth.judge.judging import Judge, Score, no_score, score_messages, score_schema
from finery_synth.judge.pairs import (
    ORDERS,
    VERDICT,
    PairJudge,
    Positions,
    Seen,
    outcome,
    pair_messages,
)

USE = "synth.judge"
ONLY = "score"
"""What a rubric without a name is called."""
MADE_OF = OWN_COLUMNS | {"label", "text"}
"""Columns that rows are made of, which no score may take the place of."""


class JudgeRows(
    Step,
    engines=True,
    sections=("generate",),
    seeded=False,
    packages=PACKAGES,
    version="1",
    keeps_prompts=True,
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
        return defaults.PAIR if self.what == "pairs" else defaults.JUDGE

    def needs_rows(self) -> bool:
        """Whether `requests` can only be told from the rows themselves."""
        return False

    def run(self, job: Job) -> Dataset:
        """Ask the judge, and write the rows with what it says."""
        self.check()
        judging = _Pairs(self, job) if self.what == "pairs" else _Scores(self, job)
        with Drops(job.out) as drops, Origins(job.out) as origins:
            made = Dataset.write(job.out, judging.rows(drops, origins))
        drops.refuse_nothing_left(len(made), "look at the rubric, the prompt and min_score")
        job.log(drops.summary(len(made)))
        made.meta |= {**judging.facts(), **drops.meta()}
        return made

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


class _Given(msgspec.Struct):
    """What a judge gave a row, or the problem."""

    score: int = 0
    reason: str = ""
    problem: str = ""


class _Scores:
    """Scores of answers."""

    def __init__(self, step: JudgeRows, job: Job) -> None:
        self._step = step
        self._columns = step.written()
        self._counts: Counter[int] = Counter()
        self._sum, self._scored = 0.0, 0
        self._judges = {
            name: Judge(job, step.model, self._rubric(text), step.budget)
            for name, text in step.rubrics().items()
        }
        self._given = {name: Spool(job.scratch, _Given) for name in self._judges}

    def _rubric(self, text: str) -> Rubric:
        step = self._step
        return Rubric(
            rubric=text, min=1, scale=step.scale, max_tokens=step.max_tokens, prompt=step.prompt
        )

    def rows(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        """The rows with their scores."""
        for name, judge in self._judges.items():
            for number, found in judge.scores(self._step.numbered(), self._step.seed_count()):
                self._given[name].add(number, _given(found))
        for number, row in self._step.numbered():
            given = {name: spool.of(number)[0] for name, spool in self._given.items()}
            problems = [one.problem for one in given.values() if one.problem]
            if problems:
                drops.add(row, "no-score", problems[0])
                continue
            made, score = self._scored_row(row, given)
            if self._step.min_score is not None and score < self._step.min_score:
                detail = _low(score, self._step, given)
                drops.add(made, "low-score", detail, self._origin(row, made, given))
                continue
            origins.add(self._origin(row, made, given))
            yield made

    def _scored_row(self, row: Row, given: dict[str, _Given]) -> tuple[Row, float]:
        values = {name: one.score for name, one in given.items()}
        mean = sum(values.values()) / len(values)
        self._counts.update(values.values())
        self._sum, self._scored = self._sum + mean, self._scored + 1
        told: tuple[Any, ...]
        if isinstance(self._step.rubric, str):
            (one,) = given.values()
            told = one.score, one.reason
        else:
            told = round(mean, 3), values, {name: one.reason for name, one in given.items()}
        return changed(row, {**row, **dict(zip(self._columns, told, strict=True))}), mean

    def _origin(self, row: Row, made: Row, given: dict[str, _Given]) -> Origin:
        first = next(iter(self._judges.values()))
        scores = {name: one.score for name, one in given.items()}
        return Origin(
            id=made["id"],
            use=USE,
            prompt=first.messages(row),
            parents=made.get("parents", []),
            template=first.template,
            checks=[
                Checked(check=f"judge.{name}", passed=True, value=one.score, detail=one.reason)
                for name, one in given.items()
            ],
            judge={"model": first.model, "scores": scores, "scale": self._step.scale},
        )

    def facts(self) -> dict[str, Any]:
        """How many scores of each kind were given, and their mean."""
        mean = round(self._sum / self._scored, 3) if self._scored else None
        counts = {str(score): n for score, n in sorted(self._counts.items())}
        answers = [judge.used.meta() for judge in self._judges.values()]
        return {
            "verdicts": self._scored,
            "mean_score": mean,
            "scores": counts,
            "answers": {name: sum(one[name] for one in answers) for name in answers[0]},
        }


def _given(found: Any) -> _Given:
    if isinstance(found, Score):
        return _Given(found.score, found.reason)
    return _Given(problem=no_score(found))


def _low(score: float, step: JudgeRows, given: dict[str, _Given]) -> str:
    worst = min(given.values(), key=lambda one: one.score)
    return f"scored {score:.3g} of {step.scale}, below {step.min_score:g}: {worst.reason}"


class _Pairs:
    """Verdicts on preferences."""

    def __init__(self, step: JudgeRows, job: Job) -> None:
        assert isinstance(step.rubric, str)
        self._step = step
        self._job = job
        self._columns = step.written()
        self._counts: Counter[str] = Counter()
        self._positions = Positions()
        self._judge = PairJudge(
            job, step.model, step.rubric, prompt=step.prompt, max_tokens=step.max_tokens,
            budget=step.budget,
        )  # fmt: skip
        self._seen = Spool(job.scratch, Seen)

    def rows(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        """The pairs that count, with what was said of them."""
        total = sum(not is_one_answer(row) for _, row in self._step.numbered())
        asked = ((n, row) for n, row in self._step.numbered() if not is_one_answer(row))
        for number, seen in self._judge.seen(asked, total):
            self._seen.add(number, seen)
        for number, row in self._step.numbered():
            made = self._judged(number, row, drops)
            if made is not None:
                origins.add(self._origin(row, made, self._both(number)))
                yield made

    def _both(self, number: int) -> list[Seen]:
        """What came of a pair in each order, whichever was answered first."""
        return sorted(self._seen.of(number), key=lambda seen: seen.order)

    def _judged(self, number: int, row: Row, drops: Drops) -> Row | None:
        """The row with its verdict, None where it was dropped."""
        if is_one_answer(row):
            drops.add(row, "identical", "chosen and rejected say the same")
            return None
        seen = self._both(number)
        told = self._origin(row, row, seen)
        better, detail = outcome(seen)
        if better == "no-score":
            drops.add(row, better, detail, told)
            return None
        self._positions.add(seen)
        self._counts[better] += 1
        if better == "undecided" and self._step.undecided == "drop":
            drops.add(row, better, detail, told)
            return None
        if better == "rejected" and self._step.lost == "drop":
            drops.add(row, "lost", f"the rejected answer is better: {detail}", told)
            return None
        swapped = {"chosen": row["rejected"], "rejected": row["chosen"]}
        sides = swapped if better == "rejected" and self._step.lost == "swap" else {}
        says = "chosen" if sides else better
        verdict = dict(zip(self._columns, (says, detail), strict=True))
        return changed(row, {**row, **sides, **verdict})

    def _origin(self, row: Row, made: Row, seen: list[Seen]) -> Origin:
        return Origin(
            id=made["id"],
            use=USE,
            prompt=self._judge.messages(row, 0),
            parents=made.get("parents", []),
            template=self._judge.template,
            judge={"model": self._judge.model, "orders": seen},
        )

    def facts(self) -> dict[str, Any]:
        """How many pairs each side won, and how far the judge favours a position."""
        judged = self._counts.total()
        decided = judged - self._counts["undecided"]
        if judged:
            self._job.log(
                f"both orders agree on {decided:,} of {judged:,} pairs: chosen is better in "
                f"{self._counts['chosen']:,}, rejected in {self._counts['rejected']:,}"
            )
        return {
            "verdicts": judged,
            "pairs": {name: self._counts[name] for name in ("chosen", "rejected", "undecided")},
            "positions": self._positions.facts(),
            "answers": self._judge.used.meta(),
        }


def is_one_answer(row: Row) -> bool:
    """Whether both answers of a preference say the same."""
    chosen, rejected = (joined(as_turns(row[side])) for side in ("chosen", "rejected"))
    return chosen.strip() == rejected.strip()
