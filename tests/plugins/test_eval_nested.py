"""An evaluator inside another step: what it can't be, and what it does before models answer."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from callers import caller, job

from finery import DataError, Dataset, Index, Model, Step, UsageError
from finery.testing import dataset, examine
from finery_eval.evaluator import Judge
from finery_eval.functions import Execute
from finery_eval.nested import Nested
from finery_eval.steps.curve import Curve
from finery_eval.steps.dialog import Dialog
from finery_eval.steps.exact import Exact
from finery_eval.steps.preference import Preference
from finery_eval.steps.rules import Rule, Rules
from finery_eval.steps.structured import Json
from finery_eval.steps.tools import ToolCalls
from finery_judge.arena import Arena
from finery_retrieve.evaluate.grounded import Grounded
from finery_serve.check.step import Check

CRITIC = Model.placeholder("critic")


def inner(cls: type[Any], **settings: Any) -> Step:
    """A step with the placeholders that it has in a recipe."""
    given = {"models": [Model.placeholder("models")], "rows": Dataset.placeholder("rows")}
    step: Step = cls(**given, **settings)
    return step


OUTER: dict[str, Callable[[Step], Judge]] = {
    "eval.curve": lambda step: Curve(each=step, **given()),
    "eval.dialog": lambda step: Dialog(each=step, **given()),
    "serve.check": lambda step: Check(judge=step, **given()),
    "eval.grounded": lambda step: Grounded(judge=step, index=Index.placeholder("index"), **given()),
}
SETTING = {"eval.curve": "each", "eval.dialog": "each"}
"""The setting that holds the evaluator, where it isn't `judge`."""


def given() -> dict[str, Any]:
    """Two models and rows."""
    models = [Model.placeholder(name) for name in ("half", "sft")]
    return {"models": models, "rows": Dataset.placeholder("r")}


def refused(use: str, step: Step) -> tuple[str, str]:
    """(what is wrong, the setting without the name of the one that holds the evaluator)."""
    with pytest.raises(UsageError) as caught:
        OUTER[use](step).check()
    assert caught.value.fix
    where = re.fullmatch(rf"{SETTING.get(use, 'judge')}\.?(.*)", caught.value.where or "")
    assert where, caught.value.where
    return caught.value.what, where[1]


BAD: list[tuple[Step, str, str]] = [
    (inner(ToolCalls, execute=Execute(factory="m:F")), "`execute` can't be used", "execute"),
    (inner(Arena, judge=CRITIC, rubric="Is it good?"), "doesn't judge answers one by one", ""),
    (inner(Preference), "doesn't judge answers one by one", ""),
    (inner(Exact, require={"sft.accuracy": "> 0.5"}), "can't have `require`", "require"),
    (inner(Exact, extract="a+"), "must have one group", "extract: a+"),
]


@pytest.mark.parametrize("use", OUTER)
@pytest.mark.parametrize(("step", "what", "where"), BAD, ids=lambda value: type(value).__name__)
def test_evaluators_that_cant_be_inside(use: str, step: Step, what: str, where: str) -> None:
    wrong, place = refused(use, step)
    assert what in wrong
    assert place == where


@pytest.mark.parametrize("use", OUTER)
def test_evaluators_that_fit(use: str) -> None:
    OUTER[use](inner(ToolCalls, free=["book.note"])).check()
    OUTER[use](inner(Rules, rules={"brief": Rule(max_words=9)})).check()


@pytest.mark.parametrize(
    ("use", "name"), [("eval.dialog", "whole"), ("serve.check", "lost"), ("eval.grounded", "cited")]
)
def test_metrics_of_both_are_refused(use: str, name: str) -> None:
    wrong, place = refused(use, inner(Rules, rules={name: Rule(never="!")}))
    assert f"has a metric named '{name}', as this step has" in wrong
    assert place == ""


# -- before the first answer ---------------------------------------------------------------------


def trained(asked: list[str]) -> list[Model]:
    """Two trainings that repeat the last turn; asked: what they were asked."""

    def answer(messages: Any, tools: Any) -> str:
        asked.append(str(messages[-1]["content"]))
        return asked[-1]

    models = [caller(name, answer) for name in ("half", "sft")]
    for size, model in enumerate(models, 1):
        model.meta["rows"] = 100 * size
    return models


@pytest.mark.parametrize("cls", [Curve, Dialog])
def test_an_unknown_slice_is_an_error_before_any_answer(cls: type[Any], tmp_path: Path) -> None:
    asked: list[str] = []
    table = dataset(tmp_path / "rows", [{"prompt": "a", "completion": "a", "source": "mail"}])
    each = inner(Exact, slices=["sauce"])
    step = cls(models=trained(asked), rows=table, each=each)
    for use in (lambda: step.run(job(tmp_path / "job")), lambda: examine(step, tmp_path / "job")):
        with pytest.raises(DataError, match="no row has the column or field 'sauce'") as caught:
            use()
        assert caught.value.where == "each.slices"
    with pytest.raises(DataError, match="no row has the column or field 'sauce'") as caught:
        examine(step.each, rows={"rows": [{"messages": [], "source": ""}]})
    assert caught.value.where == "slices"
    assert asked == []


def test_a_curve_is_sliced_by_fields_of_the_answers(tmp_path: Path) -> None:
    lines = [{"prompt": text, "completion": text} for text in ('{"k": "a"}', '{"k": "b"}')]
    table = dataset(tmp_path / "rows", lines)
    step = Curve(models=trained([]), rows=table, each=inner(Json, slices=["k"]))
    examine(step, tmp_path / "check")
    report = step.run(job(tmp_path / "job")).report().data()
    assert list(report["details"]["slices"]["k"]) == ["a", "b"]


def test_the_evaluator_of_the_recipe_stays_as_it_is() -> None:
    step = OUTER["eval.curve"](inner(Exact))
    nested = Nested.required(step, "each")
    assert nested.evaluator.models == step.models
    assert nested.evaluator.rows is step.rows
    assert [model.name for model in step.each.models] == ["models"]  # type: ignore[attr-defined]
