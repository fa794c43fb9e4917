"""Artifacts: what steps leave and take. Each is a folder of files with a typed manifest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from finery.rows.files.metrics import read_predictions, read_report, write_metrics
from finery.rows.files.reading import read_rows
from finery.rows.files.writing import write_rows
from finery.rows.row import Row

if TYPE_CHECKING:
    from finery.artifact.manifest import Manifest


class Artifact:
    """A folder of files plus facts about them.

    path: the folder. Read-only for whoever takes the artifact as an input.
    meta: facts as JSON values; part of the artifact's identity, so nothing that differs from
        one run to the next (no times, no paths). `meta["format"]` picks the view that shows it
        (see `finery.View`), and `meta["run"]` is the shell command that runs it in its folder,
        printed at the end of a build.
    refs: artifacts this one can't be used without (an adapter's base), by role.
    external: files that stay where they are (the hub's cache, a user's folder): relative name →
        absolute path. Not part of the identity: say in `meta` what identifies them.
    runtime: facts as JSON values that are no part of the identity: how fast a server may be asked,
        what it costs. A step that takes the artifact isn't redone when they change, so nothing
        that can change its output. `runtime["env"]` names the environment variables that whoever
        answers prompts with a model needs. Steps that ask a model with `runtime["concurrency"]`,
        the most requests under way, do so one after the other.
    Modules of the kit that write the files of a kind and read them are named by the class: they
    are in the keys of the steps that make one (`written_by`) and that take one (`read_by`).
    """

    kind: ClassVar[str] = "Artifact"
    written_by: ClassVar[tuple[str, ...]] = ()
    read_by: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        path: Path,
        *,
        meta: Mapping[str, Any] | None = None,
        refs: "Mapping[str, Artifact] | None" = None,
        external: Mapping[str, Path] | None = None,
        runtime: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.meta: dict[str, Any] = dict(meta or {})
        self.refs: dict[str, Artifact] = dict(refs or {})
        self.external: dict[str, Path] = dict(external or {})
        self.runtime: dict[str, Any] = dict(runtime or {})
        self.digest: str = ""  # set once it is in the store
        self.manifest: Manifest | None = None  # of an input: what the store knows of it
        self.ref: str = ""  # in a plan: what the recipe names; in a step: only if `uses_name=True`

    @property
    def name(self) -> str:
        """The name that the recipe gives this input, e.g. `sft` or `gguf.q8_0`.

        Only for inputs declared with `takes(uses_name=True)`: the name is then part of the key.
        """
        if not self.ref:
            raise AttributeError("declare the input with takes(uses_name=True) to use its name")
        return self.ref

    @classmethod
    def placeholder(cls, ref: str) -> Self:
        """Stands for the artifact that `ref` names until the build has it."""
        artifact = cls(Path())
        artifact.ref = ref
        return artifact

    def file(self, name: str) -> Path:
        """Where the file `name` of this artifact lies."""
        return self.external.get(name, self.path / name)


class Dataset(Artifact):
    """Rows as UTF-8 JSON lines in shards `rows-00000.jsonl`, …; `meta` counts them.

    A row is a conversation in the shape of the OpenAI Chat Completions API: `messages`, or
    `prompt` + `completion`, or `prompt` + `chosen` + `rejected`; optional `tools`, `label`,
    `parents`; `id` is a hash of the content.
    """

    kind = "Dataset"
    written_by = ("finery.rows.files.writing",)
    read_by = ("finery.rows.files.reading",)

    @classmethod
    def write(
        cls, folder: Path, rows: Iterable[Row], *, meta: Mapping[str, Any] | None = None
    ) -> Self:
        """Write `rows` (a stream is fine) into `folder`, giving an `id` to each without one."""
        written = write_rows(folder, rows)
        return cls(folder, meta={**(meta or {}), "rows": written.rows, "columns": written.columns})

    def __iter__(self) -> Iterator[Row]:
        return read_rows(self.path)

    def __len__(self) -> int:
        return int(self.meta["rows"])


class Model(Artifact):
    """Something that answers prompts; `meta["format"]` says how and picks the engine.

    Formats built in: `transformers` (a Hugging Face folder), `adapter` (a PEFT folder,
    `refs["base"]`), `gguf` (`meta["file"]`), `prompted` (`refs["model"]` behind fixed
    messages), `api` (no weights).
    """

    kind = "Model"

    @property
    def format(self) -> str:
        """The weights' format, e.g. `gguf`."""
        return str(self.meta["format"])


class Metrics(Artifact):
    """`metrics.json` (scores with intervals, by model) and `predictions.jsonl` (by row id).

    metrics.json: {"rows": n, "scores": {model: {metric: value}},
    "intervals": {model: {metric: [low, high]}}, "details": {…}}.
    """

    kind = "Metrics"
    written_by = ("finery.rows.files.metrics",)
    read_by = ("finery.rows.files.metrics",)

    @classmethod
    def write(
        cls,
        folder: Path,
        *,
        rows: int,
        scores: Mapping[str, Mapping[str, float]],
        intervals: Mapping[str, Mapping[str, Sequence[float]]],
        details: Mapping[str, Any],
        predictions: Iterable[Mapping[str, Any]],
    ) -> Self:
        """Write both files; the first metric of each model is its headline."""
        report = {"rows": rows, "scores": scores, "intervals": intervals, "details": details}
        write_metrics(folder, report, predictions)
        return cls(folder, meta={"rows": rows})

    def report(self) -> dict[str, Any]:
        """What `metrics.json` holds."""
        return read_report(self.path)

    def predictions(self) -> Iterator[dict[str, Any]]:
        """The lines of `predictions.jsonl`."""
        return read_predictions(self.path)


class Bundle(Artifact):
    """Files to ship: a Modelfile, a serving folder."""

    kind = "Bundle"


KINDS: dict[str, type[Artifact]] = {c.kind: c for c in (Dataset, Model, Metrics, Bundle)}
