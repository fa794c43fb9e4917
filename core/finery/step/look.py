"""What a step promises of its outputs, and what is known of its inputs before it runs.

`Step.examine` reads a `Look` and raises for inputs that can't be used. The look answers with what
is known at that moment: nothing, what earlier steps promise and forecast, or what they have built.
"""

from collections.abc import Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec

from finery.artifact.kinds import Artifact, Dataset
from finery.rows.row import Row
from finery.step.job import Job

if TYPE_CHECKING:
    from finery.step.step import Step

T = TypeVar("T")


class Promise(NamedTuple):
    """An output of a step: its kind, and facts of its `meta` that follow from settings alone.

    Steps that take the output find the facts in the placeholder's `meta`, in their `check`. A fact
    that `run` gives another value is an error.
    """

    kind: type[Artifact]
    meta: Mapping[str, Any] = {}


class Known(msgspec.Struct, Generic[T], frozen=True):
    """An answer of a look. exact: `run` will get this; else it is what earlier steps forecast."""

    value: T
    exact: bool = True


class Unknown(msgspec.Struct, frozen=True):
    """A look's answer for what isn't known yet, e.g. of an input that isn't given or not built."""

    def __bool__(self) -> Literal[False]:
        """Unlike `Known`, it counts as false: `if rows := look.rows("rows", 100): …`."""
        return False


UNKNOWN = Unknown()


class Look:
    """What is known now of a step's inputs, each by the name of its field. This one knows nothing.

    job: has no engine, and its folders are thrown away.
    """

    def __init__(self, job: Job) -> None:
        self.job = job

    def meta(self, name: str) -> "Known[Any] | Unknown":
        """The `meta` of an input, or what is promised of it; of a list of inputs, a list."""
        return UNKNOWN

    def rows(self, name: str, limit: int) -> "Known[list[Row]] | Unknown":
        """At most `limit` rows of a data set, the first ones.

        Rows that aren't built yet may look as in their source, e.g. records of a file. Exact: there
        are no others.
        """
        return UNKNOWN

    def columns(self, name: str) -> "Known[frozenset[str]] | Unknown":
        """All columns that rows of a data set can have, and the fields of their labels."""
        return UNKNOWN

    def open(self, name: str) -> "Known[Any] | Unknown":
        """An input opened as for `run`, to read all of it, which may take long.

        It is known only where that is worth it: by `finery check --deep`, and for a step inside
        another, such as an evaluator that a training watches, before the other one runs.
        """
        return UNKNOWN


class BuiltLook(Look):
    """A look at a step whose inputs are opened. opens: whether to let it read all of them."""

    def __init__(self, step: "Step", job: Job, *, opens: bool = True) -> None:
        super().__init__(job)
        self._step = step
        self._opens = opens

    def meta(self, name: str) -> "Known[Any] | Unknown":
        """The facts of what is opened; of a list of inputs, a list."""
        metas = [artifact.meta for artifact in self._opened(name)]
        many = isinstance(getattr(self._step, name), list)
        return Known(metas if many else metas[0]) if metas else UNKNOWN

    def rows(self, name: str, limit: int) -> "Known[list[Row]] | Unknown":
        """The first rows of the opened data sets, which are exact if there are no others."""
        datasets = self._opened(name)
        rows = list(islice(chain.from_iterable(datasets), limit))
        return Known(rows, sum(map(len, datasets)) == len(rows)) if datasets else UNKNOWN

    def columns(self, name: str) -> "Known[frozenset[str]] | Unknown":
        """The columns of all opened data sets together."""
        datasets = self._opened(name)
        return Known(frozenset().union(*map(columns_of, datasets))) if datasets else UNKNOWN

    def open(self, name: str) -> "Known[Any] | Unknown":
        """The opened input, unless `opens` forbids to read all of it."""
        return Known(getattr(self._step, name)) if self._opens and self._opened(name) else UNKNOWN

    def _opened(self, name: str) -> list[Any]:
        """The opened artifacts; a placeholder stands for what another step provides."""
        value = getattr(self._step, name)
        artifacts = value if isinstance(value, list) else [value]
        return [each for each in artifacts if each is not None and each.path != Path()]


def columns_of(rows: Dataset) -> frozenset[str]:
    """The columns of a data set, and the fields of labels that are objects."""
    columns = frozenset(rows.meta["columns"])
    labels = (row.get("label") for row in rows) if "label" in columns else ()
    return columns | {name for label in labels if isinstance(label, dict) for name in label}


def promises_of(step: "Step") -> dict[str, Promise]:
    """A step's outputs, each as a promise."""
    return {
        name: output if isinstance(output, Promise) else Promise(output)
        for name, output in step.outputs().items()
    }
