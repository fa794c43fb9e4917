"""One run of `synth.judge` on answers: scores by one rubric or several."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from finery import FineryError, Job
from finery.rows import Row
from finery.rows.dropped import Drops
from finery.rows.generated import Checked, Origin, Origins
from finery.rows.parts import changed
from finery_synth.ask.spool import Spool
from finery_synth.checks.rubric import Rubric
from finery_synth.judge.scores import Judge, Score, Unreadable, no_score

if TYPE_CHECKING:
    from finery_synth.steps.judge import JudgeRows


class RubricScore(msgspec.Struct):
    """A row's score by one rubric, or the reason why there is none."""

    score: int = 0
    reason: str = ""
    problem: str = ""


class Scoring:
    """One run of `synth.judge` on answers."""

    def __init__(self, step: "JudgeRows", job: Job) -> None:
        self._step = step
        self._columns = step.written()
        self._counts: Counter[int] = Counter()
        self._sum, self._scored = 0.0, 0
        self._judges = {
            name: Judge(job, step.model, self._rubric(text), step.budget)
            for name, text in step.rubrics().items()
        }
        self._spools = {name: Spool(job.scratch, RubricScore) for name in self._judges}

    def _rubric(self, text: str) -> Rubric:
        step = self._step
        return Rubric(
            rubric=text, min=1, scale=step.scale, max_tokens=step.max_tokens, prompt=step.prompt
        )

    def rows(self, drops: Drops, origins: Origins) -> Iterator[Row]:
        """The rows with their scores."""
        for name, judge in self._judges.items():
            for number, score in judge.scores(self._step.numbered(), self._step.seed_count()):
                self._spools[name].add(number, _rubric_score(score))
        for number, row in self._step.numbered():
            scores = {name: spool.of(number)[0] for name, spool in self._spools.items()}
            problems = [one.problem for one in scores.values() if one.problem]
            if problems:
                drops.add(row, "no-score", problems[0])
                continue
            scored, mean = self._scored_row(row, scores)
            if self._step.min_score is not None and mean < self._step.min_score:
                detail = _low(mean, self._step, scores)
                drops.add(scored, "low-score", detail, self._origin(row, scored, scores))
                continue
            origins.add(self._origin(row, scored, scores))
            yield scored

    def _scored_row(self, row: Row, scores: dict[str, RubricScore]) -> tuple[Row, float]:
        values = {name: one.score for name, one in scores.items()}
        mean = sum(values.values()) / len(values)
        self._counts.update(values.values())
        self._sum, self._scored = self._sum + mean, self._scored + 1
        columns: tuple[Any, ...]
        if isinstance(self._step.rubric, str):
            (one,) = scores.values()
            columns = one.score, one.reason
        else:
            columns = round(mean, 3), values, {name: one.reason for name, one in scores.items()}
        return changed(row, {**row, **dict(zip(self._columns, columns, strict=True))}), mean

    def _origin(self, row: Row, scored: Row, scores: dict[str, RubricScore]) -> Origin:
        first = next(iter(self._judges.values()))
        values = {name: one.score for name, one in scores.items()}
        return Origin(
            id=scored["id"],
            use=self._step.USE,
            prompt=first.messages(row),
            parents=scored.get("parents", []),
            template=first.template,
            checks=[
                Checked(check=f"judge.{name}", passed=True, value=one.score, detail=one.reason)
                for name, one in scores.items()
            ],
            judge={"model": first.model, "scores": values, "scale": self._step.scale},
        )

    def facts(self) -> dict[str, Any]:
        """The number of each score, and the mean."""
        mean = round(self._sum / self._scored, 3) if self._scored else None
        counts = {str(score): n for score, n in sorted(self._counts.items())}
        answers = [judge.used.meta() for judge in self._judges.values()]
        return {
            "verdicts": self._scored,
            "mean_score": mean,
            "scores": counts,
            "answers": {name: sum(one[name] for one in answers) for name in answers[0]},
        }


def _rubric_score(score: Score | FineryError | Unreadable) -> RubricScore:
    if isinstance(score, Score):
        return RubricScore(score.score, score.reason)
    return RubricScore(problem=no_score(score))


def _low(mean: float, step: "JudgeRows", scores: dict[str, RubricScore]) -> str:
    worst = min(scores.values(), key=lambda one: one.score)
    return f"scored {mean:.3g} of {step.scale}, below {step.min_score:g}: {worst.reason}"
