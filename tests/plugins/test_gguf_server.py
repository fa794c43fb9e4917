"""A llama.cpp server: it answers, and it ends with whoever started it."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from llama_server import needs_llama_server
from tiny_gguf import write_tiny_gguf
from user_llama_cpp import write_for_another_cpu, write_programs

from finery import StepError
from finery_gguf.programs import VARIABLE, WHEELS
from finery_gguf.server import start

pytestmark = needs_llama_server
TALK = [{"role": "user", "content": "Who?"}]


@pytest.fixture(params=["the wheel", "the user's"])
def gguf(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF; the server is the wheel's or a user's."""
    own = str(write_programs(tmp_path / "llama.cpp")) if request.param == "the user's" else WHEELS
    monkeypatch.setenv(VARIABLE, own)
    return write_tiny_gguf(tmp_path / "t.gguf")


def post(address: str, path: str, body: Any, key: str = "") -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it ended meanwhile
        return False


def test_it_answers_until_the_with_ends(gguf: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with start(gguf, slots=2, context=256, threads=1, log=log) as server:
        assert server.address.startswith("http://127.0.0.1:")
        assert server.build in ("llama-server 6123 (0ce8cd1)", server.build)
        # Its tokens are drawn at random, and one of them can be the end of the answer.
        body = {"messages": TALK, "max_tokens": 4, "ignore_eos": True}
        answer = post(server.address, "/v1/chat/completions", body)
        assert answer["usage"]["completion_tokens"] == 4
        assert is_running(server.pid)
    until(lambda: not is_running(server.pid))
    assert log.stat().st_size


def test_a_key_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, WHEELS)
    path = write_tiny_gguf(tmp_path / "t.gguf")
    with start(path, threads=1, context=256, api_key="sesame", alias="triage") as server:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            post(server.address, "/v1/chat/completions", {"messages": TALK})
        answer = post(
            server.address, "/v1/chat/completions", {"messages": TALK, "max_tokens": 1}, "sesame"
        )
        assert answer["model"] == "triage"
        assert "sesame" not in Path(f"/proc/{server.pid}/cmdline").read_text()


@pytest.mark.parametrize("key", [None, "sesame"])
def test_pages_of_others_cannot_read_the_answers_without_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """A page that its user opens runs on the same machine as the server."""
    monkeypatch.setenv(VARIABLE, WHEELS)
    path = write_tiny_gguf(tmp_path / "t.gguf")
    with start(path, threads=1, context=256, api_key=key) as server:

        def readers(origin: str) -> str | None:
            asked = urllib.request.Request(f"{server.address}/health", headers={"Origin": origin})
            with urllib.request.urlopen(asked, timeout=60) as answer:
                readers: str | None = answer.headers.get("Access-Control-Allow-Origin")
                return readers

        assert readers("http://localhost:3000") == "http://localhost:3000"
        for other in ("https://pages.invalid", "http://localhost.pages.invalid"):
            assert bool(readers(other)) is (key is not None)


PARENT = """
import sys, time
from pathlib import Path
from finery_gguf.server import start

with start(Path(sys.argv[1]), threads=1, context=256) as server:
    print(server.pid, server.address, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent(gguf: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(gguf)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, address = parent.stdout.readline().split()
        assert is_running(int(pid))
        parent.send_signal(how)
    until(lambda: not is_running(int(pid)))
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(f"{address}/health", timeout=5)


def test_a_damaged_file_is_an_error_with_what_the_server_said(gguf: Path) -> None:
    gguf.write_bytes(gguf.read_bytes()[:2000])
    with (
        pytest.raises(StepError, match="ended while it was starting") as raised,
        start(gguf, threads=1),
    ):
        pass
    assert f"failed to load model, '{gguf}'" in " ".join(raised.value.details)


def test_one_for_another_cpu_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints its version, and ends when it computes."""
    folder = write_programs(tmp_path / "llama.cpp") / "build" / "bin"
    ending = (write_for_another_cpu(tmp_path / "other") / "llama-server").read_text()
    program = folder / "llama-server"
    program.write_text(program.read_text().replace("server = xllamacpp", f"{ending}\nserver = x"))
    monkeypatch.setenv(VARIABLE, str(folder))
    with (
        pytest.raises(StepError, match="built for another CPU") as raised,
        start(write_tiny_gguf(tmp_path / "t.gguf"), threads=1),
    ):
        pass
    assert raised.value.fix == f"set {VARIABLE} to a llama.cpp built for this machine, or to " + (
        f"`{WHEELS}`"
    )
