"""`llama.bundle`: its command runs, its files fit together, and its client gets answers."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from llama_server import needs_llama_server
from serving import RECIPE, gguf_model, served, tiny_project
from tiny_gguf import CHATML, write_tiny_gguf

from finery import Bundle, Model
from finery.testing import run_step
from finery_gguf.llama import Gguf
from finery_serve.bundle.step import Facts, LlamaBundle, llama_swap
from finery_serve.llama import Options, read_run, served_template
from finery_transformers.frozen.template import prologue

NAMES = {"README.md", "client.py", "compose.yaml", "llama-swap.yaml"}
NAMES |= {"request.json", "run.sh", "tiny.gguf"}
SCHEMA = {
    "type": "object",
    "properties": {"late": {"type": "boolean"}},
    "required": ["late"],
    "additionalProperties": False,
}


def made(folder: Path, meta: dict[str, Any] | None = None, **settings: Any) -> Bundle:
    """A bundle of a tiny GGUF."""
    model = gguf_model(folder / "m", meta)
    bundle = run_step(LlamaBundle(**{"gguf": model, "name": "me/tiny", **settings}), folder)
    assert isinstance(bundle, Bundle)
    return bundle


def ran(script: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`run.sh` with `echo` in place of the server: it prints the arguments that it would get."""
    environment = {"PATH": os.environ["PATH"], "LLAMA_SERVER": "echo", **variables}
    return subprocess.run(
        ["sh", str(script), "--n-gpu-layers", "99"], env=environment, capture_output=True,
        text=True, check=False, cwd="/",
    )  # fmt: skip


def test_the_files(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    assert {path.name for path in bundle.path.iterdir()} == NAMES
    assert os.access(bundle.file("run.sh"), os.X_OK)
    source = tmp_path / "m" / "tiny.gguf"
    assert bundle.file("tiny.gguf").read_bytes() == source.read_bytes()
    assert bundle.meta == {
        "format": "llama", "name": "me/tiny", "file": "tiny.gguf", "run": "sh run.sh"
    }  # fmt: skip


def test_it_says_which_system_message_is_added(tmp_path: Path) -> None:
    bundle = made(tmp_path, {"frozen": {"system": "Name the intent."}})
    assert bundle.meta["system"] == "Name the intent."
    assert "begins with that of the training: Name the intent." in (
        bundle.file("README.md").read_text("utf-8")
    )


TOOL = {"type": "function", "function": {"name": "find", "parameters": {"b": 1, "a": None}}}
ROW = {"messages": [{"role": "user", "content": "Where's it?"}], "tools": [TOOL]}


def test_the_request_has_the_question_and_the_tools_of_the_rows(tmp_path: Path) -> None:
    example = {"system": "Name it.", "training_example": json.dumps(ROW)}
    bundle = made(tmp_path / "a", {"frozen": example})
    sent = {"model": "me/tiny", **ROW, "temperature": 0}
    assert json.dumps(json.loads(bundle.file("request.json").read_text("utf-8"))) == json.dumps(
        {key: sent[key] for key in ("model", "messages", "temperature", "tools")}
    )
    text = bundle.file("README.md").read_text("utf-8")
    assert "-d @request.json" in text
    assert "offer the same tools: find. A request must send them" in text
    own = made(tmp_path / "b", {"frozen": example}, prompt="Why?", system="Be brief.")
    asked = json.loads(own.file("request.json").read_text("utf-8"))["messages"]
    assert [turn["content"] for turn in asked] == ["Be brief.", "Why?"]
    differing = made(tmp_path / "c", {"frozen": {**example, "tools_differ": True}})
    assert "rows offer different tools" in differing.file("README.md").read_text("utf-8")


def test_the_command_that_asks_is_read_by_a_shell(tmp_path: Path) -> None:
    plain = json.dumps({"messages": [{"role": "user", "content": 'It\'s $5 \\ "ü"\n`ok`?'}]})
    text = (
        made(tmp_path, {"frozen": {"training_example": plain}}).file("README.md").read_text("utf-8")
    )
    command = text.partition("## Ask it\n\n```sh\n")[2].partition("\n```")[0]
    body = json.loads(shlex.split(command)[-1])
    assert body["messages"] == json.loads(plain)["messages"]


def test_the_command(tmp_path: Path) -> None:
    words = shlex.split(ran(made(tmp_path, slots=2).file("run.sh")).stdout)
    assert words[:6] == ["--model", "tiny.gguf", "--alias", "me/tiny", "--jinja", "--ctx-size"]
    assert words[6:] == [
        "2048", "--parallel", "2", "--temp", "0", "--repeat-penalty", "1", "--host", "127.0.0.1",
        "--port", "8080", "--n-gpu-layers", "99",
    ]  # fmt: skip


def test_the_command_demands_a_key_beyond_this_machine(tmp_path: Path) -> None:
    script = made(tmp_path).file("run.sh")
    refused = ran(script, SERVE_HOST="0.0.0.0")
    assert refused.returncode != 0
    assert "set LLAMA_API_KEY" in refused.stderr
    opened = ran(script, SERVE_HOST="0.0.0.0", LLAMA_API_KEY="k", SERVE_PORT="9")
    assert "--host 0.0.0.0 --port 9" in opened.stdout


def test_pages_of_others_cannot_read_answers_without_a_key(tmp_path: Path) -> None:
    bundle = made(tmp_path)
    program = tmp_path / "server"
    program.write_text('#!/bin/sh\necho "origins: ${LLAMA_ARG_CORS_ORIGINS-any}"\n')
    program.chmod(0o755)
    script, own = bundle.file("run.sh"), {"LLAMA_SERVER": str(program)}
    assert ran(script, **own).stdout == "origins: localhost\n"
    assert ran(script, **own, LLAMA_ARG_CORS_ORIGINS="*").stdout == "origins: *\n"
    assert ran(script, **own, LLAMA_API_KEY="k").stdout == "origins: any\n"
    (service,) = yaml.safe_load(bundle.file("compose.yaml").read_text())["services"].values()
    assert service["environment"][1:] == [
        "LLAMA_ARG_CORS_ORIGINS=${LLAMA_ARG_CORS_ORIGINS:-localhost}"
    ]


def test_a_frozen_template_is_all_that_a_server_needs(tmp_path: Path) -> None:
    arguments = {"enable_thinking": False}
    source = prologue(arguments, (), tools=False) + CHATML
    path = write_tiny_gguf(tmp_path / "tiny.gguf", template=source)
    meta = {"format": "gguf", "file": path.name, "chat_template_kwargs": arguments}
    assert served_template(Gguf(path, vocab_only=True), Model(tmp_path, meta=meta)) is None


def test_a_template_that_the_file_lacks_comes_along(tmp_path: Path) -> None:
    bundle = made(tmp_path, {"chat_template_kwargs": {"enable_thinking": False}})
    template = bundle.file("chat_template.jinja").read_text()
    assert template.endswith(CHATML)
    assert "set enable_thinking = false" in template
    assert "--chat-template-file chat_template.jinja" in bundle.file("run.sh").read_text()
    assert read_run(bundle.file("run.sh")).template == template


def test_the_container_and_llama_swap(tmp_path: Path) -> None:
    bundle = made(tmp_path, image="ghcr.io/ggml-org/llama.cpp:server-cuda-b11176")
    (service,) = yaml.safe_load(bundle.file("compose.yaml").read_text())["services"].values()
    assert service["image"] == "ghcr.io/ggml-org/llama.cpp:server-cuda-b11176"
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert service["command"][:2] == ["--model", "/bundle/tiny.gguf"]
    assert service["command"][8:10] == ["--temp", "0"] or "--temp" in service["command"]
    swap = yaml.safe_load(bundle.file("llama-swap.yaml").read_text())
    assert swap["macros"] == {"folder": "/path/to/this/folder"}
    assert '--model "${folder}/tiny.gguf" --alias me/tiny' in swap["models"]["me/tiny"]["cmd"]


@pytest.mark.parametrize("name", ["my model.gguf", 'a "b" c.gguf', "it's.gguf", "back\\slash.gguf"])
@pytest.mark.parametrize("folder", ["/models", "/my models"])
def test_llama_swap_gets_a_path_with_blanks_as_one_argument(name: str, folder: str) -> None:
    options = Options(model=name, name="tiny", context=64)
    facts = Facts(options, "chat_template.jinja", "image:1")
    command = yaml.safe_load(llama_swap(facts))["models"]["tiny"]["cmd"]
    words = shlex.split(command.replace("${folder}", folder))
    assert words[words.index("--model") + 1] == f"{folder}/{name}"
    assert words[words.index("--chat-template-file") + 1] == f"{folder}/chat_template.jinja"
    assert words[words.index("--port") + 1] == "${PORT}"


@needs_llama_server
@pytest.mark.slow
def test_its_client_gets_json_from_its_server(tmp_path: Path) -> None:
    pytest.importorskip("openai")
    export = "export:\n  ship: {use: llama.bundle, gguf: tiny, name: small, schema: schema.json}\n"
    project = tiny_project(tmp_path / "p", RECIPE + export)
    project.write({"schema.json": json.dumps(SCHEMA)})
    assert project.run("build").code == 0
    folder = project.folder / "build/t/ship"
    with served(project, "ship", "--port", "0") as (client, facts, _):
        assert client.get("/props")["default_generation_settings"]["params"]["temperature"] == 0
        environment = {**os.environ, "BASE_URL": facts["api"]}
        command = [sys.executable, str(folder / "client.py"), "Late?"]
        asked = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout).keys() == {"late"}
