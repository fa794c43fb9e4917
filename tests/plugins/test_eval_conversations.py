"""Conversations with tools judged by whole builds, with a model behind a server."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from callers import TOOLS, call
from conftest import MakeProject, Project
from hostile_server import Body, Reply, Server, serving

pytestmark = pytest.mark.slow

SHOP = '''
class Weather:
    """The weather that a row says, and who asked for it."""

    def __init__(self, row):
        self.booked = []

    def weather(self, city, days=1, unit="C"):
        return {"Oslo": "rain", "Bergen": "more rain"}[city]

    def book(self, guests, at=None, note=""):
        self.booked.append(sorted(guests))
        return "booked"
'''
RECIPE = """
finery: 1
name: t
plugins: []
models:
  good: {use: openai.model, model: m, base_url: "%(url)s", api_key: TEACHER_KEY}
  brief: {use: prompt.model, model: good, system: "Never call a tool."}
data:
  rows: {use: data.file, path: rows.jsonl}
evaluate:
  calls:
    use: eval.tools
    models: [brief, good]
    rows: rows
    free: [book.note]
    require: {good.accuracy: ">= brief.accuracy + 0.3"}
  turns:
    use: eval.dialog
    models: [brief, good]
    rows: rows
    each: {use: eval.tools, free: [book.note]}
    history: own
  tasks:
    use: eval.tools
    models: [brief, good]
    rows: rows
    execute: {file: shop.py, factory: Weather}
"""
BOOK = call("book", guests=["Ann"], note="by the window")
OSLO = call("weather", city="Oslo")


def answered(made: dict[str, Any], text: str) -> list[dict[str, Any]]:
    """The turns of a call and its answer."""
    return [
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "tool_call_id": made["id"], "content": text},
    ]


def row(*turns: dict[str, Any], ask: str) -> dict[str, Any]:
    """A row that offers the tools."""
    return {"messages": [{"role": "user", "content": ask}, *turns], "tools": TOOLS}


ROWS = [
    row(*answered(BOOK, "booked"), {"role": "assistant", "content": "Done."}, ask="A table?"),
    row(
        *answered(OSLO, "rain"),
        *answered(BOOK, "booked"),
        {"role": "assistant", "content": "It rains, so I booked a table inside."},
        ask="Is it dry in Oslo? Else book a table.",
    ),
    row({"role": "assistant", "content": "Hello!"}, ask="Hello."),
]


def behave(body: Body) -> str | Reply:
    """The model: it calls what the rows want, unless it is told not to."""
    messages = body["messages"]
    if messages[0]["role"] == "system" or "tools" not in body:
        return "I can't."
    asked, made = messages[0]["content"], sum(m["role"] == "assistant" for m in messages)
    turns: list[Any] = {"A table?": [BOOK], "Hello.": []}.get(asked, [OSLO, BOOK])
    if made < len(turns):
        return Reply(None, "tool_calls", tool_calls=[turns[made]])
    return "Here you are."


@pytest.fixture
def server() -> Iterator[Server]:
    """The model behind a server."""
    with serving(behave) as running:
        yield running


@pytest.fixture
def judged(project: MakeProject, server: Server) -> Callable[..., Project]:
    """A project whose rows are judged."""

    def make(rows: list[dict[str, Any]] = ROWS) -> Project:
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        files = {"recipe.yaml": RECIPE % {"url": server.url}, "rows.jsonl": lines, "shop.py": SHOP}
        made = project(files)
        made.env["TEACHER_KEY"] = "sk-test"
        return made

    return make


def scores_of(made: Project, step: str) -> dict[str, dict[str, float]]:
    """Model → metric → value."""
    report = json.loads((made.folder / f"build/t/{step}/metrics.json").read_text())
    return report["scores"]  # type: ignore[no-any-return]


@pytest.mark.quick
def test_calls_turns_and_tasks(judged: Callable[..., Project], server: Server) -> None:
    made = judged()
    built = made.run("build")
    assert built.code == 1  # `calls` judges the last turns, where no call is due
    assert "good.accuracy is 1 " in built.err
    made.edit("recipe.yaml", ">= brief.accuracy + 0.3", ">= brief.accuracy")
    assert made.run("build").code == 0
    assert scores_of(made, "turns")["good"] == {
        "accuracy": 1, "tool": 1, "arguments": 1, "no_call": 1, "valid": 1,
        "whole": 1, "first_turn": 1, "last_turn": 1,
    }  # fmt: skip
    assert scores_of(made, "turns")["brief"]["accuracy"] == 3 / 6
    assert scores_of(made, "tasks") == {
        "brief": {"accuracy": 1 / 3, "state": 1 / 3, "finished": 1, "no_call": 1},
        "good": {"accuracy": 1, "state": 1, "finished": 1, "no_call": 1, "valid": 1},
    }
    shown = made.run("show", "turns", "--model", "brief").out
    assert 'expected   book(guests=["Ann"], note="by the window")' in shown
    assert "turn 1 (message 2)" in shown
    assert "Turns with other calls than the row's" in shown
    assert "good: turns" in made.run("show", "turns", "--model", "good").out
    shown = made.run("show", "tasks", "--model", "brief").out
    assert 'state.booked: [], expected [["Ann"]]' in shown


def test_what_was_changed_runs_again(judged: Callable[..., Project]) -> None:
    made = judged()
    made.edit("recipe.yaml", ">= brief.accuracy + 0.3", ">= brief.accuracy")
    assert "tasks" in made.ran()
    made.edit("shop.py", "sorted(guests)", "list(guests)")
    assert made.ran() == ["tasks"]
    made.edit(
        "recipe.yaml", "each: {use: eval.tools, free", "each: {use: eval.tools, strip: true, free"
    )
    assert made.ran() == ["turns"]


def test_what_the_functions_import_and_read(judged: Callable[..., Project]) -> None:
    made = judged()
    made.edit("recipe.yaml", ">= brief.accuracy + 0.3", ">= brief.accuracy")
    made.edit("recipe.yaml", "file: shop.py", "file: shops/shop.py")
    hidden = "__import__('lists' + '_too')"
    code = f"import lists\nopen(__file__[:-7] + 'prices.json').close()\n{hidden}\n{SHOP}"
    made.write({
        "shops/shop.py": code.replace("sorted(guests)", "lists.listed(guests)"),
        "shops/lists.py": "def listed(values): return sorted(values)\n",
        "shops/lists_too.py": "", "shops/prices.json": "{}",
    })  # fmt: skip
    assert "tasks" in made.ran()
    assert made.ran() == []
    made.edit("shops/lists.py", "sorted(values)", "list(values)")
    assert made.ran() == ["tasks"]
    for name, text in (("prices.json", "[]"), ("lists_too.py", "A = 1\n")):
        made.write({f"shops/{name}": text})
        assert f"read shops/{name} changed" in made.run("plan").out
        assert made.ran() == ["tasks"]


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("each: {use: eval.tools", "each: {use: eval.rules, rules: {a: {never: x}}",
         "unknown setting 'free'"),
        ("    each: {use: eval.tools, free: [book.note]}\n", "", "`each` is missing"),
        ("factory: Weather", "factory: Climate", "has no function or class 'Climate'"),
        ("free: [book.note]\n", "free: [book.nota]\n", "did you mean 'book.note'?"),
    ],
)  # fmt: skip
def test_mistakes_are_found_at_their_place(
    judged: Callable[..., Project], old: str, new: str, error: str
) -> None:
    made = judged()
    made.edit("recipe.yaml", old, new)
    ran = made.run("check")
    assert ran.code == 2
    assert error in ran.err
    assert "recipe.yaml:" in ran.err


def test_a_row_that_can_not_be_judged_is_named(judged: Callable[..., Project]) -> None:
    made = judged([*ROWS, {**ROWS[0], "tools": TOOLS[:1]}])
    ran = made.run("build")
    assert ran.code == 2
    assert "turn 2: calls book, which isn't offered" in ran.err
