"""Starts vLLM as a server on this machine. Public for other plugins: `start` and `Server`."""

import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from finery import StepError, outside_key
from finery.execute.gpus import visible_gpus
from finery_serve.client import Client, Refused
from finery_serve.processes import Address, ServerProgram, log_file
from finery_transformers.precision import auto_dtype
from finery_vllm.server.command import SERVER_MODULE, cpu_options, serving_facts
from finery_vllm.server.installation import installation

__all__ = ["Refused", "Server", "new_key", "start"]

START_SECONDS = 900.0
"""Until a server must answer. Large models load for minutes, and a GPU compiles graphs."""
FIXED_VARIABLES = {
    "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CONFIGURE_LOGGING": "1",
    "PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
"""Variables of the server: it reports nothing to anybody."""
_PYTHON_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
"""Variables of this Python that another one must not get."""
_ERROR = re.compile("Error|ERROR")


class Server(NamedTuple):
    """A running server.

    address: e.g. `http://127.0.0.1:8080`. build: which vLLM it is. api_key: what requests must
    present. names: of the models that it serves: the base, then the adapters. log: the file with
    its output.
    """

    address: str
    pid: int
    build: str
    api_key: str | None
    names: tuple[str, ...]
    log: Path
    program: ServerProgram
    process: "subprocess.Popen[bytes]"

    def request(
        self, path: str, body: Mapping[str, Any] | None = None, *, seconds: float = 600.0
    ) -> Any:
        """The JSON or text that answers a GET, or a POST with `body`. `Refused` for an HTTP error.

        `StepError` with the end of the log if the server has ended.
        """
        try:
            content = Client(self.address, self.api_key, seconds).send(path, body)
        except Refused:
            raise
        except StepError as error:
            status = self.process.poll()
            if status is not None:
                raise self.program.ended(status, self.log) from error
            raise StepError(
                f"vLLM doesn't answer: {error.what}", details=self.program.last_lines(self.log)
            ) from error
        try:
            return json.loads(content) if content else None
        except ValueError:
            return content.decode("utf-8", "replace")


@contextmanager
def start(
    folder: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    slots: int | None = None,
    context: int | None = None,
    api_key: str | None = None,
    log: Path | None = None,
    alias: str | None = None,
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve a Hugging Face folder, or a folder of `vllm.bundle`, until the block ends.

    adapters: name → folder, in addition to those of a bundle. host: the address to listen on. port:
    default: a free one. slots: sequences that are answered at once. context: tokens of prompt and
    answer; default: the model's. api_key: default: none is needed. log: the file for vLLM's output;
    default: a temporary one. alias: the name of the model, or of a bundle's base; default: `model`
    or the bundle's. options: further arguments of vLLM's server. environment: further variables.

    `StepError` if there is no vLLM, or it ends before it answers, and `UsageError` for a port that
    is in use.
    """
    vllm = installation()
    facts = serving_facts(
        folder, alias=alias, adapters=adapters or {}, slots=slots, context=context
    )
    at = Address(host, port or 0).free()
    variables = {
        name: value for name, value in os.environ.items() if name not in _PYTHON_VARIABLES
    } | FIXED_VARIABLES
    if "--revision" not in facts.arguments:
        variables["HF_HUB_OFFLINE"] = "1"
    # It compiles kernels with tools of its environment.
    tools = [str(vllm.python.parent), os.environ.get("PATH", os.defpath)]
    variables["PATH"] = os.pathsep.join(tools)
    if api_key is not None:
        variables["VLLM_API_KEY"] = api_key  # a command line can be read by every user
    variables |= {**({} if visible_gpus() else cpu_options()), **(environment or {})}
    program = ServerProgram(
        f"vLLM {vllm.version}",
        [
            str(vllm.python), "-m", SERVER_MODULE, *_dtype(), *facts.arguments, "--host", host,
            "--port", str(at.port), *options,
        ],
        variables, START_SECONDS, _ERROR, _fix, folder,
    )  # fmt: skip
    client = Client(at.url, api_key, seconds=5.0)
    with log_file(log) as output:
        answering = program.running(output, lambda: client.is_up("/health") or None)
        with answering as (process, _):
            yield Server(
                client.address, process.pid, program.name, api_key, facts.names, output, program,
                process,
            )  # fmt: skip


def _dtype() -> list[str]:
    """On a CPU, what it multiplies: vLLM takes bf16 also where that is slow."""
    name = auto_dtype()
    return ["--dtype", "float32"] if name == "fp32" and not visible_gpus() else []


@outside_key
def new_key() -> str:
    """An API key for a server that only this process uses."""
    return secrets.token_urlsafe(24)


def _fix(_status: int, log: str) -> str:
    if "out of memory" in log or "No available memory" in log or "KV cache" in log:
        return "use a smaller context (`context:`), or more of the GPU's memory (`gpu_memory:`)"
    if "cannot open shared object file" in log:
        return "exclude the package whose library can't be loaded: see docs/howto/vllm.md"
    return "read its output above; the model's architecture must be one that this vLLM knows"
