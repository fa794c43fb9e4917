"""`finery serve --log`: a proxy that logs what any server answers, and changes nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Project, until
from loopback import send
from serving import served, tiny_project

from finery import StepError
from finery_serve.client import Client

QUESTION: dict[str, Any] = {
    "model": "tiny", "max_tokens": 8, "user": "Ann",
    "messages": [{"role": "user", "content": "Größe: 5 µm? ann@firma.de"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Client, int]]:
    """A server of a tiny GGUF by llama.cpp that logs, its client, and its port."""
    folder = tmp_path_factory.mktemp("logged")
    project = tiny_project(folder / "p")
    assert project.run("build").code == 0
    with served(project, "tiny", "--port", "0", "--log", "log.jsonl") as (client, facts, _):
        yield project, client, int(facts["address"].rpartition(":")[2])


def lines(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / "log.jsonl").read_bytes().splitlines()]


def last(project: Project, count: int) -> dict[str, Any]:
    """The last line, once there are so many."""
    until(lambda: (project.folder / "log.jsonl").exists() and len(lines(project)) >= count)
    return lines(project)[-1]


@pytest.mark.slow
@pytest.mark.quick
def test_answers_are_passed_on_and_logged_whole(asked: tuple[Project, Client, int]) -> None:
    project, client, port = asked
    before = len(lines(project)) if (project.folder / "log.jsonl").exists() else 0
    whole = json.loads(client.send("/v1/chat/completions", QUESTION))
    line = last(project, before + 1)
    text = whole["choices"][0]["message"]["content"]
    assert line["response"]["choices"][0]["message"]["content"] == text
    assert line["request"]["messages"][0]["content"] == "Größe: 5 µm? [email]"
    assert "user" not in line["request"]

    events = [*client.stream("/v1/chat/completions", QUESTION)]
    deltas = [choice["delta"] for event in events for choice in event["choices"]]
    streamed = "".join(delta.get("content") or "" for delta in deltas)
    line = last(project, before + 2)
    assert streamed == text == line["response"]["choices"][0]["message"]["content"]
    assert line["response"]["choices"][0]["finish_reason"] == "length"

    with pytest.raises(StepError):
        client.send("/v1/chat/completions", {"messages": "none"})
    line = last(project, before + 3)
    assert (line["status"] >= 400, "response" in line, bool(line["error"])) == (True, False, True)

    assert json.loads(client.send("/v1/models"))["data"][0]["id"] == "tiny"
    assert len(lines(project)) == before + 3  # only completions are logged
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}):
        host = {"host": f"127.0.0.1:{port}"}
        assert send(port, "GET", "/v1/models", {**host, **headers}, None).status == 403


@pytest.mark.slow
def test_a_log_that_cant_be_written_is_an_error(tmp_path: Path) -> None:
    project = tiny_project(tmp_path / "p")
    assert project.run("build").code == 0
    ran = project.run("serve", "tiny", "--port", "0", "--log", "missing/log.jsonl")
    assert ran.code == 2
    assert "missing/log.jsonl can't be written: No such file or directory" in ran.err
