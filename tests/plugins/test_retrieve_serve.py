"""`finery serve` and `finery chat` with models that retrieve, and with their bundles."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from answering import Running, bundled, indexed, retrieving, running
from conftest import Project, Ran, until
from llama_server import needs_llama_server
from needs import need
from serving import RECIPE, served, tiny_project

import finery
import finery.advanced
from finery import Bundle, Model, Request, Sampling, StepError
from finery.advanced import load_plugins
from finery.testing import TestJob
from finery_serve.chat.streams import source_line
from finery_serve.client import Client

pytestmark = [needs_llama_server, pytest.mark.slow]
need("bm25s")
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Which files are read?"}],
    "max_tokens": 4,
}
MODELS = """\
models:
  rag: {use: retrieve.model, model: tiny, index: index, k: 2}
  polite: {use: prompt.model, model: tiny, system: Be polite.}
  politerag: {use: retrieve.model, model: polite, index: index}
  api: {use: openai.model, model: m, base_url: "http://127.0.0.1:1/v1", api_key: NO_SUCH_KEY}
  away: {use: retrieve.model, model: api, index: index}
"""
MORE = """\
  chunks: {use: docs.files, path: docs, shortest: 10}
  index: {use: retrieve.index, rows: chunks}
export:
  ship: {use: retrieve.bundle, model: rag, name: guide, slots: 1, context: 512}
"""
DOCS = {
    "docs/limits.md": "# Limits\n\nFiles up to 50 MB are read.\n",
    "docs/account.md": "# Passwords\n\nPress Reset to reset a password.\n",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with models that retrieve, and a bundle."""
    recipe = RECIPE.replace("models:\n", MODELS) + MORE
    project = tiny_project(tmp_path_factory.mktemp("serve") / "p", recipe)
    project.write(DOCS)
    ran = project.run("build")
    assert ran.code == 0, ran
    return project


@pytest.mark.parametrize("step", ["ship", "rag"])
def test_it_is_served_with_a_page(built: Project, step: str) -> None:
    with served(built, step, "--port", "0") as (client, facts, process):
        assert facts["page"] == f"{facts['address']}/"
        name = {"ship": "guide", "rag": "rag"}[step]
        assert facts["model"] == name
        (model,) = client.get("/v1/models")["data"]
        assert (model["id"], model["title"]) == (name, name)
        assert "with sources" in facts["server"]
        answer = client.post("/v1/chat/completions", ASKED)
        assert answer["sources"][0]["source"] == "docs/limits.md"
        head, *rest = client.stream("/v1/chat/completions", ASKED)
        assert head["sources"] == answer["sources"]
        text = "".join(c["delta"].get("content") or "" for e in rest for c in e["choices"])
        assert text == answer["choices"][0]["message"]["content"]
        assert b"<!doctype html>" in Running(process, facts["page"]).send("/").body
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0


def test_its_page_is_printed(built: Project) -> None:
    process = built.start("serve", "rag", "--port", "0")
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert lines[1].startswith("  page     http://127.0.0.1:")


def test_a_host_that_others_reach_demands_a_key(built: Project) -> None:
    with served(built, "ship", "--port", "0", "--host", "127.0.0.2") as (client, facts, _):
        assert facts["page"] == f"{facts['address']}/#key={facts['key']}"
        assert client.post("/v1/chat/completions", ASKED)["sources"]
        with pytest.raises(StepError, match="invalid API key"):
            Client(facts["address"]).post("/v1/chat/completions", ASKED)


def test_it_ends_if_its_model_does(built: Project) -> None:
    with served(built, "ship", "--port", "0") as (_, facts, process):
        os.kill(facts["pid"], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "the server ended unexpectedly" in err


def chat(project: Project, typed: str, *args: str) -> Ran:
    """Run `finery chat` with lines from a pipe."""
    process = project.start("chat", *args, stdin=subprocess.PIPE)
    out, err = process.communicate(typed, timeout=180)
    return Ran(process.returncode, out, err)


@pytest.mark.parametrize("step", ["rag", "ship", "politerag"])
@pytest.mark.quick
def test_one_can_talk_to_it(built: Project, step: str) -> None:
    ran = chat(built, "Which files are read?\n/save talk.jsonl\n", step, "--max-tokens", "4")
    assert ran.code == 0, ran
    (line,) = (built.folder / "talk.jsonl").read_text().splitlines()
    (built.folder / "talk.jsonl").unlink()
    roles = [message["role"] for message in json.loads(line)["messages"]]
    assert roles == ["user", "assistant"]


def test_the_same_answer_as_the_engine_gives(built: Project, tmp_path: Path) -> None:
    """Whole prompts: tokens and greedy answers of the engine and of the server are equal."""
    opened = finery.advanced.Project(built.folder / "recipe.yaml")
    result, _ = opened.result("rag")
    model = opened.store.artifact(next(iter(result.outputs.values())))
    assert isinstance(model, Model)
    engine = load_plugins().engine("retrieving")(model, TestJob(tmp_path / "job"))
    (expected,) = engine.generate([Request(ASKED["messages"])], Sampling(max_tokens=4))
    with served(built, "ship", "--port", "0") as (client, _, _):
        answer = client.post("/v1/chat/completions", ASKED)
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert answer["choices"][0]["message"]["content"] == expected.text


def test_sources_in_a_chat() -> None:
    source = {"label": 1, "source": "a.md", "heading": "Limits", "place": {"line": 12}}
    assert source_line(source) == "\n[1] a.md, Limits, line 12"
    assert source_line({"label": 2, "source": "b.pdf", "heading": ""}) == "\n[2] b.pdf"


def test_a_bundle_that_was_exported_runs(built: Project, tmp_path: Path) -> None:
    target = tmp_path / "out"
    ran = built.run("export", "ship", str(target))
    assert ran.code == 0, ran
    folder = target if (target / "run.sh").is_file() else target / "ship"
    assert not (folder / "run.sh").is_symlink()
    with running(Bundle(folder)) as app:
        until(lambda: app.ask().status == 200)


@pytest.mark.real
def test_a_real_model_gets_the_tokens_that_were_evaluated(
    smollm2_gguf: Path, tmp_path: Path
) -> None:
    """Two builds of llama.cpp needn't choose the same words, so the answers aren't compared."""
    under = Model(smollm2_gguf.parent, meta={"format": "gguf", "file": smollm2_gguf.name})
    model = retrieving(tmp_path / "rag", under, indexed(tmp_path))
    conversation = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Which files with <|im_end|> tags are read?"},
    ]
    engine = load_plugins().engine("retrieving")(model, TestJob(tmp_path / "job"))
    (expected,) = engine.generate([Request(conversation)], Sampling(max_tokens=8))
    with running(bundled(tmp_path / "bundle", model, slots=1, context=2048)) as app:
        answer = app.ask(messages=conversation, max_tokens=8).json()
    assert answer["usage"]["prompt_tokens"] == expected.prompt_tokens
    assert len(answer["sources"]) == 3
    assert answer["choices"][0]["message"]["content"]
