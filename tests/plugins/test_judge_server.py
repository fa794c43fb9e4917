"""A recipe whose judge is a model behind an API: constrained, cached, and noted if it is judged."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from generating import Here
from hostile_server import Body, Server, said, serving
from in_process import InProcess
from needs import need

from finery import Note
from finery.builder.checks import estimates_of, notes_on, results_of
from finery.builder.plan import Planner, make_plan
from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build

need("openai")

RECIPE = """
finery: 1
name: t
models:
  base: {use: openai.model, model: m, base_url: "%(small)s", api_key: null, timeout: 5}
  prompted: {use: prompt.model, model: base, system: Be polite.}
  critic: {use: openai.model, model: m, base_url: "%(large)s", api_key: null, timeout: 5}
data:
  rows: {use: data.file, path: rows.jsonl, prompts_only: true}
evaluate:
  judged:
    use: eval.judge
    models: [base, prompted]
    rows: rows
    judge: critic
    rubric: Is it polite?
    passing: 4
  arena: {use: eval.arena, models: [base, prompted], rows: rows, judge: critic, rubric: Politer?}
"""


def answer(body: Body) -> str:
    """Polite with a system prompt."""
    return "please" if body["messages"][0]["role"] == "system" else "no"


def verdict(body: Body) -> str:
    """Verdicts for politeness."""
    text = said(body)
    if "Answer B" in text:
        a = text.partition("Answer A:")[2].partition("Answer B:")[0]
        return json.dumps({"reason": "politer", "better": "A" if "please" in a else "B"})
    return json.dumps({"reason": "so", "score": 5 if "please" in text else 1})


@pytest.fixture(scope="module")
def judge() -> Iterator[Server]:
    with serving(verdict) as running:
        yield running


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, judge: Server) -> Iterator[Here]:
    project = Here(tmp_path_factory.mktemp("judged"))
    rows = "".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(4))
    with serving(answer) as small:
        recipe = RECIPE % {"small": small.url, "large": judge.url}
        project.write({"recipe.yaml": recipe, ".git/x": "", "rows.jsonl": rows})
        yield project


def planned(made: Here, *overrides: str) -> dict[str, Any]:
    """Step → its estimate."""
    graph = open_graph(made.folder / "recipe.yaml", overrides)
    planner = Planner(graph, open_store(made.folder / "recipe.yaml"))
    results = results_of(planner, list(make_plan(planner)))
    return estimates_of(graph, results, ["judged", "arena"])


def test_the_judges_requests_are_planned(made: Here, judge: Server) -> None:
    """The most there can be, with prompts as long as with the rows' own answers."""
    recipe, asked = made.folder / "recipe.yaml", len(judge.calls)
    made.write({"unbuilt/recipe.yaml": recipe.read_text(), "unbuilt/.git/x": ""})
    shutil.copy(made.folder / "rows.jsonl", made.folder / "unbuilt")
    judged, arena = planned(Here(made.folder / "unbuilt")).values()
    assert (judged.facts["calls"], judged.facts["prompt_tokens"]) == (4 * 2, None)
    store, priced = open_store(recipe), "models.critic.price={input: 1, output: 100}"
    graph = open_graph(recipe, [priced], store).select(["rows", "critic"])
    assert not Build(graph, store, InProcess()).run().errors
    judged, arena = planned(made, priced).values()
    assert any("detect" in line for line in judged.lines), judged  # from the evaluators
    text = "calls of the judge: at most 8; up to 2 more for each unusable answer"
    assert text in judged.lines
    assert any(line.startswith("cost: at most about $0.2") for line in judged.lines)
    assert judged.facts["calls"] == arena.facts["calls"] == 4 * 2
    assert judged.facts["completion_tokens_at_most"] == 8 * 256
    assert judged.facts["prompt_tokens"] > 8 * 100  # the template around each row
    assert judged.facts["dollars_at_most"] == pytest.approx(
        (judged.facts["prompt_tokens"] + 100 * 8 * 256) / 1e6, rel=1e-2
    )
    few = planned(made, "evaluate.arena.budget={tokens: 400}")["arena"]
    assert "the budget (400 tokens) is enough for about" in few.warning
    assert len(judge.calls) == asked


def test_verdicts_are_constrained_and_asked_for_once(made: Here, judge: Server) -> None:
    assert set(made.ran()) >= {"judged", "arena"}
    report = json.loads((made.folder / "build/t/judged/metrics.json").read_text())
    passed = {name: of["passed"] for name, of in report["scores"].items()}
    assert passed == {"base": 0.0, "prompted": 1.0}
    arena = json.loads((made.folder / "build/t/arena/metrics.json").read_text())
    assert arena["scores"]["prompted"]["win_rate"] == 1
    assert len(judge.calls) == 4 * 2 + 4 * 2  # two answers to each of four rows, and both orders
    assert all(call["response_format"]["type"] == "json_schema" for call in judge.calls)
    again = planned(made, "evaluate.judged.rubric=Brief?")["judged"]
    assert again.facts["completion_tokens_likely"] > 0  # as in the last build
    before = len(judge.calls)
    assert made.ran("evaluate.judged.passing=2") == ["judged"]
    assert len(judge.calls) == before


def notes_of(recipe: Path) -> list[Note]:
    return [n for n in notes_on(open_graph(recipe)) if n.name == "judges-itself"]


def test_a_judge_that_is_judged_is_noted(made: Here) -> None:
    recipe = made.folder / "recipe.yaml"
    assert notes_of(recipe) == []
    itself = recipe.with_name("itself.yaml")
    itself.write_text(recipe.read_text().replace("judge: critic\n", "judge: base\n"))
    first, second = notes_of(itself)
    assert (first.name, first.step) == ("judges-itself", "judged")
    assert first.text == "in judged, base judges itself"
    assert second.text == "in judged, base judges prompted, which is made from it"
