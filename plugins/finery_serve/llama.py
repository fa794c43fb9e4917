"""llama.cpp's server: its options, its chat template, and serving a GGUF or a `llama.bundle`."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from finery import Artifact, DataError, Model
from finery.advanced import cpu_count
from finery_gguf.llama import Gguf, files_of
from finery_gguf.prompts import model_template
from finery_gguf.server import start
from finery_serve.client import Client
from finery_serve.servers import Fault, Prompt, Running, Serving, sampling_faults
from finery_transformers.frozen.template import FROZEN_MARK
from finery_transformers.loading import template_arguments
from finery_transformers.wrapping import ARGUMENTS_MARK, with_fixed_arguments

SLOTS = 4
CONTEXT = 8192
"""Tokens of a slot, unless the model has fewer."""
RUN = "run.sh"
"""The file of a bundle with the command."""

_OPTION_NAMES = {
    "--model": "model", "-m": "model", "--lora": "adapter",
    "--ctx-size": "context", "-c": "context",
    "--parallel": "slots", "-np": "slots",
    "--temp": "temperature", "--temperature": "temperature",
    "--repeat-penalty": "repeat_penalty",
    "--chat-template-file": "template_file",
    "--alias": "name", "-a": "name",
}  # fmt: skip
_IGNORED_WITH_VALUE = frozenset(
    {"--host", "--port", "--api-key", "--threads", "-t", "--n-gpu-layers", "-ngl"}
)
"""Options with a value that change no prompt and no answer."""
_IGNORED_FLAGS = frozenset({"--jinja", "--no-webui", "--no-ui"})
"""Options without a value that change nothing here."""
_EXEC_LINE = re.compile(r"^\s*exec\s+(.+)$", re.MULTILINE)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options with which llama.cpp's server runs a model.

    adapter: the file of a LoRA adapter, if there is one. context: tokens of each slot. template:
    the source of a chat template that replaces the one in the file. temperature, repeat_penalty:
    defaults for requests; None leaves them to the server. unread: further options, which finery
    doesn't know.
    """

    model: str = ""
    adapter: str | None = None
    name: str = ""
    context: int
    slots: int = 1
    template: str | None = None
    temperature: float | None = 0.0
    repeat_penalty: float | None = 1.0
    unread: tuple[str, ...] = ()


def server_arguments(options: Options, template_file: str | None) -> list[str]:
    """The arguments of llama-server, without those of where it listens."""
    arguments = ["--model", options.model, "--alias", options.name, "--jinja"]
    arguments += ["--lora", options.adapter] if options.adapter is not None else []
    arguments += ["--ctx-size", str(options.context * options.slots)]
    arguments += ["--parallel", str(options.slots)]
    if template_file is not None:
        arguments += ["--chat-template-file", template_file]
    for name, value in (
        ("--temp", options.temperature), ("--repeat-penalty", options.repeat_penalty)
    ):  # fmt: skip
        arguments += [name, f"{value:g}"] if value is not None else []
    return arguments


def read_run(script: Path) -> Options:
    """The options in the `exec` line of a `run.sh`. `DataError` if there is none that can be read.

    What the script doesn't say is left to the server.
    """
    text = re.sub(r"\\\n", " ", script.read_text(encoding="utf-8"))
    command = _EXEC_LINE.search(text)
    try:
        words = shlex.split(command[1]) if command else []
    except ValueError:
        words = []
    if not words:
        raise DataError(
            "the script has no line `exec llama-server …` that can be read",
            where=str(script),
            fix="build the bundle again",
        )
    return read_arguments(words[1:], script)


def read_arguments(arguments: Sequence[str], file: Path) -> Options:
    """The options that arguments of llama-server set. file: the file that contains them.

    Files that they name are relative to its folder. `DataError` if they can't be read.
    """
    values: dict[str, str] = {}
    unread: list[str] = []
    words = iter(arguments)
    for word in words:
        if word in _OPTION_NAMES:
            values[_OPTION_NAMES[word]] = next(words, "")
        elif word in _IGNORED_WITH_VALUE:
            next(words, "")
        elif word not in _IGNORED_FLAGS and word != "$@":
            unread.append(word)
    try:
        slots = int(values.get("slots", 1))
        template: Any = None
        if "template_file" in values:
            template = (file.parent / values["template_file"]).read_text(encoding="utf-8")
        return Options(
            model=values["model"],
            adapter=values.get("adapter"),
            name=values.get("name", ""),
            context=int(values["context"]) // slots,
            slots=slots,
            template=template,
            temperature=_number(values, "temperature"),
            repeat_penalty=_number(values, "repeat_penalty"),
            unread=tuple(unread),
        )
    except (KeyError, ValueError, OSError) as error:
        raise DataError(
            f"the options of llama-server can't be read: {error}", where=str(file),
            fix="build the bundle again",
        ) from error  # fmt: skip


def _number(values: dict[str, str], name: str) -> float | None:
    return float(values[name]) if name in values else None


def served_template(gguf: Gguf, model: Model) -> str | None:
    """The chat template that a server needs, if the file's own gives other prompts.

    An export has all of it in the file. For any other GGUF, the step's `chat_template`,
    `chat_template_kwargs` and `tools_as` are written into a copy.
    """
    source = model_template(gguf, model).source
    is_fixed = source.startswith((FROZEN_MARK, ARGUMENTS_MARK))
    fixed = source if is_fixed else with_fixed_arguments(source, template_arguments(model))
    return None if fixed == gguf.chat_template else fixed


def options_for(
    gguf: Gguf, model: Model, name: str = "", context: int | None = None, slots: int = SLOTS
) -> Options:
    """How the server runs a GGUF: with the prompts of its training, and greedily."""
    file, adapter = files_of(model)
    return Options(
        model=file.name,
        adapter=None if adapter is None else adapter.name,
        name=name,
        slots=slots,
        context=context or min(CONTEXT, gguf.n_context or CONTEXT),
        template=served_template(gguf, model),
    )


SAMPLING_PREFIX = "general.sampling."
"""Prefixes of a GGUF's metadata from which servers take defaults for requests."""
SAMPLING_FIELDS = ("temp", "top_k", "top_p", "min_p", "penalty_repeat")
NEUTRAL_SAMPLING = {
    "temperature": 0.0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
    "dry_multiplier": 0.0, "mirostat": 0.0,
}  # fmt: skip
"""Defaults of llama.cpp's server that would change greedy answers, and when they don't."""


class LlamaServer:
    """A running llama.cpp server.

    metadata: `general.sampling.*` of a GGUF that isn't served by a bundle. unread: options of
    a bundle's `run.sh` that the server wasn't started with.
    """

    def __init__(
        self, server: Running, key: str | None, metadata: Mapping[str, str], unread: Sequence[str]
    ) -> None:
        self.address, self.pid, self.build = server.address, server.pid, server.build
        self._client = Client(server.address, key)
        self._metadata = metadata
        self._unread = unread

    def chat_template(self) -> str | None:
        """The source of its chat template, as the server says."""
        template: str | None = self._client.get("/props").get("chat_template")
        return template

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """The prompt for a request, with a BOS if the server adds one."""
        text = str(self._client.post("/apply-template", request)["prompt"])
        body = {"content": text, "add_special": True, "parse_special": True}
        return Prompt(
            text, [int(token) for token in self._client.post("/tokenize", body)["tokens"]]
        )

    def faults(self) -> list[Fault]:
        """Whether it samples, or `run.sh` has options that finery doesn't know."""
        sampling = llama_sampling_faults(self._client.get("/props"), self._metadata)
        return [*sampling, *option_faults(self._unread)]

    def adapter_fault(self, name: str, prompts: Sequence[list[int]]) -> Fault | None:
        """None: a GGUF is one complete model."""
        return None


@contextmanager
def serve_gguf(model: Artifact, serving: Serving) -> Iterator[LlamaServer]:
    """Serve a GGUF with the prompts of its training, and greedily unless a request says otherwise.

    Raises `StepError` if the server can't start, and `UsageError` for a port that is in use.
    """
    assert isinstance(model, Model)
    gguf = Gguf.of(model, vocab_only=True)
    values = {
        f"{SAMPLING_PREFIX}{name}": gguf.metadata(f"{SAMPLING_PREFIX}{name}")
        for name in SAMPLING_FIELDS
    }
    metadata = {name: value for name, value in values.items() if value is not None}
    options = options_for(gguf, model)
    with start_server(gguf.path, options, serving, gguf.adapter) as running:
        yield LlamaServer(running, serving.key, metadata, ())


@contextmanager
def serve_bundle(bundle: Artifact, serving: Serving) -> Iterator[LlamaServer]:
    """Serve a bundle as its `run.sh` does. Raises as `serve_gguf`, and `DataError` for its text."""
    options = read_run(bundle.file(RUN))
    adapter = None if options.adapter is None else bundle.file(options.adapter)
    with start_server(bundle.file(options.model), options, serving, adapter) as running:
        yield LlamaServer(running, serving.key, {}, options.unread)


def start_server(
    file: Path, options: Options, serving: Serving, adapter: Path | None = None
) -> AbstractContextManager[Running]:
    """llama.cpp's server with a GGUF, and an adapter. Raises as `serve_gguf`."""
    sampling = {"temperature": options.temperature, "repeat_penalty": options.repeat_penalty}
    return start(
        file,
        port=serving.port,
        host=serving.host,
        slots=serving.slots or options.slots,
        context=serving.context or options.context,
        api_key=serving.key,
        log=serving.log,
        alias=serving.name,
        adapter=adapter,
        threads=cpu_count(),
        template=options.template,
        sampling={name: value for name, value in sampling.items() if value is not None},
    )


def llama_sampling_faults(props: Mapping[str, Any], metadata: Mapping[str, str]) -> list[Fault]:
    """Whether requests that don't say are answered at random, or with penalties.

    props: `/props` of the server. metadata: `general.sampling.*` of the GGUF.
    """
    defaults = props["default_generation_settings"]["params"]
    values = {**defaults, "temperature": max(0.0, float(defaults["temperature"]))}
    in_gguf = [f"{name} = {value} in the GGUF" for name, value in metadata.items()]
    fix = "start it with --temp 0 --repeat-penalty 1, as `finery serve` and llama.bundle do"
    if faults := sampling_faults("the server", values, NEUTRAL_SAMPLING, in_gguf, fix):
        return faults
    drawn = metadata.get(f"{SAMPLING_PREFIX}temp")
    if drawn is None or float(drawn) <= 0:
        return []
    return [Fault(
        "sampling",
        f"the GGUF makes servers sample: its metadata have the temperature {float(drawn):g}, "
        "but the model was evaluated greedily",
        [f"{name} = {value}" for name, value in metadata.items()],
        "ship it with llama.bundle, which overrides this, and check that: `bundle:`; or have "
        "clients send temperature: 0",
    )]  # fmt: skip


def option_faults(unread: Sequence[str]) -> list[Fault]:
    """Options of a bundle that the checked server wasn't started with."""
    if not unread:
        return []
    return [Fault(
        "options",
        f"run.sh has options that this check doesn't know: {' '.join(unread)}",
        [],
        "remove them, or check the bundle on a machine where it runs",
    )]  # fmt: skip
