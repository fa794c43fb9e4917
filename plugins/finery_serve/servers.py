"""What a server that a plugin registers by `finery_servers` takes and gives.

`finery_servers` maps a model's or bundle's format to `"module:function"`. The function is called as
`function(artifact, serving)` and returns a context manager: entered, the server answers requests;
left, its processes have ended. `serve.check` checks those that give a `Checkable`. A function that
can't serve the models of its format is marked with `bundles_only`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import msgspec

from finery import Artifact, Model

F = TypeVar("F", bound=Callable[..., Any])
Kind = Literal["template", "thinking", "prompts", "sampling", "adapter", "options"]
_BUNDLES_ONLY = "bundles_only"


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve a model.

    name: what clients write as `model`. host: the address to listen on. port: None takes any free
    port. key: what clients must send as the API key; None lets everybody in who reaches the
    address. slots: requests answered at once; None leaves it to the server. context: tokens of
    a conversation with its answer; None leaves it to the server. log: a file for its messages.
    checked: whether `serve.check` will look at it: a server may then also show what it doesn't show
    to clients, but must answer as it does without.
    """

    name: str
    host: str = "127.0.0.1"
    port: int | None = None
    key: str | None = None
    slots: int | None = None
    context: int | None = None
    log: Path | None = None
    checked: bool = False


class Running(Protocol):
    """A server that answers requests.

    address: e.g. `http://127.0.0.1:8080`; the OpenAI-compatible API is below `/v1`. pid: of its
    process. build: which program it is, e.g. `llama.cpp b6000`. A server that doesn't answer to
    `Serving.name` alone also has `names`, see `names_of`. A server with a web page for users also
    has `page`, see `page_of`, and one that can't answer just anything has `example`, see
    `example_of`.
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


class Prompt(NamedTuple):
    """A prompt as a server makes it: its tokens, and the text that they stand for."""

    text: str
    tokens: list[int]


class Fault(NamedTuple):
    """A difference between a server and the training."""

    kind: Kind
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
    """A server that `serve.check` can hold against the training.

    One that adds a system message to conversations without one also has `system`, see `system_of`.
    One that writes prompts by code of its own has `renderer`, see `renderer_of`. One that doesn't
    show everything has `unchecked`, see `unchecked_of`.
    """

    def chat_template(self) -> str | None:
        """The source of the chat template that it uses; None if that is unknown."""

    def prompt(self, request: Mapping[str, Any]) -> Prompt:
        """The prompt for a request to `/v1/chat/completions`. `StepError` if it refuses that."""

    def faults(self) -> list[Fault]:
        """What is wrong with the server itself: how it samples, and what can't be checked."""

    def adapter_fault(self, name: str, prompts: Sequence[list[int]]) -> Fault | None:
        """Whether it answers with an adapter as it does without, to prompts of token ids.

        name: the adapter's, of those in `names`. None also for servers that can't do so.
        """


def bundles_only(serve: F) -> F:
    """Mark a function of `finery_servers` that serves bundles, but not models of the same format.

    `finery chat` then runs the models with their engine. Called with one, the function must raise
    `UsageError`.
    """
    setattr(serve, _BUNDLES_ONLY, True)
    return serve


def is_servable(artifact: Artifact, serve: Callable[..., Any]) -> bool:
    """Whether a function of `finery_servers` serves an artifact of its format."""
    return not (isinstance(artifact, Model) and getattr(serve, _BUNDLES_ONLY, False))


def names_of(running: Running, serving: Serving) -> tuple[str, ...]:
    """What clients may write as `model`: a server's `names`, the base first, else the one name."""
    return tuple(getattr(running, "names", ())) or (serving.name,)


def page_of(running: Running) -> str | None:
    """The address of a server's web page, with the key if it needs one; None without a page."""
    page: str | None = getattr(running, "page", None)
    return page


def checked_by(running: Running) -> str | None:
    """The step type that checks a server in place of `serve.check`; None if there is none."""
    step_type: str | None = getattr(running, "checked_by", None)
    return step_type


def system_of(running: Running) -> str:
    """The system message that a server adds to conversations without one; empty without any."""
    return str(getattr(running, "system", ""))


def renderer_of(running: Running) -> str | None:
    """What a server's own code for prompts is called; None if a chat template writes them."""
    renderer: str | None = getattr(running, "renderer", None)
    return renderer


def unchecked_of(running: Running) -> tuple[tuple[Kind, str], ...]:
    """(kind of fault that it may have, what it doesn't show), for all that can't be checked."""
    return tuple(getattr(running, "unchecked", ()))


def example_of(running: Running) -> str:
    """A question for the examples of how to use a server."""
    return str(getattr(running, "example", "Hello"))
