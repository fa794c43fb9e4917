"""Artifacts: the inputs and outputs of steps. Each is a folder of files with a typed manifest."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from finery.rows.files import read_predictions, read_rows, write_predictions, write_rows
from finery.rows.report import Report, read_report, write_report
from finery.rows.row import Row
from finery.util.paths import path_in

if TYPE_CHECKING:
    from finery.artifact.manifest import Manifest


class Artifact:
    """A folder of files plus facts about them.

    path: the folder. Read-only for steps that take the artifact as an input.
    meta: facts as JSON values. They are part of the artifact's identity, so they must not differ
        from run to run (no times, no paths). `meta["format"]` selects the view that shows the
        artifact (see `finery.views.View`). `meta["run"]` is the shell command that runs it in its
        folder; a build prints it at its end.
    refs: artifacts that this one needs (an adapter's base), by role.
    external: files that stay where they are (the hub's cache, a user's folder): relative name →
        absolute path. They aren't part of the identity, so `meta` must identify them.
    runtime: facts as JSON values that aren't part of the identity, such as rate limits and prices.
        Steps that take the artifact don't rerun when these change, so they must not affect
        outputs. `runtime["env"]` names the environment variables that an engine needs for the
        model. `runtime["concurrency"]` limits concurrent requests; steps that use such a model run
        one at a time. `runtime["proof"]` says what its step verified, for `finery release`.
        `runtime["settings"]` has the settings that its step used, for `finery show --effective`:
        setting, as `lora.r` → (value, why it differs from what was asked, or "").
    Each class names the functions of the kit that write its files (`written_by`, in the keys of the
    steps that make one) and read them (`read_by`, in the keys of the steps that take one).
    """

    kind: ClassVar[str] = "Artifact"
    written_by: ClassVar[tuple[Callable[..., Any], ...]] = ()
    read_by: ClassVar[tuple[Callable[..., Any], ...]] = ()
    needed_facts: ClassVar[Mapping[str, type]] = {}
    """Names and types of what `meta` must have."""

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
        self.manifest: Manifest | None = None  # of an input, from the store
        self.made_of: list[str] = []  # in a plan: the models that its step takes, by their refs
        self.ref: str = ""  # in a plan: what the recipe names; in a step: only if `uses_name=True`

    @property
    def name(self) -> str:
        """The name of this input in the recipe, e.g. `sft` or `gguf.q8_0`.

        Only for inputs declared with `takes(uses_name=True)`, which adds the name to the key.
        """
        if not self.ref:
            raise AttributeError("declare the input with takes(uses_name=True) to use its name")
        return self.ref

    @classmethod
    def placeholder(cls, ref: str) -> Self:
        """A placeholder for the artifact `ref` until it is built."""
        artifact = cls(Path())
        artifact.ref = ref
        return artifact

    @property
    def formats(self) -> set[str]:
        """The formats of all models that it builds on, and its own if it is a model."""
        return set[str]().union(*(ref.formats for ref in self.refs.values()))

    def file(self, name: str) -> Path:
        """The path of the file `name` of this artifact. `DataError` for one outside of it."""
        return self.external.get(name, path_in(self.path, name))


class Dataset(Artifact):
    """Rows as UTF-8 JSON lines in shards `rows-00000.jsonl`, …; `meta` counts them.

    A row is a conversation in the shape of the OpenAI Chat Completions API: `messages`, or
    `prompt` + `completion`, or `prompt` + `chosen` + `rejected`; optional `tools`, `label`,
    `parents`; `id` is a hash of the content.
    """

    kind = "Dataset"
    written_by = (write_rows,)
    read_by = (read_rows,)
    needed_facts = {"rows": int, "columns": list}

    @classmethod
    def write(
        cls, folder: Path, rows: Iterable[Row], *, meta: Mapping[str, Any] | None = None
    ) -> Self:
        """Write `rows` (any iterable) into `folder`, adding an `id` to each row without one."""
        written = write_rows(folder, rows)
        return cls(folder, meta={**(meta or {}), "rows": written.rows, "columns": written.columns})

    def __iter__(self) -> Iterator[Row]:
        if self.path == Path():
            raise KeyError("rows")  # as `len` does, which `check` then explains
        return read_rows(self.path)

    def __len__(self) -> int:
        return int(self.meta["rows"])


class Model(Artifact):
    """Something that answers prompts. `meta["format"]` selects the engine.

    Formats built in: `transformers` (a Hugging Face folder), `adapter` (a PEFT folder,
    `refs["base"]`), `gguf` (`meta["file"]`), `gguf-adapter` (`meta["file"]`, for the GGUF in
    `refs["base"]`), `prompted` (`refs["model"]` with fixed messages), `api` (no weights).
    """

    kind = "Model"
    needed_facts = {"format": str}

    @property
    def format(self) -> str:
        """The weights' format, e.g. `gguf`."""
        return str(self.meta["format"])

    @property
    def formats(self) -> set[str]:
        """Its format, and those of all models that it builds on."""
        return {self.format, *super().formats}


class Metrics(Artifact):
    """`metrics.json`, a `finery.rows.report.Report`, and `predictions.jsonl`, by row id."""

    kind = "Metrics"
    read_by = (read_report, read_predictions)
    written_by = (write_report, write_predictions, *read_by)  # a step may read what it has measured

    @classmethod
    def write(
        cls, folder: Path, report: Report, predictions: Iterable[Mapping[str, Any]] = ()
    ) -> Self:
        """Write both files; the first metric of each model is the one that decides."""
        write_report(folder, report)
        write_predictions(folder, predictions)
        return cls(folder, meta={"rows": report.rows})

    def report(self) -> Report:
        """The content of `metrics.json`."""
        return read_report(self.path)

    def predictions(self) -> Iterator[dict[str, Any]]:
        """The lines of `predictions.jsonl`."""
        return read_predictions(self.path)


class Bundle(Artifact):
    """Files to ship: a Modelfile, a serving folder."""

    kind = "Bundle"


class Index(Artifact):
    """Texts to search, and a way to find them by a question: words, or embeddings.

    Steps search it with the classes of the plugin that wrote it. `refs["embedder"]` is the model
    that embedded the texts, if any.
    """

    kind = "Index"


KINDS: dict[str, type[Artifact]] = {c.kind: c for c in (Dataset, Model, Metrics, Bundle, Index)}
