"""How vLLM's server is started and ended, with a stand-in for it (see `vllm_standin`)."""

import os
import socket
from pathlib import Path

import pytest
from needs import may_lack
from vllm_standin import write_environment

from finery import StepError, UsageError
from finery_vllm import server as starting
from finery_vllm.installation import VARIABLE
from finery_vllm.server import start


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


def has(address: str) -> bool:
    """Whether this machine has an address: not all have IPv6."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as tried:
            tried.bind((address, 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("host", "reached"), [
    ("127.0.0.1", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("0.0.0.0", "127.0.0.1"),
    ("::1", "[::1]"),
])  # fmt: skip
def test_it_is_asked_where_it_listens(folder: Path, host: str, reached: str) -> None:
    if not has(host):
        pytest.skip(may_lack(f"needs the address {host}"))
    with start(folder, host=host) as server:
        assert server.address.rpartition(":")[0] == f"http://{reached}"
        assert server.request("/health") is None


def test_a_port_is_looked_for_where_it_listens(folder: Path) -> None:
    """Another program at the port of another address isn't taken for it."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = int(other.getsockname()[1])
        with start(folder, host="127.0.0.2", port=port) as server:
            assert server.address == f"http://127.0.0.2:{port}"
        in_use = pytest.raises(UsageError, match=f"port {port} of 127.0.0.1 can't be used")
        with in_use, start(folder, port=port):
            pass


def test_a_package_that_lacks_a_library_is_named(folder: Path) -> None:
    python = Path(os.environ[VARIABLE], "bin", "python")
    python.write_text(
        "#!/bin/sh\n"
        "echo 'OSError: libc10_cuda.so: cannot open shared object file: No such file'\n"
        "echo 'OSError: Could not load this library: /x/torchaudio/lib/_torchaudio.so'\n"
        "exit 1\n"
    )
    with pytest.raises(StepError, match="while it was starting") as error, start(folder):
        pass
    assert "torchaudio" in "\n".join(error.value.details)
    assert "exclude the package" in str(error.value.fix)
