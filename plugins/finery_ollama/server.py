"""A running Ollama with only the model of one folder, for `finery serve` and `serve.check`.

Input: a folder of `ollama.modelfile`. Output: the server's address, its prompts and how it samples.
It is separate from the user's Ollama. The version of the installed one is in the keys of checks as
a fact, see `build_facts`.

What Ollama does with a request was read from its source, 0.33.0-rc2 (fb30760): server/routes.go,
server/images.go, openai/openai.go, llm/llama_server.go, api/types.go. It was tried by hand with
Ollama 0.32.15.
"""

import os
import re
import shutil
import subprocess
import tempfile
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from finery import Artifact, DataError, StepError, UsageError
from finery_gguf.llama import Gguf
from finery_ollama.modelfile import read_modelfile
from finery_serve.client import Client
from finery_serve.processes import Address, ServerProgram, log_file, run_program
from finery_serve.servers import Fault, Kind, Prompt, Serving, sampling_faults
from finery_serve.standalone_server import LOOPBACK

PROGRAM = "ollama"
NOWHERE = "127.0.0.1:1"
"""An address at which no Ollama listens, so that the program prints its own version."""
_VERSION = re.compile(r"version is (\S+)")
_SECONDS = 60.0  # for the program to print its version


def program() -> Path:
    """The `ollama` on the PATH. `StepError` without one."""
    path = shutil.which(PROGRAM)
    if path is None:
        raise StepError(
            f"{PROGRAM} isn't on the PATH",
            fix="install Ollama (https://ollama.com/download), or use a llama.bundle of the same "
            "GGUF instead of this folder",
        )
    return Path(path)


def build_facts() -> dict[str, str]:
    """For keys: the version of the Ollama on the PATH; empty without one."""
    path = shutil.which(PROGRAM)
    if path is None:
        return {}
    status = os.stat(path)
    return {f"version of {PROGRAM}": _printed_version(path, status.st_mtime_ns, status.st_size)}


def build_files() -> list[str]:
    """For stamps: where Ollama is or might be installed."""
    return [os.path.abspath(os.path.join(folder, PROGRAM)) for folder in os.get_exec_path()]


@cache
def _printed_version(path: str, _time: int, _size: int) -> str:
    """The output of `ollama --version`, or the reason why it can't run."""
    try:
        ran = run_program([path, "--version"], _SECONDS, OLLAMA_HOST=NOWHERE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    match = _VERSION.search(ran.stdout + ran.stderr)
    return match[1] if match else f"unknown: it ended with exit code {ran.returncode}"


START_SECONDS = 120.0
"""Until the server must answer. It looks for GPUs first."""
HARDWARE = frozenset({
    "OLLAMA_LLM_LIBRARY", "OLLAMA_VULKAN", "OLLAMA_IGPU_ENABLE", "OLLAMA_GPU_OVERHEAD",
    "OLLAMA_SCHED_SPREAD", "OLLAMA_LOAD_TIMEOUT",
})  # fmt: skip
"""Settings of Ollama in the environment that say how to use this machine.

The others would change prompts or answers (OLLAMA_GO_TEMPLATE, OLLAMA_CONTEXT_LENGTH), or lead to
the user's own server and models.
"""
_ERROR = re.compile("^Error|level=ERROR")


class Server(NamedTuple):
    """A running Ollama. address: e.g. `http://127.0.0.1:8080`. version: e.g. `0.33.0`."""

    address: str
    pid: int
    version: str


@contextmanager
def start(
    folder: Path,
    name: str,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    slots: int | None = None,
    log: Path | None = None,
) -> Iterator[Server]:
    """An Ollama with the model of a folder's Modelfile, until the `with` ends.

    It has its own models and settings in a temporary folder, so that the user's Ollama isn't
    affected. The temporary folder needs room for a copy of the GGUF. The server also ends if this
    process is killed.
    name: of the model. host: the address to listen on. port: any free one by default. slots:
        requests that are answered at once, 1 by default. log: a file for the server's output; by
        default a temporary one.
    Raises `StepError` with Ollama's message if it isn't installed, ends before it answers, or
    refuses the model, and `UsageError` for a port that is in use.
    """
    with tempfile.TemporaryDirectory(prefix="finery-ollama-") as scratch, log_file(log) as output:
        address = Address(host, port or 0).free().url
        environment = _environment(Path(scratch), address.removeprefix("http://"), slots)
        ollama = ServerProgram(
            "Ollama", [str(program()), "serve"], environment, START_SECONDS, _ERROR,
            lambda _status, _log: "read its output above; run `ollama serve` to see whether it "
            "starts by itself",
        )  # fmt: skip
        client = Client(address, seconds=5.0)
        with ollama.running(output, lambda: _version_at(client)) as (process, version):
            if client.get("/api/tags").get("models"):  # it was given an empty folder for models
                raise StepError(
                    f"another Ollama answers at {address}, so nothing was imported",
                    fix="run this again; with --port, choose another port",
                )
            _create(name, folder, ollama, Path(scratch, "create.log"))
            yield Server(address, process.pid, version)


def _environment(scratch: Path, listening: str, slots: int | None) -> dict[str, str]:
    """The variables of a server that has only what is in `scratch`."""
    passed = {
        key: value
        for key, value in os.environ.items()
        if key in HARDWARE or not key.startswith(("OLLAMA_", "LLAMA_ARG_"))
    }
    return passed | {
        "HOME": str(scratch),  # Ollama writes a key pair into it, and reads settings
        "OLLAMA_HOST": listening,
        "OLLAMA_MODELS": str(scratch / "models"),
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NUM_PARALLEL": str(slots or 1),
        "OLLAMA_NO_CLOUD": "1",
        "NO_PROXY": "*",  # `ollama create` would ask a proxy for the server
        "no_proxy": "*",
    }


def _version_at(client: Client) -> str | None:
    """The version of the Ollama at an address; None until one answers."""
    with suppress(StepError, ValueError):
        answer = client.get("/api/version")
        if isinstance(answer, dict) and "version" in answer:
            return str(answer["version"])
    return None


def _create(name: str, folder: Path, ollama: ServerProgram, log: Path) -> None:
    """Import the folder's model, as its RUN.md says to do it."""
    with log.open("wb") as output:
        ran = subprocess.run(
            [program(), "create", name, "-f", "Modelfile"], cwd=folder, env=ollama.environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    if ran.returncode != 0:
        raise StepError(
            f"`ollama create {name} -f Modelfile` ended with exit code {ran.returncode}",
            where=str(folder),
            details=ollama.last_lines(log),
            fix="read its output above; the temporary folder (TMPDIR) needs room for a copy of the "
            "GGUF, and the Modelfile may need a later Ollama",
        )


USES_CHAT_TEMPLATE = (0, 30)
"""The first version that uses the chat template of a GGUF."""
NO_PENALTY = (0, 32, 10)
"""The first version whose default is `repeat_penalty: 1`; before, it is 1.1."""
NEUTRAL = {
    "temperature": 0.0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""Parameters by which Ollama answers greedily."""
DEFAULTS = {"temperature": 0.8}
"""Those whose default in Ollama is another one, in all versions."""
BOS = "<bos>"
"""Text that Ollama removes from the start of its prompts if llama.cpp adds a BOS."""
_RENDERER = re.compile(r'^RENDERER "{0,3}([\w.-]+)', re.MULTILINE)
TOKENS = (
    "the tokens of the prompts: Ollama shows only their text, which finery turned into tokens with "
    "the tokenizer of the GGUF. Ollama does that itself, with its llama.cpp"
)
API_SAMPLES = (
    "requests to Ollama's /v1/chat/completions that set no temperature: Ollama answers them "
    "with temperature 1, whatever the Modelfile says. Send `temperature: 0`, or use /api/chat"
)


class OllamaServer:
    """A running Ollama with one model. names: of the model.

    system: the message that Ollama adds to conversations without one. renderer: the code in Ollama
    that writes the prompts instead of a template, if any. unchecked: what it doesn't expose.
    """

    unchecked: tuple[tuple[Kind, str], ...] = (("prompts", TOKENS), ("sampling", API_SAMPLES))

    def __init__(self, server: Server, name: str, gguf: Gguf) -> None:
        self.address, self.pid = server.address, server.pid
        self.build = f"Ollama {server.version or 'of an unknown version'}"
        self.names = (name,)
        self._version = server.version
        self._client = Client(server.address)
        self._gguf = gguf

    @cached_property
    def _shown(self) -> dict[str, Any]:
        """Ollama's facts about the model."""
        shown: dict[str, Any] = self._client.post("/api/show", {"model": self.names[0]})
        return shown

    @property
    def system(self) -> str:
        """The Modelfile's SYSTEM."""
        return str(self._shown.get("system") or "")

    @property
    def stops(self) -> list[str]:
        """The texts at which it ends answers. Ollama shows them as Go's source writes texts."""
        shown = str(self._shown.get("parameters", ""))
        return [literal_eval(text) for text in re.findall(r'(?m)^stop +(".*")$', shown)]

    @property
    def renderer(self) -> str | None:
        """The name of the renderer that Ollama chose for the model's architecture."""
        match = _RENDERER.search(str(self._shown.get("modelfile", "")))
        return str(self._shown.get("renderer") or "") or (match[1] if match else None)

    def chat_template(self) -> str | None:
        """The template that it uses: the GGUF's, or a TEMPLATE in Go's language."""
        return self._shown.get("template") or None

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """The prompt for a request, with a BOS if llama.cpp adds one.

        `StepError` with Ollama's words if it refuses the request, and for a prompt that is longer
        than the context: Ollama would leave out a part of it.
        """
        text = self._rendered(request)
        tokens = self._tokens(text)
        if self._context is not None and len(tokens) >= self._context:
            raise StepError(
                f"the prompt has {len(tokens)} tokens, and the model's context in Ollama "
                f"{self._context}, which includes the answer: set a larger `num_ctx` in "
                "`parameters` of ollama.modelfile"
            )
        return Prompt(text, tokens)

    def faults(self) -> list[Fault]:
        """Faults: its parameters sample."""
        # A line each, `name  value`; of one with several values, such as `stop`, the last counts.
        lines = str(self._shown.get("parameters", "")).splitlines()
        parameters = {name: value.strip() for name, _, value in (x.partition(" ") for x in lines)}
        return ollama_sampling_faults(parameters, self._version)

    def adapter_fault(self, name: str, prompts: Sequence[list[int]]) -> Fault | None:
        """None: a GGUF is one complete model."""
        return None

    def _rendered(self, request: Mapping[str, Any]) -> str:
        """The prompt's text, made by the code that also answers such a request."""
        body = {**request, "stream": False, "_debug_render_only": True}
        shown = self._client.post("/v1/chat/completions", body).get("_debug_info") or {}
        if "rendered_template" not in shown:
            raise StepError(f"{self.build} doesn't show the prompt", fix="use a later Ollama")
        return str(shown["rendered_template"])

    def _tokens(self, text: str) -> list[int]:
        """The tokens of a prompt's text, as llama.cpp's server makes them for Ollama."""
        if not self._gguf.adds_bos:
            return self._gguf.encode(text)
        if self.renderer is not None or self.chat_template() != self._gguf.chat_template:
            text = text.removeprefix(BOS)
        return [self._gguf.bos, *self._gguf.encode(text)]

    @cached_property
    def _context(self) -> int | None:
        """Tokens of a prompt and its answer: `num_ctx`, at most what the model was trained with.

        None if Ollama doesn't say. The first prompt loads the model, which then has one.
        """
        loaded, *_ = self._client.get("/api/ps").get("models") or [{}]
        return int(loaded.get("context_length") or 0) or None


@contextmanager
def serve_folder(bundle: Artifact, serving: Serving) -> Iterator[OllamaServer]:
    """Serve a folder of `ollama.modelfile` with a separate Ollama.

    Raises `StepError` if Ollama isn't installed, is too old, can't start or refuses the folder,
    `UsageError` for options that it doesn't have, and `DataError` for a Modelfile without a GGUF.
    """
    _check_options(serving)
    gguf = Gguf(_file_of(bundle), vocab_only=True)
    name = str(bundle.meta["name"])
    with start(
        bundle.path, name, host=serving.host, port=serving.port, slots=serving.slots,
        log=serving.log,
    ) as server:  # fmt: skip
        if not _is_at_least(server.version, USES_CHAT_TEMPLATE):
            raise StepError(
                f"Ollama {server.version} doesn't use the chat template of a GGUF",
                fix="install Ollama 0.30 or later",
            )
        yield OllamaServer(server, name, gguf)


def _file_of(bundle: Artifact) -> Path:
    """The GGUF that the Modelfile names."""
    modelfile = bundle.file("Modelfile")
    try:
        commands = dict(read_modelfile(modelfile.read_text(encoding="utf-8")))
        return bundle.file(commands["FROM"].removeprefix("./"))
    except (KeyError, ValueError, OSError) as error:
        raise DataError(
            f"the Modelfile can't be read: {error}", where=str(modelfile),
            fix="build the folder again",
        ) from error  # fmt: skip


def _check_options(serving: Serving) -> None:
    if serving.host not in LOOPBACK:
        raise UsageError(
            "Ollama can't ask for a key, so it would answer everybody who reaches this machine",
            where="--host",
            fix="remove it, or serve the GGUF: its server requires a key",
        )
    if serving.context is not None:
        raise UsageError(
            "Ollama takes the context from the Modelfile",
            where="--context",
            fix="remove it, and set `num_ctx` in `parameters` of ollama.modelfile",
        )


def ollama_sampling_faults(parameters: Mapping[str, str], version: str) -> list[Fault]:
    """Whether requests to `/api/chat` that don't say are answered at random, or with penalties.

    parameters: of the model. version: Ollama's, which decides about the others.
    """
    penalty = {} if _is_at_least(version, NO_PENALTY) else {"repeat_penalty": 1.1}
    fix = (
        "set temperature: 0 and repeat_penalty: 1 in `parameters` of ollama.modelfile, as it does "
        "without `parameters`"
    )
    return sampling_faults(
        "Ollama", {**NEUTRAL, **DEFAULTS, **penalty, **parameters}, NEUTRAL, [], fix
    )


def _is_at_least(version: str, least: tuple[int, ...]) -> bool:
    """Whether a version, e.g. `0.33.0-rc2`, is `least` or later. 0.0.0 is a development build."""
    numbers = tuple(map(int, re.findall(r"\d+", version.partition("-")[0])))
    return not any(numbers) or numbers >= least
