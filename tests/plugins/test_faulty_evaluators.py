"""Evaluators of others that break their contract end in words that name them."""

import json

import pytest
from conftest import MakeProject, Project

HEAD = """
import math
from finery import *
from finery import hookimpl
from finery_eval.evaluator import BatchEvaluator, Evaluator
from finery_eval.verdicts import Verdict

class M(Step):
    "A model."

    def run(self, job) -> Model:
        return Model(job.out, meta={"format": "shop"})

class Shop(Engine):
    "Echo."

    def generate(self, requests, sampling):
        return [Completion(text="a", finish_reason="stop", prompt_tokens=1, completion_tokens=1)]

@hookimpl
def finery_engines():
    return {"shop": Shop}

@hookimpl
def finery_steps():
    return {"shop.m": M, "shop.eval": E}
"""
RECIPE = """
finery: 1
name: t
plugins: [./shop.py]
models:
  m: {use: shop.m}
data:
  a: {use: data.file, path: rows.jsonl}
evaluate:
  e: {use: shop.eval, models: [m], rows: a}
"""
ROWS = "".join(json.dumps({"prompt": f"p{n}", "completion": "a"}) + "\n" for n in range(12))
SCORED = """
def f1(counts):
    BODY

class E(Evaluator):
    "An evaluator."

    def metric_names(self): return ["accuracy", "f1"]
    def unbounded(self): return {}
    def statistics(self): return {"f1": f1}
    def judge(self, row, answer): return {"accuracy": True, "f1": 1}
"""
BATCH = """
class E(BatchEvaluator):
    "An evaluator."

    def judging(self, job, rows):
        def judge(answers):
            verdicts = [Verdict({"accuracy": VALUE})] * len(rows)
            return self.verdicts(answers, {name: verdicts for name in answers})
        return judge
"""


@pytest.fixture
def t(project: MakeProject) -> Project:
    return project({"recipe.yaml": RECIPE, "rows.jsonl": ROWS})


def refused(t: Project, code: str, text: str, *, command: str, exit_code: int) -> None:
    """The command ends with an error in words, and a recipe without the evaluator builds."""
    t.write({"shop.py": HEAD + code})
    ran = t.run(command)
    assert (ran.code, "Traceback" in ran.err) == (exit_code, False), ran.err
    assert text in ran.err
    assert "finery_eval/" not in ran.err, "it shows finery's own lines"
    t.edit("recipe.yaml", "evaluate:\n  e: {use: shop.eval, models: [m], rows: a}\n", "")
    assert t.run("build").code == 0


@pytest.mark.parametrize(("body", "text"), [
    ("return 7.0", "the statistic `f1` returned 7.0, which isn't from 0 to 1"),
    ("return math.nan", "the statistic `f1` returned nan, which isn't from 0 to 1"),
    ("1 / 0", "the statistic `f1` failed: ZeroDivisionError"),
    ("pass", "the statistic `f1` failed: TypeError"),
])  # fmt: skip
def test_a_statistic_is_checked_as_values_are(t: Project, body: str, text: str) -> None:
    refused(t, SCORED.replace("BODY", body), text, command="build", exit_code=1)


@pytest.mark.parametrize(("before", "after", "text"), [
    ('{"f1": f1}', '{"f2": f1}', "`statistics` of shop.eval names the metric 'f2', which"),
    ('{"f1": f1}', '{"f1": 3}', "`statistics` of shop.eval returns {'f1': 3}"),
    ("return {}", 'return ["f1"]', "`unbounded` of shop.eval returns ['f1']"),
    ("return {}", 'return {"f3": "lower"}', "`unbounded` of shop.eval names the metric 'f3'"),
    ('return ["accuracy", "f1"]', "pass", "`metric_names` of shop.eval returns None"),
    ('return ["accuracy", "f1"]', "1 / 0", "`outputs` of shop.eval failed: ZeroDivisionError"),
])  # fmt: skip
def test_declared_metrics_are_checked(t: Project, before: str, after: str, text: str) -> None:
    code = SCORED.replace("BODY", "return 1.0").replace(before, after)
    refused(t, code, text, command="check", exit_code=2)


def test_a_value_that_cannot_be_counted_is_refused(t: Project) -> None:
    code = SCORED.replace("BODY", "return 1.0").replace('"f1": 1}', '"f1": {"a": 1}}')
    refused(t, code, "`judge` returns {'a': 1} as 'f1', which", command="build", exit_code=1)


@pytest.mark.parametrize(("before", "after", "text"), [
    ("        return judge\n", "", "E.judging: error: `judging` returns None, which can't"),
    ("            return self", "            self", "what `judging` returned gives None"),
    ("* len(rows)", "* 3", "what `judging` returned gives 3 verdicts for 12 answers"),
    ("Verdict({", "dict({", "`judging` gives {'accuracy': True} as the verdict on an answer"),
    ("True", "7.0", "`judging` returns 7.0 as 'accuracy', which is not from 0 to 1"),
])  # fmt: skip
def test_verdicts_are_checked(t: Project, before: str, after: str, text: str) -> None:
    code = BATCH.replace("VALUE", "True")
    assert before in code
    refused(t, code.replace(before, after), text, command="build", exit_code=1)
