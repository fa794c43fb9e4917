"""The evaluator inside another step, e.g. the one in `each` of `eval.dialog`.

The outer step has models answer, and the evaluator only judges: its `run` isn't called. Input: the
outer step and the setting with the evaluator. Output: errors that name this setting, and what
judges the answers.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, NamedTuple

import msgspec

from finery import FineryError, Job, Settings, Step, UsageError, nested_step, outside_key
from finery.rows import Row
from finery_eval.evaluation import Unjudged
from finery_eval.evaluator import BatchEvaluator, Judge, judge_of
from finery_eval.verdicts import Answers, Judging, Verdicts

GIVEN = ("models", "rows")
"""Settings that the evaluator shares with the outer step. Errors name those of the outer step."""
ASKING = ("max_tokens", "temperature")
"""Settings of how an evaluator asks models."""


class Nested(NamedTuple):
    """An evaluator, and the setting of another step that it is in."""

    evaluator: BatchEvaluator
    setting: str

    @classmethod
    def of(cls, outer: Any, setting: str, rows: str = "rows") -> "Nested | None":
        """A copy of the evaluator in a setting, with the models and rows of the outer step.

        rows: the setting of the outer step with the rows. None if the setting is empty. Raises
        `UsageError` for a step type that doesn't judge answers one by one.
        """
        step: Step | None = getattr(outer, setting)
        if step is None:
            return None
        if not isinstance(step, BatchEvaluator) or type(step).judging is BatchEvaluator.judging:
            raise UsageError(
                "this step type doesn't judge answers one by one",
                where=setting,
                fix=f"use one that does, e.g. {setting}: {{use: eval.exact}}",
            )
        evaluator = copy(step)
        evaluator.models, evaluator.rows = outer.models, getattr(outer, rows)
        return cls(evaluator, setting)

    @classmethod
    def required(cls, outer: Judge, setting: str) -> "Nested":
        """As `of`. Raises `UsageError` if the setting is empty, too."""
        nested = cls.of(outer, setting)
        if nested is None:
            raise UsageError(
                f"`{setting}` is missing: the evaluator that judges the answers",
                where=setting,
                fix=f"{setting}: {{use: eval.exact}}",
            )
        return nested

    @outside_key
    def check(
        self, *, slices: bool = True, asks: bool = False, taken: Collection[str] = ()
    ) -> None:
        """Raise `UsageError` for settings that can't work inside the outer step. Light.

        slices: whether the outer step breaks scores down. asks: whether it asks models as the
        evaluator's settings say. taken: metrics of its own.
        """
        evaluator, setting = self
        if evaluator.require:
            raise UsageError(
                f"the evaluator in `{setting}` can't have `require`",
                where=f"{setting}.require",
                fix="remove it; a step of the section evaluate can have it",
            )
        if evaluator.slices and not slices:
            raise UsageError(
                "this step doesn't break scores down",
                where=f"{setting}.slices",
                fix="remove it, or set it in a separate evaluator",
            )
        for field in () if asks else msgspec.structs.fields(type(evaluator)):
            if field.name in ASKING and getattr(evaluator, field.name) != field.default:
                raise UsageError(
                    f"the evaluator in `{setting}` asks no model, so `{field.name}` has no effect",
                    where=f"{setting}.{field.name}",
                    fix="remove it; the step around it decides how long answers are",
                )
        with self._placed():
            evaluator.check_nested()
            evaluator.check()
        both = [name for name in evaluator.metric_names() if name in taken]
        if both:
            raise UsageError(
                f"the evaluator in `{setting}` has a metric named '{both[0]}', as this step has",
                where=setting,
                fix="rename it",
            )

    def judging(
        self, job: Job, rows: Sequence[Row], unjudged: Sequence[Unjudged] | None = None
    ) -> Judging:
        """What judges the models' answers to the rows, see `judge_of`."""
        with self._placed():
            judge = judge_of(self.evaluator, job, rows, unjudged=unjudged)

        def judge_placed(answers: Answers) -> Verdicts:
            with self._placed():
                return judge(answers)

        return judge_placed

    @contextmanager
    def _placed(self) -> Iterator[None]:
        """Errors in settings of the evaluator name them as settings inside the outer step."""
        try:
            yield
        except FineryError as error:
            if error.where is not None and self._is_setting(error.where):
                error.where = f"{self.setting}.{error.where}"
            raise

    def _is_setting(self, where: str) -> bool:
        """Whether this names a setting of the evaluator, and not e.g. a line of a file."""
        first, *remaining = where.partition(":")[0].split(".")
        if first in GIVEN or first not in type(self.evaluator).__struct_fields__:
            return False
        return not remaining or isinstance(getattr(self.evaluator, first), Settings | dict)


class JudgeEach(Judge):
    """Have the evaluator in `each` judge the answers."""

    each: Step | None = nested_step(
        "evaluate",
        given={"models": "models", "rows": "rows"},
        help="The evaluator that judges each answer, e.g. `{use: eval.exact}`. Its models and rows "
        "are those of this step.",
    )

    def more_metrics(self) -> str:
        """How to add further metrics, as part of the fix for an unknown one; empty by default."""
        return self.inner().evaluator.more_metrics()

    def inner(self) -> Nested:
        """The evaluator. Raises `UsageError` if there is none, or none that fits."""
        return Nested.required(self, "each")
