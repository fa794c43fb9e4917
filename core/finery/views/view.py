"""Views: how artifacts look in a terminal, as JSON, and as a page.

A plugin provides views by the hook `finery_views`: a kind of artifact, or a kind and a format, with
a subclass of `View`. An artifact without a view is shown by its facts, references and files.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, get_args

from finery.errors import FineryError, PluginError, raised_as
from finery.rows.report import Remark, Unit
from finery.step.inspect import FILE_MODULE, full_name
from finery.step.step import Step
from finery.util.paths import shown
from finery.util.references import load_reference
from finery.views.parts import (
    Facts,
    Hint,
    Part,
    Quantity,
    Record,
    Section,
    Table,
    Text,
    Tone,
)

if TYPE_CHECKING:
    from finery.artifact.kinds import Artifact
    from finery.artifact.manifest import Manifest
    from finery.recipe.graph import Graph


SHOWN = 2_000
"""Characters of a text file that are shown."""


class Output(NamedTuple):
    """An output of a step, as input of a view.

    title: its name in the recipe, e.g. `split.train`. refs: role → a short description of each
    artifact that it refers to. link: its path under `build/`; None if there is no link. graph: the
    recipe's steps, for `remarks`. built: for these, an artifact by its name in the recipe.
    """

    title: str
    artifact: "Artifact"
    manifest: "Manifest"
    refs: Mapping[str, str] = {}
    link: Path | None = None
    graph: "Graph | None" = None
    built: "Callable[[str], Artifact | None]" = lambda name: None

    @property
    def step(self) -> str:
        """The step that made it."""
        return self.title.partition(".")[0]


class Detail(NamedTuple):
    """How much of an output to show.

    rows: maximum number of rows, wrong answers or other items. dropped: also show everything that
    the step left out, not only the first few of each reason. model: the model of an evaluation to
    show; None shows all.
    """

    rows: int = 3
    dropped: bool = False
    model: str | None = None


class Context(NamedTuple):
    """What a view may use in addition to its outputs.

    title: of a page, the names of the recipe and the step. built: an artifact by its name in the
    recipe (`base`, `split.train`); None if it isn't built. tokenizer: the model that the user named
    with `--tokenizer`. progress: reports (activity, items done, total; 0 if unknown). note: prints
    a line for the user. scope: `output` for one in full, `build` for all of a build as in a report,
    and `summary` for a table or two of what they share, as at the end of a build. medium: where it
    is shown; for what would take too long or too much room elsewhere. gates: step → why a build
    fails there although the step is built, for a `Verdict`; None where nobody asks for one.
    """

    title: str
    graph: "Graph"
    built: "Callable[[str], Artifact | None]"
    tokenizer: str | None
    progress: Callable[[str, int, int], None]
    note: Callable[[str], None]
    detail: Detail = Detail()
    scope: Literal["output", "build", "summary"] = "output"
    medium: Literal["terminal", "page", "markdown"] = "page"
    gates: Mapping[str, FineryError] | None = None


class View:
    """The display of artifacts of a kind, or of one of its formats.

    Subclass it for your artifacts, and override the methods that can show more. A view has no
    state. It is imported when something is shown, and it isn't part of any key.
    """

    side_by_side: ClassVar[bool] = False
    """Whether all outputs of a step share a page."""
    page_suffix: ClassVar[str] = ""
    """What the file of a page is called after the output, e.g. `-report`."""
    text_file: ClassVar[str] = ""
    """A file of the artifact whose text is shown below the files, e.g. `run.sh`."""

    def brief(self, manifest: "Manifest") -> str:
        """A phrase for a list, e.g. `gguf q8_0` or `404 rows`."""
        return str(manifest.meta.get("format", ""))

    def data(self, output: Output, detail: Detail) -> dict[str, Any]:
        """Fields of `--json` besides `kind`, `digest`, `meta`, `bytes`, `files` and `path`."""
        return {}

    def facts(self, output: Output) -> Mapping[str, Any]:
        """Names and JSON values, which `describe` begins with; by default all of `meta`."""
        return output.manifest.meta

    def describe(self, outputs: Sequence[Output], context: Context) -> Iterator[Section]:
        """What people see of outputs that belong together, wherever it is shown.

        outputs: one for `finery show` and its page, unless `side_by_side`; for a report and the end
        of a build, all that this view shows, see `context.scope`. By default facts and files, and
        nothing for a build.
        """
        if context.scope == "output":
            yield from (Section(o.title, self.overview(o), rank=60) for o in outputs)

    def overview(self, output: Output) -> "Iterator[Part]":
        """The facts about an output and its files."""
        yield Facts({**self.facts(output), **output.refs})
        yield files_of(output)
        if page_of(output.manifest):
            yield Hint(f"finery show {output.title} --html: a copy that browsers open")
        if self.text_file:
            text = output.artifact.file(self.text_file).read_text(encoding="utf-8")
            yield Text(text[:SHOWN], is_code=True)

    def compare(self, before: Output, after: Output, context: Context) -> Iterator[Section]:
        """What differs between two versions of an output; by default the facts.

        before, after: the same output of the recipe. Their digests differ, and their files exist.
        A `Finding` in it says in the first line of a diff what is better (`good`), worse (`bad`) or
        unclear (`open`): its `answer`.
        """
        facts = self.difference(before, after).get("facts", {})
        yield Section(after.title, [Facts.of_changes(facts)] if facts else [])

    def event(self, facts: Mapping[str, Any]) -> Iterator[Text]:
        """A record about a row in words, for `finery show --row`; by default its facts.

        facts: the line, without the row itself.
        """
        yield Text(", ".join(f"{name} {value}" for name, value in facts.items()))

    def difference(self, before: Output, after: Output) -> dict[str, Any]:
        """The differences between two versions of an output, as JSON values; by default the facts.

        See `compare`.
        """
        old, new = before.manifest.meta, after.manifest.meta
        names = [*new, *(name for name in old if name not in new)]
        facts = {n: [old.get(n), new.get(n)] for n in names if old.get(n) != new.get(n)}
        return {"facts": facts} if facts else {}

    def records(self, output: Output, context: Context) -> Iterator[Record] | None:
        """The records that `finery show --wrong` lists because they deserve a look, e.g. wrong
        answers.

        Each has self-contained `data`, for `--jsonl`. None if this kind has no such records.
        """
        return None

    def remarks(self, output: Output) -> Iterator[Remark]:
        """Remarks about an output that a build has just made."""
        return iter(())


def page_of(manifest: "Manifest") -> str | None:
    """The page that an artifact is, if it is one."""
    pages = [name for name in manifest.files if name.endswith(".html") and "/" not in name]
    return pages[0] if len(pages) == 1 else None


def files_of(output: Output) -> Section:
    """An artifact's files with their sizes, and the places of external files."""
    manifest = output.manifest
    files = [(name, Quantity(count, "bytes"), "") for name, (_, count) in manifest.files.items()]
    files += [
        (name, Quantity(count, "bytes"), f"→ {path}")
        for name, (path, count, _) in manifest.external.items()
    ]
    folder = shown(output.link or output.artifact.path)
    columns = ("", "", "") if manifest.external else ("", "")
    rows = [file[: len(columns)] for file in files]
    return Section("files", [Table(columns, rows)] if rows else [], note=folder)


def sections_of(
    view: View, outputs: Sequence[Output], context: Context, *, strict: bool = False
) -> Iterator[Section]:
    """The sections of a view, with everything read. An error is shown in the place of its part.

    strict: raise errors that the user can mend.
    """
    return _readable(lambda: view.describe(outputs, context), view, context, strict)


def comparison_of(view: View, before: Output, after: Output, context: Context) -> Iterator[Section]:
    """The sections of a comparison, in the same way."""
    return _readable(lambda: view.compare(before, after, context), view, context, strict=True)


def _readable(
    describe: Callable[[], Iterable[Section]], view: View, context: Context, strict: bool
) -> Iterator[Section]:
    owner = type(view).__module__.partition(".")[0]
    if owner.startswith(FILE_MODULE):
        owner = owner.removeprefix(FILE_MODULE).rpartition("_")[0] + ".py"

    def read(parts: Callable[[], Iterable[Part]]) -> Iterator[Part]:
        try:
            for part in parts():
                if not isinstance(part, get_args(Part)):
                    raise TypeError(f"{part!r:.60} is neither a section nor a part of one")
                if isinstance(part, Section):
                    inner = part.parts
                    part = part._replace(parts=list(read(lambda inner=inner: inner)))  # type: ignore[misc]
                yield part
        except Exception as error:
            if strict and isinstance(error, FineryError):
                raise
            what = (
                error.what if isinstance(error, FineryError) else f"{type(error).__name__}: {error}"
            )
            context.note(f"{owner}: {what}")
            yield Remark(f"This part can't be shown ({owner}): {what}", severity="warning")

    for part in read(describe):
        yield part if isinstance(part, Section) else Section(owner, [part], rank=60)


class LiveMetric(NamedTuple):
    """How a metric that a running step reports with `job.metric` is shown.

    A step type declares a mapping, `class Train(Step, metrics=METRICS)`, from the names of metrics
    to this, in display order. `watch.*` means all names with that beginning.
    Metrics that aren't declared are shown as `LiveMetric()`.

    text: with `{name}` and `{value}`. unit: of the value; without one, it has three decimals.
    rank: 1 stays visible longest if the terminal is narrow. lasting: it is still shown when the
    step is done. validation: measured rarely, so plain output prints it soon. lower_is_better: a
    value above the lowest so far is marked with ↑. hides: another metric that isn't shown next to
    it.
    """

    text: str = "{name} {value}"
    unit: Unit = ""
    tone: Tone = ""
    rank: int = 4
    lasting: bool = True
    validation: bool = False
    lower_is_better: bool = False
    hides: str = ""


class DeclaredMetric(NamedTuple):
    """How to show a metric, its rank among the declared ones, and the value of `{name}`."""

    style: LiveMetric
    place: int
    label: str


def declared_metric(name: str, styles: Mapping[str, LiveMetric]) -> DeclaredMetric:
    """How to show a metric: as declared for its name or its beginning, or the default."""
    for place, (pattern, style) in enumerate(styles.items()):
        start = pattern.removesuffix("*")
        if name == pattern or (start != pattern and name.startswith(start)):
            label = name if name == pattern else name.removeprefix(start)
            return DeclaredMetric(style, place, label.replace("_", " "))
    return DeclaredMetric(LiveMetric(), len(styles), name.replace("_", " "))


def metrics_of(step_type: type[Step]) -> Mapping[str, LiveMetric]:
    """How to show the metrics of such steps, as declared by their type.

    Raises `PluginError` if the declaration can't be loaded.
    """
    reference = step_type.__spec__.metrics
    what = f"metrics={reference!r} of {full_name(step_type)}"
    fix = 'name a mapping as "module:NAME": {"loss": LiveMetric(…)}'

    def explain(error: Exception) -> PluginError:
        return PluginError(f"{what} can't be loaded: {type(error).__name__}: {error}", fix=fix)

    with raised_as(explain):
        styles = load_reference(reference) if reference else {}
    if isinstance(styles, Mapping) and all(isinstance(v, LiveMetric) for v in styles.values()):
        for name, style in styles.items():
            try:
                style.text.format(name=name, value="1")
            except (LookupError, ValueError, AttributeError) as error:
                problem = f"the text of '{name}' has other fields than {{name}} and {{value}}"
                raise PluginError(f"{what}: {problem}", fix=fix) from error
        return styles
    raise PluginError(f"{what} isn't a mapping of names to LiveMetric", fix=fix)
