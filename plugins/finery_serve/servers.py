"""What a server that a plugin registers by `finery_servers` takes and gives.

`finery_servers` maps a model's or bundle's format to `"module:function"`. The function is called as
`function(artifact, serving)` and returns a context manager: entered, the server answers requests;
left, its processes have ended.
"""

from pathlib import Path
from typing import Protocol

import msgspec


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve a model.

    name: what clients write as `model`. host: the address to listen on. port: None takes any free
    port. key: what clients must send as the API key; None lets everybody in who reaches the
    address. slots: requests answered at once; None leaves it to the server. context: tokens of
    a conversation with its answer; None leaves it to the server. log: a file for its messages.
    """

    name: str
    host: str = "127.0.0.1"
    port: int | None = None
    key: str | None = None
    slots: int | None = None
    context: int | None = None
    log: Path | None = None


class Running(Protocol):
    """A server that answers requests.

    address: e.g. `http://127.0.0.1:8080`; the OpenAI-compatible API is below `/v1`. pid: of its
    process. build: which program it is, e.g. `llama.cpp b6000`. A server that doesn't answer to
    `Serving.name` alone also has `names`, see `names_of`.
    """

    @property
    def address(self) -> str:
        """Where it listens."""

    @property
    def pid(self) -> int:
        """Its process."""

    @property
    def build(self) -> str:
        """Which program, and which version."""


def names_of(running: Running, serving: Serving) -> tuple[str, ...]:
    """What clients may write as `model`: a server's `names`, the base first, else the one name."""
    return tuple(getattr(running, "names", ())) or (serving.name,)
