"""Serves a folder of `ollama.modelfile` with Ollama, for `finery serve` and `serve.check`.

What Ollama does with a request was read from its source, 0.33.0-rc2 (fb30760): server/routes.go,
server/images.go, openai/openai.go, llm/llama_server.go, api/types.go.
"""

import re
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from finery import Artifact, DataError, StepError, UsageError
from finery_gguf.llama import Gguf
from finery_ollama.modelfile import read_modelfile
from finery_ollama.server.program import Server, start
from finery_serve.client import Client
from finery_serve.processes import LOOPBACK
from finery_serve.servers import Fault, Kind, Prompt, Serving, sampling_faults

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
        parameters = parameters_of(str(self._shown.get("parameters", "")))
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


def parameters_of(shown: str) -> dict[str, str]:
    """The parameters of a model as `/api/show` lists them: a line each, `name  value`.

    Of one with several values, such as `stop`, the last.
    """
    pairs = (line.partition(" ") for line in shown.splitlines())
    return {name: value.strip() for name, _, value in pairs}


def ollama_sampling_faults(parameters: Mapping[str, str], version: str) -> list[Fault]:
    """Whether requests to `/api/chat` that don't say are answered at random, or with penalties.

    parameters: of the model. version: Ollama's, which decides about the others.
    """
    defaults = {} if _is_at_least(version, NO_PENALTY) else {"repeat_penalty": 1.1}
    values = {**NEUTRAL, **DEFAULTS, **defaults, **parameters}
    return sampling_faults(
        "Ollama",
        values,
        NEUTRAL,
        [],
        "set temperature: 0 and repeat_penalty: 1 in `parameters` of ollama.modelfile, as it does "
        "without `parameters`",
    )


def _is_at_least(version: str, least: tuple[int, ...]) -> bool:
    """Whether a version, e.g. `0.33.0-rc2`, is `least` or later. 0.0.0 is a development build."""
    numbers = tuple(map(int, re.findall(r"\d+", version.partition("-")[0])))
    return not any(numbers) or numbers >= least
