"""The interface of a server that a plugin registers with `finery_servers`.

`finery_servers` maps the format of a model or bundle to `"module:function"`. finery calls
`function(artifact, serving)`, which returns a context manager: on entry, the server is ready for
requests; on exit, its processes have ended. `serve.check` works with servers that are `Checkable`
or `exact`.
Mark a function with `bundles_only` if it can't serve the models of its format. `ServingJob` is the
job of an engine that a server or a chat uses.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from finery import Artifact, Engine, Model, PluginError, UsageError
from finery.advanced import Usage, redacted

Serve = Callable[[Artifact, "Serving"], AbstractContextManager["Running"]]
F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["template", "thinking", "prompts", "sampling", "adapter", "options", "answers"]
STANDALONE = "standalone"
"""The format of a `serve.bundle`."""
_BUNDLES_ONLY = "bundles_only"


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve a model.

    name: what clients send as `model`. host: the address to listen on. port: None selects a free
    port. key: the API key that clients must send; None allows requests without one. slots: maximum
    number of requests at once; None lets the server choose. context: maximum length of a
    conversation with its answer, in tokens; None lets the server choose. log: a file for the
    server's messages. checked: whether this is for `serve.check`. The server may then expose more
    than it does to clients, but its answers must not change.
    """

    name: str
    host: str = "127.0.0.1"
    port: int | None = None
    key: str | None = None
    slots: int | None = None
    context: int | None = None
    log: Path | None = None
    checked: bool = False


class ServingJob:
    """The part of a job that an engine may use outside a build. plugins: the installed ones."""

    def __init__(self, plugins: Any) -> None:
        self.usage = Usage()
        self._plugins = plugins
        self._secrets = dict[str, str]()

    def log(self, message: str) -> None:
        """Print a line on stderr."""
        print(message, file=sys.stderr)

    def progress(self, done: float, total: float, text: str = "") -> None:
        """Show none."""

    def secret(self, name: str) -> str:
        """An API key in an environment variable. `UsageError` without it."""
        key = os.environ.get(name)
        if not key:
            problem = f"the environment variable {name} with an API key is missing"
            raise UsageError(problem, fix="set it")
        self._secrets[name] = key
        return key

    def redact(self, text: str) -> str:
        """The text without API keys."""
        return redacted(text, self._secrets)

    def raw_engine(self, model: Model) -> Engine:
        """The engine of a model."""
        engine: Engine = self._plugins.engine(model.format)(model, self)
        return engine


class Running(Protocol):
    """A server that answers requests.

    It may have further attributes: `names` if it serves several models, the base first (see
    `names_of`); `page`, the URL of its web page with a required key; `example`, a question that it
    can answer, if it only answers certain ones; `checked_by`, the step type that checks it instead
    of `serve.check`; and `exact`, which is true if it makes no prompts of tokens but must give the
    very answers of finery's engine.
    """

    @property
    def address(self) -> str:
        """The URL, e.g. `http://127.0.0.1:8080`, with the OpenAI-compatible API under `/v1`."""

    @property
    def pid(self) -> int:
        """The ID of the server's process."""

    @property
    def build(self) -> str:
        """The program and its version, e.g. `llama.cpp b6000`."""


class Prompt(NamedTuple):
    """A prompt as the server renders it, as text and as token IDs."""

    text: str
    tokens: list[int]


class Fault(msgspec.Struct, frozen=True):
    """A difference between a server and the training. `sources`: of an app that retrieves."""

    kind: Kind | Literal["sources"]
    what: str
    details: list[str]
    fix: str


def sampling_faults(
    server: str, values: Mapping[str, Any], neutral: Mapping[str, float], details: Sequence[str],
    fix: str,
) -> list[Fault]:  # fmt: skip
    """Whether a server answers requests that don't say at random, or with penalties.

    values: how it samples, as it names that. neutral: the values by which it answers greedily.
    """
    used = {name: float(values.get(name, greedy)) for name, greedy in neutral.items()}
    changed = [f"{name}: {used[name]:g}" for name in neutral if used[name] != neutral[name]]
    if not changed:
        return []
    return [Fault(
        "sampling",
        f"{server} answers with {', '.join(changed)} where a request doesn't say, but the model "
        "was evaluated greedily",
        list(details),
        fix,
    )]  # fmt: skip


@runtime_checkable
class Checkable(Running, Protocol):
    """A server that `serve.check` can compare with the training.

    It may have further attributes: `system`, a system message that it adds to conversations without
    one; `renderer`, the name of its own code for prompts, if it uses no chat template; `stops`,
    texts at which it ends answers; and `unchecked`, (kind of fault, what it doesn't expose) for
    everything that can't be checked.
    """

    def chat_template(self) -> str | None:
        """The source of the chat template in use; None if it is unknown."""

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """The prompt for a request to `/v1/chat/completions`. `StepError` if it is refused."""

    def faults(self) -> list[Fault]:
        """Faults of the server itself: its sampling, and what can't be checked."""

    def adapter_fault(self, name: str, prompts: Sequence[list[int]]) -> Fault | None:
        """A fault if the adapter has no effect on the answers to prompts of token IDs.

        name: the adapter, one of `names`. None if the adapter has an effect, or if the server can't
        serve adapters.
        """


def bundles_only(serve: F) -> F:
    """Mark a function of `finery_servers` that serves bundles, but not models of the same format.

    `finery chat` then runs such models with their engine. If the function is called with a model,
    it must raise `UsageError`.
    """
    setattr(serve, _BUNDLES_ONLY, True)
    return serve


def is_servable(artifact: Artifact, serve: Callable[..., Any]) -> bool:
    """Whether a function of `finery_servers` serves an artifact of its format."""
    return not (isinstance(artifact, Model) and getattr(serve, _BUNDLES_ONLY, False))


def find_server(plugins: Any, artifact_format: str) -> Serve | None:
    """The function that serves models or bundles of a format; None if no plugin has one.

    What it gives has the attributes of `Running`, else it raises `PluginError`.
    """
    serve = plugins.server(artifact_format)
    if serve is None:
        return None

    @wraps(serve)
    @contextmanager
    def checked(artifact: Artifact, serving: Serving) -> Iterator[Running]:
        with serve(artifact, serving) as running:
            for name, kind in (("address", str), ("pid", int), ("build", str)):
                if not isinstance(getattr(running, name, None), kind):
                    title = plugins.servers[artifact_format][1].title
                    raise PluginError(
                        f"server '{artifact_format}' of {title} gives {running!r:.60}, whose "
                        f"`{name}` isn't a {'number' if kind is int else 'text'}",
                        fix="give what `finery_serve.servers.Running` describes",
                    )
            yield running

    return checked


def names_of(running: Running, serving: Serving) -> tuple[str, ...]:
    """What clients may send as `model`: the server's `names`, with the base first, or its name."""
    return tuple(getattr(running, "names", ())) or (serving.name,)
