"""Serve a GGUF, or a bundle of `llama.bundle`, with llama.cpp's server."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from finery import Artifact, Model, cpu_count
from finery_gguf.llama import Gguf
from finery_gguf.server import start
from finery_serve.client import Client
from finery_serve.options import CONTEXT, RUN, SLOTS, Options, read_run
from finery_serve.servers import Fault, Prompt, Running, Serving, sampling_faults
from finery_serve.templates import served_template

SAMPLING = "general.sampling."
"""Prefixes of a GGUF's metadata from which servers take defaults for requests."""
SAMPLED = ("temp", "top_k", "top_p", "min_p", "penalty_repeat")
NEUTRAL = {
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
        found = llama_sampling_faults(self._client.get("/props"), self._metadata)
        return [*found, *option_faults(self._unread)]

    def adapter_fault(self, name: str, prompts: Sequence[list[int]]) -> Fault | None:
        """None: a GGUF is one complete model."""
        return None


@contextmanager
def serve_gguf(model: Artifact, serving: Serving) -> Iterator[LlamaServer]:
    """Serve a GGUF with the prompts of its training, and greedily unless a request says otherwise.

    Raises `StepError` if the server can't start, and `UsageError` for a port that is in use.
    """
    assert isinstance(model, Model)
    file = model.file(str(model.meta["file"]))
    gguf = Gguf(file, vocab_only=True)
    options = Options(
        context=min(CONTEXT, gguf.n_context or CONTEXT),
        slots=SLOTS,
        template=served_template(gguf, model),
    )
    values = {f"{SAMPLING}{name}": gguf.metadata(f"{SAMPLING}{name}") for name in SAMPLED}
    metadata = {name: value for name, value in values.items() if value is not None}
    with _served(file.name, model, options, serving) as running:
        yield LlamaServer(running, serving.key, metadata, ())


@contextmanager
def serve_bundle(bundle: Artifact, serving: Serving) -> Iterator[LlamaServer]:
    """Serve a bundle as its `run.sh` does. Raises as `serve_gguf`, and `DataError` for its text."""
    options = read_run(bundle.file(RUN))
    with _served(options.model, bundle, options, serving) as running:
        yield LlamaServer(running, serving.key, {}, options.unread)


@contextmanager
def _served(file: str, artifact: Artifact, options: Options, serving: Serving) -> Iterator[Running]:
    sampling = {"temperature": options.temperature, "repeat_penalty": options.repeat_penalty}
    with start(
        artifact.file(file),
        port=serving.port,
        host=serving.host,
        slots=serving.slots or options.slots,
        context=serving.context or options.context,
        api_key=serving.key,
        log=serving.log,
        alias=serving.name,
        threads=cpu_count(),
        template=options.template,
        sampling={name: value for name, value in sampling.items() if value is not None},
    ) as running:
        yield running


def llama_sampling_faults(props: Mapping[str, Any], metadata: Mapping[str, str]) -> list[Fault]:
    """Whether requests that don't say are answered at random, or with penalties.

    props: `/props` of the server. metadata: `general.sampling.*` of the GGUF.
    """
    defaults = props["default_generation_settings"]["params"]
    values = {**defaults, "temperature": max(0.0, float(defaults["temperature"]))}
    in_gguf = [f"{name} = {value} in the GGUF" for name, value in metadata.items()]
    fix = "start it with --temp 0 --repeat-penalty 1, as `finery serve` and llama.bundle do"
    if faults := sampling_faults("the server", values, NEUTRAL, in_gguf, fix):
        return faults
    drawn = metadata.get(f"{SAMPLING}temp")
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
