"""`finery chat` with real tiny models: in a pipe, side by side, and what it saves."""

import io
import json
import os
import pty
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import FINERY, Project, Ran
from llama_server import needs_llama_server
from serving import RECIPE, tiny_project
from tiny_gguf import CHATML

from finery import Completion, Sampling
from finery.rows import Conversation
from finery_serve.chat.screen import Plain, disable_echo
from finery_serve.chat.streams import ServerTalker, Write
from finery_serve.chat.talk import Session

pytestmark = needs_llama_server
PROMPTED, TAKEN = "\x1b[?2004h", "\x1b[?2004l"
"""What prompt_toolkit writes before a line is typed, and after it."""
TWO = RECIPE.replace("data:", "  other: {use: local.model, path: other.gguf}\ndata:")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two built models with different templates."""
    from tiny_gguf import write_tiny_gguf

    project = tiny_project(tmp_path_factory.mktemp("chat") / "p", TWO)
    write_tiny_gguf(project.folder / "other.gguf", template=CHATML.replace("assistant\n", "x\n"))
    assert project.run("build").code == 0
    return project


def chat(project: Project, typed: str, *args: str) -> Ran:
    """Run `finery chat` with lines from a pipe."""
    process = project.start("chat", *args, stdin=subprocess.PIPE)
    out, err = process.communicate(typed, timeout=180)
    return Ran(process.returncode, out, err)


def saved(project: Project, name: str) -> list[list[dict[str, str]]]:
    lines = (project.folder / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["messages"] for line in lines]


def test_each_line_of_a_pipe_is_a_question(two: Project) -> None:
    typed = "Hi\n/system Be brief.\nWhy?\nHow?\n/save talks/a.jsonl\n/clear\n/save\n/nothing\n"
    ran = chat(two, typed, "tiny", "--max-tokens", "4")
    assert ran.code == 2, "an error"
    assert "loading tiny …" in ran.err
    (messages,) = saved(two, "talks/a.jsonl")
    assert [m["role"] for m in messages] == ["system", *["user", "assistant"] * 2]
    assert [m["content"] for m in messages][:2] == ["Be brief.", "Why?"]
    assert "saved a conversation of 2 turns in" in ran.err
    assert "there is nothing to save yet" in ran.err
    assert "there is no command /nothing" in ran.err
    assert messages[-1]["content"] in ran.out


def test_a_line_that_is_not_utf_8_is_an_error_and_the_next_one_is_answered(two: Project) -> None:
    args = ("chat", "tiny", "--max-tokens", "4")
    process = two.start(*args, stdin=subprocess.PIPE, errors="surrogateescape")
    out, err = process.communicate("\udcff bad\nHi\n", timeout=180)
    assert process.returncode == 2
    assert "the question isn't UTF-8" in err
    assert len(out.splitlines()) == 1


def test_what_is_saved_is_read_by_data_file(two: Project, tmp_path: Path) -> None:
    assert (
        chat(two, "Hi\n/save b.jsonl\nWhy?\n/save b.jsonl\n", "tiny", "--max-tokens", "3").code == 0
    )
    recipe = "finery: 1\nname: t\ndata:\n  rows: {use: data.file, path: b.jsonl}\n"
    reader = Project(tmp_path)
    reader.write({"recipe.yaml": recipe, ".git/x": ""})
    (tmp_path / "b.jsonl").write_bytes((two.folder / "b.jsonl").read_bytes())
    assert reader.run("build").code == 0
    assert len(reader.rows("rows")) == 2


def test_the_same_question_gets_the_same_answer(two: Project) -> None:
    first, second = (chat(two, "Why?\n", "tiny", "--max-tokens", "6").out for _ in range(2))
    assert first == second != ""


def test_two_models_in_a_pipe(two: Project) -> None:
    typed = "Hi\n/save c.jsonl\n/save other d.jsonl\n"
    ran = chat(two, typed, "tiny", "--beside", "other", "--max-tokens", "4")
    assert ran.code == 0
    for name, other, file in (("tiny", "other", "c.jsonl"), ("other", "tiny", "d.jsonl")):
        (messages,) = saved(two, file)
        assert f"{name}: {messages[-1]['content']} … (cut" in ran.out
        assert f"{file}, with {name}\n/save {other} saves the other" in ran.err


def test_an_error_of_the_server_does_not_end_the_talk(two: Project) -> None:
    ran = chat(two, f"{'long ' * 3000}\nHi\n", "tiny", "--max-tokens", "2")
    assert ran.code == 1, "since a question wasn't answered"
    assert "the server refuses the request" in ran.err
    assert ran.out.strip()


@pytest.mark.slow
def test_a_folder_answers_as_its_engine_does(tmp_path: Path) -> None:
    from tiny_llama import tiny_llama

    from finery import Request, Sampling
    from finery.testing import TestJob
    from finery_transformers.engine import TransformersEngine

    project = tiny_project(tmp_path / "p")
    model = tiny_llama(project.folder / "hf")
    project.edit("recipe.yaml", "path: tiny.gguf", "path: hf")
    assert project.run("build").code == 0
    ran = chat(project, "Hi\n/save d.jsonl\n", "tiny", "--max-tokens", "8")
    assert ran.code == 0, ran.err
    (messages,) = saved(project, "d.jsonl")
    engine = TransformersEngine(model, TestJob())
    asked = Request([{"role": "user", "content": "Hi"}])
    (expected,) = engine.generate([asked], Sampling(max_tokens=8))
    assert messages[-1]["content"] == expected.text


def test_what_is_typed_during_an_answer_is_not_shown_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    outside, terminal = pty.openpty()
    with os.fdopen(outside, "r+b", buffering=0) as keys, os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with suppress(KeyboardInterrupt), disable_echo():
            keys.write(b"typed early\n")
            assert stdin.readline() == "typed early\n"
            raise KeyboardInterrupt
        keys.write(b"typed later\n")
        assert stdin.readline() == "typed later\n"
        assert keys.read(100) == b"typed later\r\n"


@pytest.mark.real
def test_ctrl_c_stops_an_answer_and_not_the_talk(smollm2_gguf: Path, tmp_path: Path) -> None:
    project = tiny_project(tmp_path / "p")
    (project.folder / "tiny.gguf").unlink()
    (project.folder / "tiny.gguf").symlink_to(smollm2_gguf)
    assert project.run("build").code == 0
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        [FINERY, "chat", "tiny"], cwd=project.folder, start_new_session=True,
        env={**project.environment(), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
        stdin=inside, stdout=inside, stderr=inside, preexec_fn=_controlling(inside),
    )  # fmt: skip
    try:
        read_until(terminal, PROMPTED)
        # A long answer, whatever its words are: those differ between processors.
        os.write(terminal, b"Tell me a long story of a knight, a dragon and a lighthouse.\n")
        read_until(terminal, TAKEN)
        read_until(terminal, " ")
        os.write(terminal, b"\x03")
        assert "stopped" in read_until(terminal, PROMPTED)
        os.write(terminal, b"/quit\n")
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(inside)


def _controlling(terminal: int) -> Callable[[], None]:
    """What makes a terminal that of a new process, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    def prepare() -> None:
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    return prepare


def read_until(terminal: int, text: str, seconds: float = 120) -> str:
    """What a terminal shows until `text` is in it."""
    import select

    seen, deadline = "", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < deadline, seen
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode("utf-8", "replace")
    return seen


def test_what_a_question_is_sent_with(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Conversation] = []

    class Recorder:
        """A model that keeps what it was asked."""

        tools = None

        def answer(self, messages: Conversation, sampling: Sampling, write: Write) -> Completion:
            asked.append(messages)
            return Completion(text="ok", finish_reason="stop", prompt_tokens=1, completion_tokens=1)

    session = Session({"m": Recorder()}, Sampling(max_tokens=4), Plain(), usual="Name it.")
    session.run(io.StringIO("one\n/system Be brief.\ntwo\n/system\nthree\n"))
    said = [messages[0] for messages in asked]
    assert [m["content"] for m in said] == ["Name it.", "Be brief.", "Name it."]
    assert {m["role"] for m in said} == {"system"}
    err = capsys.readouterr().err
    assert "system message, as in the training: Name it." in err
    assert "a new conversation, with the system message of the training" in err
    asked.clear()
    session = Session({"m": Recorder()}, Sampling(max_tokens=4), Plain(), forgetful=["m"])
    session.run(io.StringIO("one\ntwo\n"))
    assert [[m["content"] for m in messages] for messages in asked] == [["one"], ["two"]]
    assert "each question is a new conversation with m\n" in capsys.readouterr().err


def test_the_tools_of_the_training_are_offered_and_calls_are_shown_and_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = [{"type": "function", "function": {"name": "find"}}]
    sent: list[Any] = []

    class Calling:
        """A client whose server calls a tool, in parts."""

        def stream(self, _path: str, body: Any) -> Iterator[dict[str, Any]]:
            sent.append(body)
            first = {"id": "c1", "function": {"name": "find", "arguments": '{"it'}}
            for part in (first, {"function": {"arguments": 'em": "key"}'}}):
                delta = {"tool_calls": [{"index": 0, **part}]}
                yield {"choices": [{"delta": delta, "finish_reason": "tool_calls"}]}

    client: Any = Calling()
    talker = ServerTalker(client, "m", tools, "none")
    session = Session({"m": talker}, Sampling(max_tokens=4), Plain())
    session.run(io.StringIO(f"Where?\n/save {tmp_path / 'a.jsonl'}\n"))
    assert (sent[0]["tools"], sent[0]["tool_choice"]) == (tools, "none")
    assert 'find(item="key")' in capsys.readouterr().out
    row = json.loads((tmp_path / "a.jsonl").read_text("utf-8"))
    assert row["tools"] == tools
    (call,) = row["messages"][-1]["tool_calls"]
    assert call["function"] == {"name": "find", "arguments": '{"item": "key"}'}
