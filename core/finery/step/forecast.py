"""What is said of a step before it runs: forecasts of its outputs, notes, estimates."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from finery.inference.budget import Budget
from finery.inference.engine import Request
from finery.rows.row import Row
from finery.util.text import counted

T = TypeVar("T")
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([MB])(?![A-Za-z0-9])", re.IGNORECASE)


class Count(NamedTuple):
    """A number of rows; `exact` is False if it comes from a share or an estimate."""

    rows: int
    exact: bool = True

    def __str__(self) -> str:
        return f"{'' if self.exact else 'about '}{counted(self.rows, 'row')}"


class Requests(NamedTuple):
    """The requests that a step will send to one of its models, as far as they are known.

    model: the input that names the model. total: the number of requests if every answer is usable;
    None if unknown. requests: (request, rows expected in its answer), in order, as far as inputs
    are built. sampling: the arguments of `CachedEngine.stream`, with `max_tokens`. retries: how
    often a request with an unusable answer is repeated. is_most: whether `total` is the highest
    possible number.

    If the step writes `meta["answers"] = {"requests": …, "prompt_tokens": …, "completion_tokens":
    …}`, the next estimate expects answers of that length.
    """

    model: str
    total: int | None
    requests: Iterable[tuple[Request, int]]
    sampling: Mapping[str, Any]
    retries: int = 0
    budget: Budget | None = None
    is_most: bool = False


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a step's outputs before it runs; None means unknown.

    A field that takes time to find may be a function without arguments, which is called when
    somebody asks for it. It must be quick and must not use the network.

    rows: how many rows the output will have, or each output.
    sample: rows like those of the output, read from outside files; read only as far as needed.
    columns: all columns that rows of the outputs can have, and the fields of a `label` that has
        any. For steps that read rows from outside. None if another column is possible.
    passes: inputs with rows that reach the output unchanged, e.g. those of a split.
    keeps_apart: whether no row of one output nearly repeats a row of another output.
    classes: for evaluators of classes: rows → how many of them expect which class.
    facts: about a model, as in its `meta` or its `config.json`. `config`: the contents of
        `config.json`; `gguf`: the path of a GGUF file; `hub`: (repository, revision) to fetch
        `config.json` from; `parameters`: their number; `name`: the model's usual name, which often
        has its size, e.g. `Qwen/Qwen3-4B`.
    requests: of a step that generates rows or judges answers with a model.
    runtime: the future contents of the artifact's `runtime`. `price` of a model behind an API: None
        if unknown. A model without `price` is free.
    """

    rows: "Count | Mapping[str, Count | None] | Callable[[], Any] | None" = None
    sample: Iterable[Row] | Callable[[], Iterable[Row] | None] | None = None
    columns: Collection[str] | Callable[[], Collection[str] | None] | None = None
    passes: Collection[str] = ()
    keeps_apart: bool = False
    classes: Callable[[Iterable[Row]], Counter[str]] | None = None
    facts: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = {}
    requests: Requests | Callable[[], Requests | None] | None = None
    runtime: Mapping[str, Any] | Callable[[], Mapping[str, Any]] = {}

    def count(self, output: str) -> Count | None:
        """How many rows an output will have."""
        rows = value_of(self.rows)
        if isinstance(rows, Mapping):
            rows = rows.get(output)
        return rows if isinstance(rows, Count) else None

    def parameters(self) -> float | None:
        """The number of a model's parameters, as `facts` or else the model's name states it.

        4e9 for the name `Qwen/Qwen3-4B`, 135e6 for `…-135M-…`; None if neither does.
        """
        facts = value_of(self.facts)
        size = _SIZE.search(str(facts.get("name", "")))
        named = float(size[1]) * {"m": 1e6, "b": 1e9}[size[2].lower()] if size else None
        return facts.get("parameters") or named


def value_of(field: T | Callable[[], T]) -> T:
    """The value of a field of a forecast; a function is called for it."""
    return field() if callable(field) else field


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Advice on a recipe.

    name: the kind of note, declared in the plugin's `finery_notes`. Recipes silence it by this
        name.
    text: the note, in one line. fix: what to write.
    step: the step that it is about, if any; of a step's own notes, that step. place: its place in
        the recipe, e.g. `("train", "sft", "epochs")`; default: the step.
    reason: why it matters; default: the `why` of its kind.
    """

    name: str
    text: str
    fix: str = ""
    step: str = ""
    place: tuple[str | int, ...] = ()
    reason: str = ""


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of a step: `lines` for people, and the same numbers in `facts`.

    warning: why it can't run here, e.g. because memory is too small. fix: what to change. `|` joins
    two estimates of a step, with the first warning.
    """

    lines: list[str]
    facts: dict[str, Any] = {}
    warning: str = ""
    fix: str = ""

    def __or__(self, other: "Estimate") -> "Estimate":
        lines, facts = [*self.lines, *other.lines], {**self.facts, **other.facts}
        return msgspec.structs.replace(self if self.warning else other, lines=lines, facts=facts)
