"""Paid models in a rehearsal: each is asked at most once, and what is wrong with one is found."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import MakeProject, Project
from hostile_server import Body, Reply, Server, failure, serving
from needs import need

need("openai")

RECIPE = """\
finery: 1
name: t
models:
  teacher: {{use: openai.model, model: m, base_url: "{url}", api_key: {key}, price: {{input: 2, output: 8}}}}
  first: {{use: baseline.majority, rows: split.train}}
data:
  rows: {{use: data.file, path: rows.jsonl}}
  split: {{use: data.split, rows: rows, validation: 0, test: 0.4}}
  both: {{use: data.mix, rows: [rows, more]}}
  chosen: {{use: review.apply, rows: split.train, reviews: reviews.jsonl}}
generate:
  more: {{use: synth.paraphrase, rows: rows, model: teacher, n: 3, checks: {{excludes: {{user: "Question"}}}}}}
  asked: {{use: synth.instruct, rows: rows, model: teacher, n: 50}}
  pairs: {{use: synth.preferences, rows: rows, model: teacher, n: 4, checks: {{matches: {{assistant: "answer"}}}}}}
evaluate:
  judged: {{use: eval.judge, models: [first, teacher], rows: split.test, judge: teacher, rubric: Is it right?}}
  exact: {{use: eval.exact, models: [teacher, first], rows: split.test}}
"""  # noqa: E501
ROWS = "".join(
    json.dumps(
        {"prompt": f"Question {n} about {chr(97 + n) * 7}?", "completion": f"answer {n % 2}"}
    )
    + "\n"
    for n in range(24)
)
Make = Callable[..., tuple[Project, Server]]


@pytest.fixture
def asked(project: MakeProject) -> Iterator[Make]:
    """Make the project with a server, which answers with JSON if it must."""
    servers = []

    def make(answer: Callable[[Body], str | Reply] = lambda body: "why?", key: str = "null") -> Any:
        context = serving(answer)
        server = context.__enter__()
        servers.append(context)
        files = {"recipe.yaml": RECIPE.format(url=server.url, key=key), "rows.jsonl": ROWS}
        return project({**files, "reviews.jsonl": ""}), server

    yield make
    for context in servers:
        context.__exit__(None, None, None)


def test_a_paid_model_is_asked_once_and_its_price_is_told(asked: Make) -> None:
    project, server = asked()
    ran = project.run("rehearse")
    assert ran.code == 0, ran.err
    assert len(server.calls) == 1
    assert "one request to m: 15 tokens, $0.0001" in ran.out
    assert "not rehearsed" not in ran.out


@pytest.mark.slow
def test_no_paid_model_is_asked_offline_and_needs_no_key(asked: Make) -> None:
    project, server = asked(key="NO_KEY_HERE")
    ran = project.run("rehearse", "--offline")
    assert ran.code == 0, ran.err
    assert not server.calls
    assert "one request" not in ran.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (failure(401, "Incorrect API key provided"), "Incorrect API key"),
        (failure(404, "The model `m` does not exist", "model_not_found"), "does not exist"),
        (failure(500, "the engine crashed"), "the engine crashed"),
        (Reply(raw=b"<html>login</html>"), "127.0.0.1"),
    ],
)
def test_what_is_wrong_with_a_paid_model_is_found(asked: Make, reply: Reply, text: str) -> None:
    project, server = asked(lambda body: reply)
    ran = project.run("rehearse")
    assert ran.code == 1, ran.err
    assert text in ran.err
    assert len(server.calls) == 1


@pytest.mark.slow
def test_a_missing_key_is_found(asked: Make) -> None:
    project, server = asked(key="NO_KEY_HERE")
    ran = project.run("rehearse")
    assert ran.code == 1
    assert "NO_KEY_HERE" in ran.err
    assert not server.calls


@pytest.mark.slow
def test_a_server_that_isnt_there_is_found(asked: Make) -> None:
    project, server = asked()
    server.shutdown()
    server.server_close()
    ran = project.run("rehearse")
    assert ran.code == 1, ran.err
    assert "127.0.0.1" in ran.err
