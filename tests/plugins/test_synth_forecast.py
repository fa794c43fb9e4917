"""What `finery plan` says of generators before anything is asked."""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import MakeProject, Project
from hostile_server import Reply, Server, said, serving

pytest.importorskip("openai", reason="needs the package openai")

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


def test_the_judge_has_its_own_line(planned: Project, server: Server) -> None:
    assert estimates(planned)["examples"]["judge"]["calls"] is None
    planned.run("build", "--step", "rows", "--step", "brief")
    judge = estimates(planned)["examples"]["judge"]
    assert judge["calls"] == 48
    assert judge["completion_tokens_at_most"] == 48 * 256
    assert judge["prompt_tokens"] > 48 * 50  # our template around each row
    assert judge["dollars_at_most"] == pytest.approx(
        (judge["prompt_tokens"] + 100 * 48 * 256) / 1e6, rel=1e-3
    )
    assert judge["completion_tokens_likely"] is None
    text = " ".join(planned.run("plan").out.split())
    assert "judge: up to 48 calls; tokens: about" in text
    assert "cost: at most $1.2" in text
    assert server.calls == []


def test_the_judge_is_estimated_as_in_earlier_builds(planned: Project, server: Server) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        name = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
        if "score" in str(name):
            return Reply('{"reason": "good", "score": 5}', usage=(70, 8))
        return Reply(f"re: {said(body)}", usage=(20, 10))

    server.answer = answer
    planned.edit(
        "recipe.yaml",
        "max_tokens: 50, retries: 0}",
        "max_tokens: 50, retries: 0, judge: teacher,\n    checks: {judge: {rubric: Good?}}}",
    )
    planned.ran("--step", "answers")
    planned.write({"rows.jsonl": lines(50)})
    planned.ran("--step", "rows")
    judge = estimates(planned)["answers"]["judge"]
    assert (judge["calls"], judge["prompt_tokens"]) == (50, 50 * 70)
    assert judge["completion_tokens_likely"] == 50 * 8


def test_a_budget_that_ends_it_is_told(planned: Project, server: Server) -> None:
    planned.ran("--step", "answers")
    more = ("--set", "generate.answers.n=3", "--set", "generate.answers.budget.tokens=300")
    found = estimates(planned, *more)["answers"]
    assert found["calls"] == 80
    assert "the budget (300 tokens) is enough for about" in found["warning"]
    assert "answers so far are kept" in found["fix"]


def test_prompts_and_the_judge_count_against_a_budget(planned: Project, server: Server) -> None:
    planned.edit("recipe.yaml", "retries: 0}", "retries: 0, budget: {tokens: 1500}}")
    planned.run("build", "--step", "rows", "--step", "brief")
    found = estimates(planned)["answers"]
    assert found["prompt_tokens"] < 1500 < found["prompt_tokens"] + 40 * 50
    assert found["warning"] == ""  # how long answers are isn't known
    limit = found["prompt_tokens"] // 2
    few = ("--set", f"generate.answers.budget.tokens={limit}")
    assert "for about 20 of 40 calls" in estimates(planned, *few)["answers"]["warning"]
    planned.edit(
        "recipe.yaml", "budget: {", "judge: teacher, checks: {judge: {rubric: Good?}}, budget: {"
    )
    found = estimates(planned)["answers"]
    needed = found["prompt_tokens"] + found["judge"]["prompt_tokens"]
    calls = round(80 * 1500 / needed)
    assert f"for about {calls} of 80 calls, including the judge's" in found["warning"]
    few = ("--set", "generate.answers.budget={dollars: 0.001}")
    calls = round(80 * 0.001 / (needed / 1e6))
    assert f"for about {calls} of 80 calls" in estimates(planned, *few)["answers"]["warning"]


def test_the_plan_is_no_wider_than_the_terminal(planned: Project) -> None:
    planned.run("build", "--step", "rows", "--step", "brief")
    planned.env |= {"COLUMNS": "60", "TERM": "xterm"}
    ours, theirs = os.openpty()
    with planned.start(
        "plan", "--set", "generate.examples.budget.tokens=300", stdout=theirs
    ) as ran:
        ran.communicate(timeout=60)
    text = os.read(ours, 100_000).decode().replace("\r", "")
    os.close(ours)
    os.close(theirs)
    lines = re.sub(r"\x1b\[\d*m", "", text).splitlines()
    assert max(map(len, lines)) <= 60
    (start,) = (i for i, line in enumerate(lines) if "judge: up to" in line)
    assert lines[start + 1].startswith(" " * 11)
    assert "warning: the budget (300 tokens) is enough for" in " ".join(" ".join(lines).split())


def test_a_model_without_a_price(planned: Project) -> None:
    planned.edit("recipe.yaml", "    price: {input: 1, output: 100}\n", "")
    planned.run("build", "--step", "rows")
    ran = planned.run("plan")
    assert "cost: unknown, since the model has no `price`" in ran.out
    assert estimates(planned)["answers"]["dollars_at_most"] is None


def test_a_broken_template_is_told_by_the_plan(planned: Project) -> None:
    planned.write({"own.jinja": "{{ usr }}"})
    planned.run("build", "--step", "rows")
    ran = planned.run("plan", "--set", "generate.answers.prompt=own.jinja")
    assert ran.code == 0
    assert "'usr' is undefined" in ran.out
    assert "did you mean 'user'?" in ran.out
