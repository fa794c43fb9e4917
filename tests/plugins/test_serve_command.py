"""`finery serve`: a real server of a tiny model, which starts, answers and ends as it should."""

import json
import signal
import socket
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Project, until
from llama_server import needs_llama_server
from serving import RECIPE, served, tiny_project

from finery import StepError
from finery_serve.client import Client
from finery_serve.command import introduction
from finery_serve.guide import request_for, write_request
from finery_serve.servers import Serving
from finery_transformers.frozen.template import ClientFacts

pytestmark = needs_llama_server
ASKED = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose model is built."""
    project = tiny_project(tmp_path_factory.mktemp("serve") / "p")
    assert project.run("build").code == 0
    return project


def listens(facts: dict[str, str]) -> bool:
    host, port = facts["address"].removeprefix("http://").split(":")
    with socket.socket() as tried:
        return tried.connect_ex((host, int(port))) == 0


def answer(client: Client) -> str:
    got = client.post("/v1/chat/completions", ASKED)
    return str(got["choices"][0]["message"]["content"])


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_greedily_and_ends_without_an_error(tiny: Project, end: signal.Signals) -> None:
    with served(tiny, "tiny", "--port", "0") as (client, facts, process):
        assert facts["address"].startswith("http://127.0.0.1:")
        assert (facts["key"], facts["model"]) == (None, "tiny")
        assert answer(client) == answer(client)
        process.send_signal(end)
        assert process.wait(120) == 0
        until(lambda: not listens(facts))


def test_a_bundle_has_the_name_of_its_own_command(tmp_path: Path) -> None:
    bundle = "export:\n  shipped: {use: llama.bundle, gguf: tiny, name: my-tiny}\n"
    project = tiny_project(tmp_path / "p", RECIPE + bundle)
    assert project.run("build").code == 0
    with served(project, "shipped", "--port", "0") as (client, facts, _):
        assert facts["model"] == "my-tiny"
        assert client.get("/v1/models")["data"][0]["id"] == "my-tiny"


def test_what_is_printed(tiny: Project) -> None:
    process = tiny.start("serve", "tiny", "--port", "0")
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    out = "".join(lines)
    address = next(line.split()[1] for line in lines if "address" in line)
    assert f"curl {address}/chat/completions" in out
    assert f'OpenAI(base_url="{address}", api_key="none")' in out
    assert "loading tiny …" in err
    assert "the server has ended" in err


def test_the_example_asks_for_answers_by_the_bundles_schema(tmp_path: Path) -> None:
    bundle = "  server: {use: llama.bundle, gguf: tiny, name: t, schema: answer.json}\n"
    project = tiny_project(tmp_path / "p", f"{RECIPE}export:\n{bundle}")
    schema = {"type": "object", "properties": {"team": {"type": "string"}}}
    project.write({"answer.json": json.dumps(schema)})
    assert project.run("build", "server").code == 0
    with served(project, "server", "--port", "0") as (_, facts, _process):
        asked = facts["request"]
    assert asked["model"] == "t"
    assert asked["response_format"]["json_schema"]["schema"] == schema


def test_a_busy_port_is_refused_before_anything_is_loaded(tiny: Project) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        ran = tiny.run("serve", "tiny", "--port", str(port))
    assert ran.code == 2
    assert f"port {port} of 127.0.0.1 can't be used" in ran.err
    assert "--port 0" in ran.err
    assert "loading" not in ran.err


def test_a_host_that_others_reach_demands_a_key(tiny: Project) -> None:
    with served(tiny, "tiny", "--port", "0", "--host", "127.0.0.2") as (client, facts, _):
        assert len(facts["key"]) >= 32
        assert answer(client)
        with pytest.raises(StepError, match=r"(?i)api key"):
            answer(Client(facts["address"]))


def test_a_server_that_dies_is_reported(tiny: Project) -> None:
    import os

    with served(tiny, "tiny", "--port", "0") as (_, facts, process):
        os.kill(facts["pid"], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "the server ended unexpectedly" in err


@pytest.mark.parametrize(("step", "words"), [
    ("rows", "is a Dataset, but only a model or a bundle can answer"),
    ("tiny.q8_0", "has no output 'q8_0'"),
    ("tinny", "did you mean 'tiny'"),
])  # fmt: skip
def test_what_cannot_be_served(tiny: Project, step: str, words: str) -> None:
    ran = tiny.run("serve", step)
    assert ran.code == 2
    assert words in ran.err


@pytest.fixture
def folder_project(tmp_path: Path) -> Project:
    """A project with a model in a Hugging Face folder."""
    from tiny_llama import tiny_llama

    project = tiny_project(tmp_path / "p")
    tiny_llama(project.folder / "hf")
    project.edit("recipe.yaml", "path: tiny.gguf", "path: hf")
    return project


@pytest.mark.slow
def test_a_folder_without_a_server_names_its_export(folder_project: Project) -> None:
    """Or how to make one."""
    project = folder_project
    assert project.run("build", "tiny").code == 0
    from finery.advanced import load_plugins

    if load_plugins().server("transformers") is not None:
        pytest.skip("a plugin serves Hugging Face folders")
    ran = project.run("serve", "tiny")
    assert ran.code == 2
    assert "gguf: {use: gguf.export, model: tiny}" in ran.err
    with (project.folder / "recipe.yaml").open("a") as recipe:
        recipe.write("export:\n  small: {use: gguf.export, model: tiny}\n")
    assert "finery serve small" in project.run("serve", "tiny").err


class At(NamedTuple):
    """A server's facts."""

    address: str = "http://127.0.0.1:9"
    pid: int = 1
    build: str = "llama.cpp"


def test_the_tools_of_the_training_are_in_a_file_that_the_examples_send(tmp_path: Path) -> None:
    example = {"messages": [{"role": "user", "content": "Why?"}], "tools": [{"name": "find"}]}
    facts = ClientFacts(training_example=json.dumps(example))
    request = request_for("m", facts)
    file = write_request(tmp_path, request)
    text = introduction(At(), Serving(name="m"), request, file, facts)
    assert "tools    find (a request must send them)" in text
    assert f"-d @{file}\n" in text
    arguments = text.partition("create(\n")[2].partition("\n  )")[0].strip().removeprefix("**")
    assert eval(arguments, {"json": json}) == request
    differing = facts._replace(tools_differ=True)
    text = introduction(At(), Serving(name="m"), request, file, differing)
    assert "tools    differ among the training rows" in text
