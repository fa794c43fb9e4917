"""`finery serve` and `finery chat` with Ollama: the commands, and a server of finery's own.

Ollama itself isn't here: a program of the same name on the PATH notes how it was called, or stands
in for its server (see `ollama_standin`).
"""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import FINERY, Project, running, until
from llama_server import needs_llama_server
from ollama_standin import write_program
from serving import RECIPE, served, tiny_project

EXPORT = RECIPE + "export:\n  shipped: {use: ollama.modelfile, gguf: tiny, name: me/tiny:1}\n"
PROGRAM = """#!/bin/sh
pwd -P > "$NOTED"
printf '%s\\n' "$@" >> "$NOTED"
exit ${STATUS:-0}
"""
COMMANDS = "cd build/t/shipped\nollama create me/tiny:1 -f Modelfile\nollama run me/tiny:1\n"
CALL = ["create", "me/tiny:1", "-f", "Modelfile"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with a built `ollama.modelfile`, and no Ollama on its PATH."""
    project = tiny_project(tmp_path_factory.mktemp("ollama") / "p", EXPORT)
    project.env["PATH"] = "/usr/bin:/bin"
    assert project.run("build").code == 0
    return project


@pytest.fixture
def noted(built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which a program named `ollama` notes its folder and its arguments."""
    program = tmp_path / "ollama"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    path = f"{tmp_path}:{built.env['PATH']}"
    monkeypatch.setattr(built, "env", {"PATH": path, "NOTED": str(tmp_path / "noted")})
    return tmp_path / "noted"


def test_without_ollama_it_prints_the_commands_and_what_is_missing(built: Project) -> None:
    ran = built.run("serve", "--ollama", "shipped")
    assert (ran.code, ran.out) == (0, COMMANDS)
    assert "ollama isn't on the PATH: install Ollama" in ran.err
    refused = built.run("serve", "--ollama", "shipped", "--yes")
    assert (refused.code, refused.out) == (2, "")
    assert "finery export shipped DIR" in refused.err


def test_in_a_pipe_nothing_runs_unless_it_is_asked_for(built: Project, noted: Path) -> None:
    ran = built.run("serve", "--ollama", "shipped")
    assert (ran.code, ran.out, ran.err) == (0, COMMANDS, "")
    assert not noted.exists()
    ran = built.run("serve", "--ollama", "shipped", "--yes")
    assert ran.code == 0
    assert "me/tiny:1 is in Ollama: ollama run me/tiny:1" in ran.err
    folder, *arguments = noted.read_text().splitlines()
    assert arguments == CALL
    assert Path(folder) == (built.folder / "build/t/shipped").resolve()
    facts = json.loads(built.run("serve", "--ollama", "shipped", "--json").out)
    assert facts["command"] == ["ollama", *CALL]


def test_what_ollama_refuses_fails(built: Project, noted: Path) -> None:
    built.env["STATUS"] = "3"
    ran = built.run("serve", "--ollama", "shipped", "--yes")
    assert ran.code == 1
    assert "ollama create me/tiny:1 -f Modelfile ended with exit code 3" in ran.err


@pytest.mark.parametrize(("typed", "runs"), [("n", False), ("y", True)])
def test_a_terminal_is_asked(built: Project, noted: Path, typed: str, runs: bool) -> None:
    terminal, own = pty.openpty()
    process = subprocess.Popen(
        [FINERY, "serve", "--ollama", "shipped"], cwd=built.folder, env=built.environment(),
        stdin=own, stdout=own, stderr=own, start_new_session=True,
    )  # fmt: skip
    os.close(own)
    shown = b""

    def is_asked() -> bool:
        nonlocal shown
        shown += os.read(terminal, 1000)
        return b"import me/tiny:1 now?" in shown

    until(is_asked)
    os.write(terminal, f"{typed}\n".encode())
    assert process.wait(120) == 0
    os.close(terminal)
    assert noted.exists() is runs


def test_the_removed_setting_for_older_versions_says_what_to_do(tmp_path: Path) -> None:
    recipe = EXPORT.replace("gguf: tiny", 'gguf: tiny, ollama: "<0.30"')
    ran = tiny_project(tmp_path / "p", recipe).run("check")
    assert ran.code == 2
    assert "unknown setting 'ollama'" in ran.err
    assert "remove it: finery writes Modelfiles for Ollama 0.30 or later" in ran.err


# -- Ollama's own server ---------------------------------------------------------------------------


@pytest.fixture
def standin(built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stand-in for Ollama on the PATH. Returns a mark in the environment of its processes."""
    path = f"{write_program(tmp_path / 'bin')}:{built.env['PATH']}"
    monkeypatch.setattr(built, "env", {"PATH": path, "MARK": str(tmp_path)})
    return str(tmp_path)


@pytest.mark.slow
@needs_llama_server
def test_a_folder_is_served_by_ollama(built: Project, standin: str) -> None:
    with served(built, "shipped", "--port", "0") as (client, facts, process):
        assert (facts["model"], facts["server"]) == ("me/tiny:1", "Ollama 0.33.0")
        asked = [{"role": "user", "content": "Hi"}]
        body = {"model": "me/tiny:1", "messages": asked, "max_tokens": 2, "temperature": 0}
        answer = client.post("/v1/chat/completions", body)
        assert answer["choices"][0]["finish_reason"] == "length"
    assert process.returncode == 0
    assert running(standin) == []


@pytest.mark.slow
@needs_llama_server
def test_it_chats(built: Project, standin: str) -> None:
    process = built.start("chat", "shipped", "--max-tokens", "4", stdin=subprocess.PIPE)
    out, err = process.communicate("Hi\n/save chat.jsonl\n", timeout=120)
    assert process.returncode == 0, err
    (line,) = (built.folder / "chat.jsonl").read_text().splitlines()
    assert json.loads(line)["messages"][1]["content"].strip() in out
    assert running(standin) == []


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("chat",)])
def test_a_closed_terminal_leaves_no_copy_of_the_model(
    built: Project, standin: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    built.env["TMPDIR"] = str(folder)
    name, *options = command
    process = built.start(name, "shipped", *options, stdin=subprocess.PIPE)
    until(lambda: [*folder.rglob("blobs/*")])
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert [*folder.iterdir()] == []
    assert running(standin) == []
