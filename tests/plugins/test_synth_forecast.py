"""What `finery plan` says of generators before anything is asked."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import MakeProject, Project
from hostile_server import Reply, Server, said, serving
from needs import need

need("openai")

RECIPE = """
finery: 1
name: t
models:
  teacher:
    use: openai.model
    model: m
    base_url: "%(url)s"
    api_key: null
    price: {input: 1, output: 100}
  brief: {use: prompt.model, model: teacher, system: Be brief.}
data:
  rows: {use: data.file, path: rows.jsonl}
generate:
  answers: {use: synth.answer, rows: rows, model: brief, max_tokens: 50, retries: 0}
  examples: {use: synth.instruct, rows: rows, model: teacher, by: label, n: 12, checks:
    {judge: {rubric: Good?}}, judge: teacher}
"""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(lambda body: Reply(f"re: {said(body)}", usage=(20, 10))) as running:
        yield running


@pytest.fixture
def planned(project: MakeProject, server: Server) -> Project:
    return project({"recipe.yaml": RECIPE % {"url": server.url}, "rows.jsonl": lines(40)})


def lines(count: int) -> str:
    rows = [
        {"prompt": f"question {i}", "completion": f"answer {i}", "label": f"label {i % 4}"}
        for i in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def estimates(made: Project, *args: str) -> dict[str, Any]:
    steps = [json.loads(line) for line in made.run("plan", "--json", *args).out.splitlines()]
    return {step["step"]: step["estimate"] for step in steps if "step" in step}


def test_calls_tokens_and_cost_are_known_before(planned: Project, server: Server) -> None:
    found = estimates(planned)
    assert found["answers"]["calls"] == 40
    assert found["answers"]["completion_tokens_at_most"] == 2000
    assert found["examples"]["calls"] is None  # the classes aren't known
    planned.run("build", "--step", "rows", "--step", "brief")
    found = estimates(planned)
    assert found["examples"]["calls"] == 4 * 3
    assert found["answers"]["dollars_at_most"] == pytest.approx(
        (found["answers"]["prompt_tokens"] + 100 * 2000) / 1e6, rel=1e-3
    )
    assert found["answers"]["dollars_likely"] is None
    assert server.calls == []


def test_what_was_answered_before_costs_nothing(planned: Project, server: Server) -> None:
    planned.ran("--step", "answers")
    planned.write({"rows.jsonl": lines(50)})
    planned.ran("--step", "rows")
    found = estimates(planned)["answers"]
    assert (found["requests"], found["answered_before"], found["calls"]) == (50, 40, 10)
    assert found["completion_tokens_likely"] == 100
    assert found["dollars_likely"] < found["dollars_at_most"]
    text = planned.run("plan").out
    assert "calls: 10 (40 of 50 requests were answered before)" in text
    assert "likely 100 as in earlier builds" in text
    planned.ran("--step", "answers")
    assert len(server.calls) == 50  # as planned


def test_a_budget_that_ends_it_is_told(planned: Project, server: Server) -> None:
    planned.ran("--step", "answers")
    more = ("--set", "generate.answers.n=3", "--set", "generate.answers.budget.tokens=300")
    found = estimates(planned, *more)["answers"]
    assert found["calls"] == 80
    assert "the budget (300 tokens) is enough for about" in found["warning"]
    assert "answers so far are kept" in found["fix"]


def test_a_broken_template_is_told_by_the_plan(planned: Project) -> None:
    planned.write({"own.jinja": "{{ usr }}"})
    planned.run("build", "--step", "rows")
    ran = planned.run("plan", "--set", "generate.answers.prompt=own.jinja")
    assert ran.code == 0
    assert "'usr' is undefined" in ran.out
    assert "did you mean 'user'?" in ran.out
