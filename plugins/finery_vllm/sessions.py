"""The servers of this process: which one answers for a model, and when one gives way to another."""

import atexit
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from finery import EngineJob, Model, Request, StepError, outside_key
from finery.advanced import visible_gpus
from finery_local.facts import ModelFiles
from finery_serve.client import Refused
from finery_transformers.precision import auto_dtype
from finery_vllm.bundle.adapters import MERGE_FIX, check_adapter
from finery_vllm.folder import ADAPTER, linked, whole
from finery_vllm.server import (
    STRICT_OPTIONS,
    flag,
    largest_rank,
    slots_for,
    smallest_limit,
)

if TYPE_CHECKING:
    from finery_vllm.engine import Prompts
    from finery_vllm.server import Server


DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
MAX_SERVERS = 4
"""Adapters on one server, all of them on the device."""
PROBES = ("Hello.", "Name one.", "Where is my card? It hasn't arrived yet.", "1 + 1 =")
"""Prompts for which an adapter must answer unlike its base."""
BASE = "base"
UPDATING = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
"""Lets the server load adapters while it runs."""


class Running:
    """A server. identity: of the weights and settings that it serves. rank: 0 without adapters.

    memory: the share of the GPU's memory that it takes. folders: of models that it reads.
    """

    def __init__(self, identity: bytes, rank: int, memory: float) -> None:
        self.identity, self.rank, self.memory = identity, rank, memory
        self.open = ExitStack()
        self.folders = Path(
            self.open.enter_context(tempfile.TemporaryDirectory(prefix="finery-vllm-"))
        )
        self.adapters: dict[str, str] = {}
        self.busy = 0
        self.lock = Lock()
        self.server: Server

    def has_room_for(self, adapter: Model) -> bool:
        """Whether it has the adapter, or a slot for it that isn't the last one."""
        return _known_as(adapter) in self.adapters or len(self.adapters) < MAX_SERVERS

    @contextmanager
    def in_use(self) -> Iterator["Server"]:
        """The server, which doesn't give way to another meanwhile."""
        with self.lock:
            self.busy += 1
        try:
            yield self.server
        finally:
            with self.lock:
                self.busy -= 1


class Session(NamedTuple):
    """A model on a running server. name: what the server calls it."""

    running: Running
    name: str


_running: list[Running] = []


@atexit.register
def close_all() -> None:
    """End all servers of this process."""
    while _running:
        _running.pop().open.close()


def session(model: Model, under: Model, prompts: "Prompts", job: EngineJob) -> Session:
    """The server that answers for a model, started if none does.

    under: the model that vLLM loads. Servers that no request uses give way where the GPU's memory
    isn't enough for all. `StepError` if vLLM can't serve it, or serves it as its base.
    """
    beside = under.format == "adapter" and not model.meta.get("merge")
    config = ModelFiles(under).adapter_config if beside else {}
    rank = smallest_limit(largest_rank(config)) if beside else 0
    identity = _identity(model, under.refs["base"] if beside else under)
    for running in _running:
        fits = running.rank >= rank > 0 or running.rank == rank == 0
        if running.identity == identity and fits and (rank == 0 or running.has_room_for(under)):
            break
    else:
        running = _start_session(model, under, identity, rank, job)
    name = _adapter_on_server(running, under, prompts, job) if beside else BASE
    return Session(running, name)


def _known_as(adapter: Model) -> str:
    return adapter.digest or str(adapter.path)


def _identity(model: Model, served: Any) -> bytes:
    """The facts that decide the weights and settings of a server."""
    content = served.digest or [str(served.path), served.meta]
    settings = {k: v for k, v in model.meta.items() if k not in ("format", "merge")}
    return msgspec.json.encode([content, settings, model.runtime], order="deterministic")


def _start_session(
    model: Model, under: Model, identity: bytes, rank: int, job: EngineJob
) -> Running:
    memory = float(model.runtime.get("gpu_memory", 0.9))
    _make_room(memory)
    running = Running(identity, rank, memory)
    try:
        job.progress(0, 1, "preparing the model for vLLM")
        served = under.refs["base"] if rank else under
        assert isinstance(served, Model)
        folder = whole(served, running.folders / "model")
        job.progress(0, 1, "starting vLLM")
        running.server = running.open.enter_context(
            _start_server(
                folder,
                slots=int(model.runtime.get("concurrency", 64)),
                context=model.meta.get("context"),
                options=_options(model, rank),
                environment=UPDATING if rank else None,
            )
        )
    except BaseException:
        running.open.close()
        raise
    job.log(f"{running.server.build} answers, {'with adapters on the base' if rank else 'merged'}")
    _running.append(running)
    return running


@outside_key
def _start_server(folder: Path, **options: Any) -> "AbstractContextManager[Server]":
    """A server. Its version, and the arguments that can change an answer, are in keys."""
    from finery_vllm.server import start

    return start(folder, alias=BASE, api_key=secrets.token_urlsafe(24), **options)


def _make_room(memory: float) -> None:
    """End servers that no request uses, the oldest first, until there is memory for another."""
    for running in list(_running):
        if sum(running.memory for running in _running) + memory <= 1:
            return
        if not running.busy:
            _running.remove(running)
            running.open.close()


def _options(model: Model, rank: int) -> list[str]:
    dtype = DTYPES[auto_dtype()]
    options = ["--dtype", dtype, *STRICT_OPTIONS]
    if visible_gpus():
        options += ["--gpu-memory-utilization", str(model.runtime.get("gpu_memory", 0.9))]
    if rank:
        slots = str(slots_for(MAX_SERVERS))
        options += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", slots]
    for name, value in model.meta.get("options", {}).items():
        options += flag(name, value)
    return options


def _adapter_on_server(running: Running, adapter: Model, prompts: "Prompts", job: EngineJob) -> str:
    """The name of an adapter on a server, loaded and proved when it is first used."""
    identity = _known_as(adapter)
    if identity in running.adapters:
        return running.adapters[identity]
    name = f"adapter-{len(running.adapters)}"
    check_adapter(adapter, "the model")
    folder = linked(adapter, ADAPTER, running.folders / name)
    try:
        running.server.request(
            "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder)}
        )
    except Refused as error:
        raise StepError(
            f"vLLM refuses the adapter: {error.words}", fix="merge it into its base: `merge: true`"
        ) from error
    requests = [Request([{"role": "user", "content": text}]) for text in PROBES]
    tokens = [prompts.tokens(request, 8) for request in requests]
    difference = prove(running.server, tokens, base=BASE, adapter=name)
    job.log(f"the adapter changes log-probabilities of the base by {difference:.2g} or more")
    running.adapters[identity] = name
    return name


PROBE_TOKENS = 4
TOP_TOKENS = 5
MIN_DIFFERENCE = 1e-4
"""The smallest difference of log-probabilities that counts."""
NOISE_FACTOR = 4.0
"""Minimum ratio of the adapter's effect to the base's own variation between two calls."""
UNLIKE_FACTOR = 10.0
"""Stands for the difference where the likeliest tokens have none in common."""


@outside_key
def prove(server: "Server", prompts: Sequence[list[int]], *, base: str, adapter: str) -> float:
    """The largest difference of a token's log-probability between the adapter and its base.

    prompts: token ids. base, adapter: the server's names of both. `StepError` if they answer alike.
    """
    difference = noise = 0.0
    for prompt in prompts:
        expected, again, adapted = (
            _likelihoods(server, name, prompt) for name in (base, base, adapter)
        )
        noise = max(noise, _difference(expected, again))
        difference = max(difference, _difference(expected, adapted))
        if difference > max(MIN_DIFFERENCE, NOISE_FACTOR * noise):
            return difference
    raise StepError(
        f"vLLM answers with the adapter '{adapter}' as it does without it",
        details=[
            f"over {len(prompts)} prompts, no token's log-probability differs by more than "
            f"{difference:.1e}; between two calls of the base it differs by {noise:.1e}"
        ],
        fix=f"the adapter's layers don't fit this model in vLLM, or it learned nothing; "
        f"{MERGE_FIX}",
    )


def _likelihoods(server: "Server", name: str, prompt: list[int]) -> list[dict[str, float]]:
    """The likeliest tokens at each place of a greedy answer, with their log-probabilities."""
    answer = server.request("/v1/completions", {
        "model": name, "prompt": prompt, "max_tokens": PROBE_TOKENS, "temperature": 0.0,
        "logprobs": TOP_TOKENS, "ignore_eos": True, "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    })  # fmt: skip
    tokens: list[dict[str, float]] = answer["choices"][0]["logprobs"]["top_logprobs"]
    return tokens


def _difference(first: list[dict[str, float]], second: list[dict[str, float]]) -> float:
    """The largest difference, up to the place after which the answers have different tokens."""
    largest = 0.0
    for mine, theirs in zip(first, second, strict=False):
        shared = mine.keys() & theirs.keys()
        if not shared:
            return UNLIKE_FACTOR
        largest = max(largest, *(abs(mine[token] - theirs[token]) for token in shared))
        if max(mine, key=mine.__getitem__) != max(theirs, key=theirs.__getitem__):
            break
    return largest
