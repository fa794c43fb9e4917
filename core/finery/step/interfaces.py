"""Optional interfaces: what a step type can offer beyond `run`.

A step type names one by a class keyword, `class Orders(Step, traceable=OrderPlaces)`. A method
imports what is heavy when it is called. None of them can change an output, except by what it puts
into the key (a pin, provenance). So the keywords don't count in the key: rewording a message or
improving an estimate reruns nothing.

| keyword | class | used by |
| --- | --- | --- |
| `pinned` | `Pinned` | `finery build`, for an outside name that can change and has no pin yet |
| `preflight` | `Preflight` | `finery check`: the packages that a step needs |
| `traceable` | `Traceable` | `finery show --row` |
| `forecast` | `Forecast` | `finery plan`, `finery check`: notes and estimates |
| `provenance` | `Provenance` | `finery build`, for a step that describes how its inputs were made |
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from finery.errors import FineryError, PluginError
from finery.inference.budget import Budget
from finery.inference.types import Request
from finery.rows.row import Row
from finery.step.inspect import full_name
from finery.step.step import Step
from finery.util.references import load_reference
from finery.util.text import counted

if TYPE_CHECKING:
    from finery.plugin.history import Results
    from finery.recipe.graph import Graph
    from finery.step.job import Job

S = TypeVar("S", bound=Step)
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([MB])(?![A-Za-z0-9])", re.IGNORECASE)


class Interface(Generic[S]):
    """Base of the interfaces: an instance belongs to one step of a recipe."""

    keyword: ClassVar[str]

    def __init__(self, step: S) -> None:
        self.step = step


I = TypeVar("I", bound=Interface[Any])  # noqa: E741


class Pinned(Interface[S]):
    """An outside name that can change its meaning, e.g. a branch on a hub.

    It is resolved once, and `recipe.lock` keeps the result. The pin is part of the key and reaches
    the step as `job.pinned`.
    """

    keyword = "pinned"

    def floating(self) -> str | None:
        """The name, e.g. `hub:Qwen/Qwen3-4B@main`; None if its meaning can't change.

        Called in the main process, with outside files found. Must not use the network.
        """
        raise NotImplementedError

    def pin(self) -> str:
        """The current meaning of the name, as something that never changes, e.g. a commit."""
        raise NotImplementedError

    def pin_into(self, folder: Path) -> str:
        """`pin()` for content that won't last: also keep the content in `folder`.

        A running step gets that folder as `job.kept`, which all steps of the project share. It
        can be empty, e.g. on another machine, so a step can't rely on it.
        """
        return self.pin()


class Preflight(Interface[S]):
    """What a step needs before it runs."""

    keyword = "preflight"

    def packages(self) -> Mapping[str, str]:
        """Distributions that `run` imports → what to install, `{"torch": "finery[train]"}`.

        Only those that the step can't do without, given its settings. Called in the main process,
        with outside files found.
        """
        return {}


class Traceable(Interface[S]):
    """The places that a step's rows were read from, for steps that read rows from outside."""

    keyword = "traceable"

    def trace(self, ids: Collection[str], job: "Job") -> Iterator[tuple[str, str]]:
        """(id, place) of the step's rows with one of `ids`, including dropped rows.

        Called in the main process, with files opened as for `run`. Read what `run` reads, in the
        same way, as a stream. A place is what an error would name: `data/tickets.jsonl:17`, a
        table and its key, an address.
        """
        raise NotImplementedError


class Count(NamedTuple):
    """A number of rows; `exact` is False if it comes from a share or an estimate."""

    rows: int
    exact: bool = True

    def __str__(self) -> str:
        return f"{'' if self.exact else 'about '}{counted(self.rows, 'row')}"


class Asked(NamedTuple):
    """The requests that a step will send to one of its models, as far as they are known.

    model: the input that names the model. total: the number of requests if every answer is usable;
    None if unknown. requests: (request, rows expected in its answer), in order, as far as inputs
    are built. sampling: the arguments of `CachedEngine.stream`, with `max_tokens`. retries: how
    often a request with an unusable answer is repeated. is_most: whether `total` is the highest
    possible number.
    """

    model: str
    total: int | None
    requests: Iterable[tuple[Request, int]]
    sampling: Mapping[str, Any]
    retries: int = 0
    budget: Budget | None = None
    is_most: bool = False


class Forecast(Interface[S]):
    """Forecasts of a step's output before the step runs.

    Called in the main process, with outside files found. Every method must be quick and must not
    use the network; None means unknown. For a built step, the artifact is used instead.
    """

    keyword = "forecast"

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """How many rows an output will have. taken: input → the counts of the rows it takes."""
        return None

    def sample(self, limit: int) -> Iterable[Row] | None:
        """At most `limit` rows like those of the output, read from outside files."""
        return None

    def columns(self) -> Collection[str] | None:
        """All columns that rows of the outputs can have, and the fields of a `label` that has any.

        For steps that read rows from outside. None if another column is possible.
        """
        return None

    def passes(self) -> Collection[str]:
        """Inputs with rows that reach the output unchanged, e.g. those of a split."""
        return ()

    def keeps_apart(self) -> bool:
        """Whether no row of one output nearly repeats a row of another output."""
        return False

    def classes(self, rows: Iterable[Row]) -> Counter[str] | None:
        """For evaluators of classes: how many rows expect which class."""
        return None

    def facts(self) -> Mapping[str, Any]:
        """Facts about a model, as in its `meta` or its `config.json`.

        `config`: the contents of `config.json`; `gguf`: the path of a GGUF file; `hub`:
        (repository, revision) to fetch `config.json` from; `parameters`: their number; `name`: the
        model's usual name, which often has its size, e.g. `Qwen/Qwen3-4B`.
        """
        return {}

    def parameters(self) -> float | None:
        """The number of a model's parameters, as `facts` or else the model's name states it.

        4e9 for the name `Qwen/Qwen3-4B`, 135e6 for `…-135M-…`; None if neither does.
        """
        facts = self.facts()
        size = _SIZE.search(str(facts.get("name", "")))
        named = float(size[1]) * {"m": 1e6, "b": 1e9}[size[2].lower()] if size else None
        return facts.get("parameters") or named

    def asks(self, taken: Mapping[str, Sequence[Count | None]], *, built: bool) -> Asked | None:
        """For steps that generate rows or judge answers with a model: their requests.

        taken: as for `rows`. built: whether all data sets that the step takes are built, and so
        opened. If the step writes `meta["answers"] = {"requests": …, "prompt_tokens": …,
        "completion_tokens": …}`, the next estimate expects answers of that length.
        """
        return None

    def runtime(self) -> Mapping[str, Any]:
        """The future contents of the artifact's `runtime`.

        `price` of a model behind an API: None if unknown. A model without `price` is free.
        """
        return {}


class Provenance(Interface[S]):
    """How a step's inputs were made, for a step whose output says so, e.g. a model card.

    Such a step is planned only when all steps that it waits for are built, directly or through
    others. The facts are part of its key, and reach it as `job.provenance`.
    """

    keyword = "provenance"

    def facts(self, name: str, graph: "Graph", results: "Results") -> Mapping[str, Any]:
        """The facts as JSON values, by subject; `finery explain` names a subject that changed.

        name: of the step. graph: the step and all that it waits for. results: their outputs.
        Called in the main process whenever the step is planned, so it must be light and must not
        use the network.
        """
        raise NotImplementedError


INTERFACES: tuple[type[Interface[Any]], ...] = (
    Pinned, Preflight, Traceable, Forecast, Provenance,
)  # fmt: skip


def interface(step: Step, kind: type[I]) -> I | None:
    """The interface that a step type declares, for this step; None if it declares none.

    Raises `PluginError` if the reference can't be loaded or isn't such an interface.
    """
    cls = interface_class(type(step), kind)
    return cls(step) if cls is not None else None


def interface_class(step_type: type[Step], kind: type[I]) -> type[I] | None:
    """The class of the interface that a step type declares; see `interface`."""
    what, cls = declared(step_type, kind.keyword, 'name a class as "module:Class"')
    if cls is None:
        return None
    if isinstance(cls, type) and issubclass(cls, kind):
        return cls
    raise PluginError(f"{what} is not a {kind.__name__}", fix=f"subclass finery.{kind.__name__}")


def declared(step_type: type[Step], keyword: str, fix: str) -> tuple[str, Any]:
    """(a class keyword in words, its value, imported if a string names it); None if it isn't set.

    Raises `PluginError` with this fix if it can't be imported.
    """
    reference = getattr(step_type.__spec__, keyword) or None
    what = f"{keyword}={reference!r} of {full_name(step_type)}"
    try:
        return what, load_reference(reference)
    except FineryError:
        raise
    except Exception as error:
        raise PluginError(
            f"{what} can't be loaded: {type(error).__name__}: {error}", fix=fix
        ) from error


def floating_name(step: Step) -> str | None:
    """The outside name that the step pins; None if it has none, or if it can't change."""
    pinned = interface(step, Pinned)
    return pinned.floating() if pinned is not None else None
