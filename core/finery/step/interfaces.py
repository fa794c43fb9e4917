"""Opt-in interfaces: what a step type can offer beyond `run`.

A step type names one by a class keyword, `class Orders(Step, traceable="shop.places:OrderPlaces")`.
None of them can change an output. The reference is a string, so their code stays out of the step's
key: rewording a message or improving an estimate reruns nothing. (In a plugin file beside a recipe,
the class itself may stand there instead.)

| keyword | class | asked by |
| --- | --- | --- |
| `pinned` | `Pinned` | `finery build`, when it first meets a name outside that may move |
| `preflight` | `Preflight` | `finery check`, and trainings that watch an evaluator |
| `traceable` | `Traceable` | `finery show --row` |
| `forecast` | `Forecast` | `finery plan`, `finery check`: notes and estimates |
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from finery.artifact.kinds import Artifact
from finery.errors import FineryError, PluginError
from finery.inference.budget import Budget
from finery.inference.types import Request
from finery.rows.row import Row
from finery.step.inspect import full_name
from finery.step.step import Step
from finery.util.references import load_reference

if TYPE_CHECKING:
    from finery.preflight.report import Proof
    from finery.step.job import Job

S = TypeVar("S", bound=Step)


class Interface(Generic[S]):
    """What the interfaces share: an instance belongs to one step of a recipe."""

    keyword: ClassVar[str]

    def __init__(self, step: S) -> None:
        self.step = step


I = TypeVar("I", bound=Interface[Any])  # noqa: E741


class Pinned(Interface[S]):
    """A name outside that may come to mean something else, e.g. a branch on a hub.

    What it stands for is resolved once and kept in `recipe.lock`. The pin is part of the key and
    reaches the step as `job.pinned`.
    """

    keyword = "pinned"

    def floating(self) -> str | None:
        """The name, e.g. `hub:Qwen/Qwen3-4B@main`; None where it can't move.

        Called in the main process, with outside files found. Must not use the network.
        """
        raise NotImplementedError

    def pin(self) -> str:
        """What the name stands for now, as something that never moves, e.g. a commit."""
        raise NotImplementedError

    def pin_into(self, folder: Path) -> str:
        """`pin()` for what doesn't last: keep in `folder` what the pin stands for.

        A running step finds that folder as `job.kept`, shared by all steps of the project. It may
        be empty, as on another machine: a step must be able to do without.
        """
        return self.pin()


class Preflight(Interface[S]):
    """What can be checked of a step before it runs, without prompting a model."""

    keyword = "preflight"

    def packages(self) -> Mapping[str, str]:
        """Distributions that `run` imports → what to install, `{"torch": "finery[train]"}`.

        Only those that the step, with its settings, can't do without. Called in the main process,
        with outside files found.
        """
        return {}

    def check_source(self, job: "Job") -> None:
        """Raise what `run` would raise for the outside files, as far as their first rows show it.

        Called by `finery check`, and before a build starts, in the main process, with outside
        files found. It must be quick, however large the files are, and must not use the network.
        An error whose `where` names a setting, e.g. `columns.user`, is shown there in the recipe.
        `job` has no engine; its folders are thrown away.
        """

    def check_inputs(self, job: "Job") -> None:
        """Raise what `run` would raise for inputs that it can't use.

        Called with inputs and outside files opened as for `run`, and a job that has no engine. A
        training asks it of an evaluator that it watches (see `nested_step`), before its first
        optimizer step; `finery check --deep` does so too.
        """

    def sketch(self, job: "Job") -> Artifact | None:
        """The output without what makes it heavy: a model's tokenizer without its weights.

        Called where the step isn't built, with inputs opened as for `run`, some of them sketches.
        It may use the network, and fills `job.out`, a folder that is thrown away. None: the step
        must be built.
        """
        return None

    def prove(self, job: "Job", samples: int) -> "list[Proof] | None":
        """What the step would learn, proven row by row; a `Proof` for each data set.

        For trainings; None for all other steps. Inputs are opened as for `run`, except that a
        model may come without its weights (see `sketch`), and that it is the model under all
        trainings before this one: those change neither tokenizer nor chat template. `job.out` is
        thrown away. samples: rows to show of each data set. Raises what `run` would raise for rows
        that can't be learned.
        """
        return None


class Traceable(Interface[S]):
    """Where the rows of a step were read: for steps that read rows from outside."""

    keyword = "traceable"

    def trace(self, ids: Collection[str], job: "Job") -> Iterator[tuple[str, str]]:
        """(id, place) of those of the step's rows that have one of `ids`.

        Called in the main process, with files opened as for `run`: read what `run` reads, the way
        it does, as a stream. A place is what an error would name: `data/tickets.jsonl:17`, a table
        and its key, an address. Rows that were dropped count too.
        """
        raise NotImplementedError


class Count(NamedTuple):
    """A number of rows; `exact` is False where it follows from a share or an estimate."""

    rows: int
    exact: bool = True

    def __str__(self) -> str:
        noun = "row" if self.rows == 1 else "rows"
        return f"{'' if self.exact else 'about '}{self.rows:,} {noun}"


class Asked(NamedTuple):
    """Requests that a step makes of one of its models, as far as they are known before it runs.

    model: the input that names the model. total: the number of requests, if every answer can be
    used; None while that isn't known. requests: (request, rows that its answer should hold), in
    order, as far as inputs are built. sampling: the arguments of `CachedEngine.stream`, with
    `max_tokens`. retries: how often a request is repeated whose answer can't be used.
    """

    model: str
    total: int | None
    requests: Iterable[tuple[Request, int]]
    sampling: Mapping[str, Any]
    retries: int = 0
    budget: Budget | None = None


class Forecast(Interface[S]):
    """What can be said of a step's output before the step runs.

    Called in the main process, with outside files found. Everything must be quick and needs no
    network; whatever isn't known is None. Where the step is built, its artifact is looked at
    instead, and nothing here is asked.
    """

    keyword = "forecast"

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """How many rows an output will have. taken: input → the counts of what it names."""
        return None

    def sample(self, limit: int) -> Iterable[Row] | None:
        """At most `limit` rows like those that will come, read from outside files."""
        return None

    def passes(self) -> Collection[str]:
        """Inputs whose rows the output holds as they are, e.g. those of a split."""
        return ()

    def keeps_apart(self) -> bool:
        """Whether no row of one output nearly repeats a row of another one."""
        return False

    def classes(self, rows: Iterable[Row]) -> Counter[str] | None:
        """For evaluators of classes: how many rows expect which class."""
        return None

    def facts(self) -> Mapping[str, Any]:
        """Facts about a model, as its `meta` or its `config.json` would give them.

        `config`: what `config.json` holds; `gguf`: the path of a GGUF file; `hub`: (repository,
        revision) whose `config.json` a hub may be asked for; `parameters`: their number; `name`:
        what people call the model, which often has its size, e.g. `Qwen/Qwen3-4B`.
        """
        return {}

    def asks(self, taken: Mapping[str, Sequence[Count | None]], *, built: bool) -> Asked | None:
        """For steps that have a model make rows: what they ask it.

        taken: as for `rows`. built: whether all data sets that the step takes are built; they are
        opened then. Where the step writes `meta["answers"] = {"requests": …, "prompt_tokens": …,
        "completion_tokens": …}`, the next estimate expects answers of that length.
        """
        return None

    def runtime(self) -> Mapping[str, Any]:
        """What the artifact's `runtime` will have.

        `price` of a model behind an API: None where nobody says. A model without it costs nothing.
        """
        return {}


INTERFACES: tuple[type[Interface[Any]], ...] = (Pinned, Preflight, Traceable, Forecast)


def interface(step: Step, kind: type[I]) -> I | None:
    """The interface that a step type declares, for this step; None where it declares none.

    Raises `PluginError` where the reference can't be loaded or is no such interface.
    """
    cls = interface_class(type(step), kind)
    return cls(step) if cls is not None else None


def interface_class(step_type: type[Step], kind: type[I]) -> type[I] | None:
    """The class of the interface that a step type declares; see `interface`."""
    reference = getattr(step_type.__spec__, kind.keyword)
    if not reference:
        return None
    what = f"{kind.keyword}={reference!r} of {full_name(step_type)}"
    try:
        cls = load_reference(reference)
    except FineryError:
        raise
    except Exception as error:
        raise PluginError(
            f"{what} can't be loaded: {type(error).__name__}: {error}",
            fix='name a class as "module:Class"',
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, kind)):
        raise PluginError(f"{what} is no {kind.__name__}", fix=f"subclass finery.{kind.__name__}")
    return cls


def floating_name(step: Step) -> str | None:
    """The name outside that the step pins, None where there is none or it can't move."""
    pinned = interface(step, Pinned)
    return pinned.floating() if pinned is not None else None
