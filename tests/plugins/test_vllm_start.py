"""How vLLM's server is started and ended, with a stand-in for it (see `vllm_standin`)."""

import os
from pathlib import Path

import pytest
from vllm_standin import write_environment

from finery_vllm.server import start as starting
from finery_vllm.server.installation import VARIABLE
from finery_vllm.server.start import start


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to serve, in which the stand-in finds nothing to read."""
    monkeypatch.setenv(VARIABLE, str(write_environment(tmp_path / "env")))
    monkeypatch.setattr(starting, "START_SECONDS", 20.0)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    return model


def test_it_is_no_part_of_the_terminals_foreground(folder: Path) -> None:
    """Ctrl-C in `finery chat` stops an answer: its signal must not reach the server."""
    with start(folder) as server:
        assert os.getpgid(server.pid) == os.getsid(server.pid) == server.pid
    assert server.process.returncode is not None
