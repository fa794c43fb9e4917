"""What generators ask, call by call: through the command, of a hostile server on loopback."""

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeProject, Project, until
from hostile_server import Body, Reply, Server, failure, killed_midway, said, serving
from needs import need

pytestmark = pytest.mark.slow

need("openai")

RECIPE = """
finery: 1
name: t
models:
  teacher: {use: openai.model, model: m, base_url: "%(url)s", api_key: null, timeout: 5%(more)s}
data:
  rows: {use: data.file, path: rows.jsonl}
generate:
  made: {use: %(use)s, rows: rows, model: teacher, %(settings)s}
"""
Make = Callable[..., Project]


def written(body: Body) -> str:
    """Another text for each message and seed, always the same."""
    content = f"{said(body)} {body['seed']}"
    return f"wording {hashlib.sha256(content.encode()).hexdigest()} of it"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(written) as running:
        yield running


def lines(count: int) -> str:
    rows = [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def making(project: MakeProject, server: Server) -> Make:
    """A project with one generator."""

    def make(count: int, use: str, settings: str, more: str = "") -> Project:
        names = {"url": server.url, "use": use, "settings": settings, "more": more}
        return project({"recipe.yaml": RECIPE % names, "rows.jsonl": lines(count)})

    return make


def read(made: Project, name: str, step: str = "made") -> list[dict[str, Any]]:
    path = made.folder / "build" / "t" / step / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def accounted(made: Project, seeds: int, each: int = 1) -> tuple[int, int]:
    """(rows, drops), after making sure that nothing is lost and nothing is there twice."""
    rows, drops, origins = (
        made.rows("made"),
        read(made, "dropped.jsonl"),
        read(made, "generated.jsonl"),
    )
    assert len(rows) + len(drops) == seeds * each
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["id"] for row in rows] == [origin["id"] for origin in origins]
    assert all(drop["reason"] and drop["detail"] for drop in drops)
    return len(rows), len(drops)


@pytest.mark.quick
def test_ten_rows_more_are_ten_calls_more(making: Make, server: Server) -> None:
    made = making(200, "synth.answer", "n: 1")
    made.ran()
    assert len(server.calls) == 200
    before = made.rows("made")
    made.write({"rows.jsonl": lines(210)})
    assert made.ran() == ["made", "rows"]
    assert len(server.calls) == 210
    assert made.rows("made")[:200] == before
    assert accounted(made, 210) == (210, 0)


def test_n_from_three_to_four_is_a_quarter_more(making: Make, server: Server) -> None:
    made = making(40, "synth.paraphrase", "n: 3")
    made.ran()
    assert len(server.calls) == 120
    before = {row["id"] for row in made.rows("made")}
    made.edit("recipe.yaml", "n: 3", "n: 4")
    made.ran()
    assert len(server.calls) == 160
    after = made.rows("made")
    assert before < {row["id"] for row in after}
    assert [row["parents"] for row in after[:4]] == [after[0]["parents"]] * 4
    assert accounted(made, 40, 4) == (160, 0)


def test_answers_to_a_prompt_differ_by_seed_alone(making: Make, server: Server) -> None:
    made = making(5, "synth.answer", "n: 3")
    made.ran()
    assert sorted(call["seed"] for call in server.calls) == [0] * 5 + [1] * 5 + [2] * 5
    made.edit("recipe.yaml", "n: 3", "n: 4")
    made.ran()
    assert len(server.calls) == 20
    assert accounted(made, 5, 4) == (20, 0)


def test_a_build_that_is_killed_asks_the_rest_only(making: Make, server: Server) -> None:
    made = making(150, "synth.answer", "n: 2")
    server.answer = lambda body: Reply(written(body), delay=0.05)
    lost = killed_midway(made, server)
    server.answer = written
    made.ran()
    assert len(server.calls) == 300 + lost
    assert accounted(made, 150, 2) == (300, 0)


def test_a_second_recipe_asks_nothing(making: Make, server: Server) -> None:
    """Although it calls the step otherwise, has another seed and checks the rows."""
    made = making(30, "synth.paraphrase", "n: 2")
    made.ran()
    other = (made.folder / "recipe.yaml").read_text()
    other = other.replace("name: t", "name: other\nseed: 5").replace("made:", "wordings:")
    made.write({"other.yaml": other.replace("n: 2", "n: 2, checks: {min_characters: {user: 3}}")})
    assert made.run("build", "other.yaml").code == 0
    assert len(server.calls) == 60
    assert [row["id"] for row in made.rows("wordings", "other")] == [
        row["id"] for row in made.rows("made")
    ]


def test_what_two_steps_ask_is_asked_once(making: Make, server: Server) -> None:
    """They ask one model, the second through messages of its own: one after the other."""
    server.answer = lambda body: Reply(written(body), delay=0.05)
    made = making(40, "synth.answer", "n: 1", more=", concurrency: 4")
    recipe = (made.folder / "recipe.yaml").read_text()
    twin = "{use: synth.answer, rows: rows, model: teacher, checks: {min_characters: {user: 1}}}"
    brief = "  brief: {use: prompt.model, model: teacher, system: Be brief.}\n"
    third = "{use: synth.answer, rows: rows, model: brief}"
    recipe = recipe.replace("data:", f"{brief}data:") + f"  twin: {twin}\n  third: {third}\n"
    made.write({"recipe.yaml": recipe})
    assert made.ran() == ["brief", "made", "rows", "teacher", "third", "twin"]
    assert len(server.calls) == 2 * 40
    assert server.most_flying == 4
    assert [row["id"] for row in made.rows("twin")] == [row["id"] for row in made.rows("made")]


def test_what_two_builds_ask_at_a_time_is_asked_once(making: Make, server: Server) -> None:
    """Of two recipes of a project: each waits for what the other asks, also where that dies."""
    server.answer = lambda body: Reply(written(body), delay=0.1)
    made = making(100, "synth.answer", "n: 1", more=", concurrency: 4")
    recipe = (made.folder / "recipe.yaml").read_text()
    other = recipe.replace("name: t", "name: other").replace("n: 1", "n: 1, retries: 1")
    made.write({"other.yaml": other})
    builds = [made.start("build", name) for name in ("recipe.yaml", "other.yaml")]
    said = [build.communicate(timeout=120)[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0], said
    assert len(server.calls) == 100
    assert server.most_flying > 4  # they share the work
    assert [row["id"] for row in made.rows("made", "other")] == [
        row["id"] for row in made.rows("made")
    ]


def test_what_a_build_that_dies_was_asking_is_asked_by_the_other(
    making: Make, server: Server
) -> None:
    server.answer = lambda body: Reply(written(body), delay=60 * (len(server.calls) <= 4))
    made = making(20, "synth.answer", "n: 1", more=", concurrency: 4")
    recipe = (made.folder / "recipe.yaml").read_text().replace("timeout: 5", "timeout: 99")
    other = recipe.replace("name: t", "name: other").replace("n: 1", "n: 1, retries: 1")
    made.write({"recipe.yaml": recipe, "other.yaml": other})
    stuck = made.start("build")
    until(lambda: len(server.calls) == 4)
    waiting = made.start("build", "other.yaml")
    until(lambda: len(server.calls) == 18)  # all but four, and two that are next
    os.killpg(stuck.pid, signal.SIGKILL)
    stuck.communicate()
    assert waiting.communicate(timeout=120)[1].count("waiting for another process") == 1
    assert waiting.returncode == 0
    assert len(server.calls) == 24


def test_a_rejected_row_is_asked_again_and_then_reported(making: Make, server: Server) -> None:
    def moody(body: Body) -> str:
        number = int(said(body).split()[-1])
        if number % 3 == 0 and body["seed"] < 100_000:
            return "no good at first"
        return "no good ever" if number % 10 == 1 else f"good {number}"

    server.answer = moody
    settings = "retries: 2, checks: {matches: {assistant: '^good'}}"
    made = making(30, "synth.answer", settings)
    made.ran()
    never = {1, 11, 21}
    later = set(range(0, 30, 3)) - never
    assert accounted(made, 30) == (27, 3)
    assert server.counts() == {
        f"question {i}": 3 if i in never else 2 if i in later else 1 for i in range(30)
    }
    assert {call["seed"] for call in server.calls} == {0, 100_000, 200_000}
    drops = read(made, "dropped.jsonl")
    assert [drop["reason"] for drop in drops] == ["matches"] * 3
    assert "assistant doesn't match ^good (after 3 attempts)" in drops[0]["detail"]
    attempts = {
        o["prompt"][0]["content"]: o.get("attempt", 0) for o in read(made, "generated.jsonl")
    }
    assert {text for text, attempt in attempts.items() if attempt} == {
        f"question {i}" for i in later
    }

    made.edit("recipe.yaml", "retries: 2", "retries: 3")
    made.ran()
    assert len(server.calls) == 30 + len(later) + 2 * 3 + 3  # those three, once more


def test_a_hostile_server_loses_nothing(making: Make, server: Server) -> None:
    """Every row is there once or reported, whatever the server does."""
    server.script += [
        failure(429, "slow down", retry_after="0.2"), failure(500), failure(503),
        Reply(cut="before"), Reply("half of this is lost", cut="within"),
        Reply(raw=b'{"choices": [{"mess'), Reply(raw=b"<html>Bad gateway</html>"),
        Reply(empty=True), Reply(refusal="I won't"), failure(400, "context too long"), Reply(""),
        Reply("slow", delay=0.5), Reply("half", finish="length"),
        Reply("withheld", finish="content_filter"),
    ]  # fmt: skip
    made = making(150, "synth.answer", "n: 2, retries: 1", more=", concurrency: 24")
    made.ran()
    assert accounted(made, 150, 2) == (300, 0)
    passing, rows = 7, 6  # asked again by the client; by the generator
    assert len(server.calls) == 300 + passing + rows
    assert made.run("build", "--set", "generate.made.retries=2").code == 0
    assert len(server.calls) == 300 + passing + rows + 5  # all but the one that was cut off


def test_a_budget_ends_it_and_what_was_paid_for_stays(making: Make, server: Server) -> None:
    made = making(100, "synth.answer", "budget: {tokens: 300}")
    ran = made.run("build")
    assert ran.code == 1
    assert "budget reached (300 tokens)" in ran.err
    assert len(server.calls) == 20  # 15 tokens each
    made.edit("recipe.yaml", "{tokens: 300}", "{tokens: 100000}")
    made.ran()
    assert len(server.calls) == 100
    assert accounted(made, 100) == (100, 0)


def test_the_order_of_answers_changes_nothing(making: Make, server: Server) -> None:
    settings = "n: 3, checks: {similarity: {max: 0.9}}"
    made = making(40, "synth.paraphrase", settings)
    made.ran()
    first = {p.name: p.read_bytes() for p in (made.folder / "build/t/made").iterdir()}
    for path in (made.folder / ".finery").glob("finery.db*"):
        path.unlink()
    server.answer = lambda body: Reply(written(body), delay=0.03 * (hash(said(body)) % 4))
    made.ran()
    assert len(server.calls) == 240
    assert {p.name: p.read_bytes() for p in (made.folder / "build/t/made").iterdir()} == first


CHECKS = """
checks:
      json_schema: schema.json
      python: {file: checks.py, functions: [polite]}
      judge: {rubric: Good?, prompt: judge.jinja}
    judge: teacher
"""


def test_files_of_checks_are_part_of_the_step(making: Make, server: Server) -> None:
    """Those that lie deeper, too: they reach the worker, and a change of one is seen."""

    def answer(body: Body) -> str:
        return '{"score": 5}' if "Score it" in said(body) else f'"{said(body)}"'

    server.answer = answer
    made = making(3, "synth.answer", "n: 1")
    step = f"  made:\n    use: synth.answer\n    rows: rows\n    model: teacher\n    {CHECKS[1:]}"
    text = (made.folder / "recipe.yaml").read_text()
    made.write({
        "recipe.yaml": text[: text.index("  made:")] + step, "schema.json": '{"type": "string"}',
        "judge.jinja": "Score it: {{ answer }}",
        "checks.py": "def polite(row):\n    return None\n",
    })  # fmt: skip
    made.ran()
    assert accounted(made, 3) == (3, 0)
    assert len(server.calls) == 6
    made.write({
        "checks.py": "from manners import polite\n",
        "manners.py": "def polite(row):\n    return None\n",
    })  # fmt: skip
    assert made.ran() == ["made"]
    made.write({"manners.py": "def polite(row):\n    return 'question 1' not in str(row)\n"})
    assert made.ran() == ["made"]
    assert [drop["reason"] for drop in read(made, "dropped.jsonl")] == ["python"]
    made.write({"judge.jinja": "Score it well: {{ answer }}"})
    server.answer = lambda body: '{"score": 5}' if "Score it" in said(body) else '"other"'
    assert made.ran() == ["made"]


@pytest.mark.parametrize(
    ("settings", "where", "message"),
    [
        ("budget: {}", "recipe.yaml:9:", "a budget needs a limit"),
        ("checks: {fields: {}}", "recipe.yaml:9:", "'checks.fields' can't be an empty mapping"),
        ("prompt: broken.jinja", "broken.jinja:", "the template isn't valid Jinja"),
        ("prompt: [empty.jinja, broken.jinja]", "recipe.yaml:9:", "can't be a list"),
    ],
)  # fmt: skip
def test_what_says_nothing_is_refused_before_anything_runs(
    making: Make, server: Server, settings: str, where: str, message: str
) -> None:
    made = making(3, "synth.answer", settings)
    made.write({"empty.jinja": " \n", "broken.jinja": "{{ user }", "broken.json": "[1]"})
    for command in ("check", "build"):
        ran = made.run(command)
        assert ran.code == 2
        assert ran.err.startswith(where)
        assert message in ran.err
    assert server.calls == []


def test_a_generator_of_ones_own(making: Make, server: Server) -> None:
    """As docs/howto/synthetic-data.md has it word for word, in a file beside the recipe."""
    page = (Path(__file__).parents[2] / "docs" / "howto" / "synthetic-data.md").read_text()
    code = page[page.rindex("```python\n") :].removeprefix("```python\n").partition("```")[0]
    made = making(5, "mine.titles", "retries: 1, checks: {excludes: {title: 'tle 3'}}")
    made.write({"mine.py": code})
    made.edit("recipe.yaml", "name: t", "name: t\nplugins: [./mine.py]")
    server.answer = lambda body: f"title {said(body)[-1]}"
    assert "calls: 5; up to 1 more for each unusable answer" in made.run("plan").out
    made.ran()
    assert accounted(made, 5) == (4, 1)
    assert [row["title"] for row in made.rows("made")] == [f"title {i}" for i in (0, 1, 2, 4)]
    assert len(server.calls) == 6
    printed = made.run("synth", "prompt", "mine.titles", "--recipe", "recipe.yaml")
    assert (printed.code, printed.out) == (0, "Give this a title: {{ user }}")


def test_the_code_of_a_packages_function_is_in_the_key(
    making: Make, server: Server, tmp_path: Path
) -> None:
    made = making(3, "synth.answer", "checks: {python: {functions: ['own_checks:good']}}")
    made.env["PYTHONPATH"] = str(tmp_path)
    made.write({"own_checks.py": "def good(row):\n    return None\n"})
    made.ran()
    made.write({"own_checks.py": "def good(row):  # always\n    return None\n"})
    assert made.ran() == []
    made.write({"own_checks.py": "def good(row):\n    return '1' not in str(row['messages'][0])\n"})
    assert made.ran() == ["made"]
    assert accounted(made, 3) == (2, 1)
