"""The outputs of steps, now and in runs of the past: names, views, first metrics."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from finery.artifact.kinds import Metrics
from finery.artifact.manifest import Manifest, Result
from finery.builder.runs import Run, find_run
from finery.errors import UsageError
from finery.plugin.manager import Plugins
from finery.recipe.graph import Graph
from finery.rows.files import READ_ERRORS
from finery.rows.report import METRICS, parsed_report
from finery.store.database import Store
from finery.util.text import counted, size
from finery.views.view import Output, View

if TYPE_CHECKING:
    from finery.recipe.graph import Node


def view_of(plugins: Plugins, manifest: Manifest) -> View:
    """The view that shows an artifact."""
    return plugins.view(manifest.kind, str(manifest.meta.get("format", "")))


def output_of(plugins: Plugins, store: Store, title: str, manifest: Manifest) -> Output:
    """An output for its view. title: its name in the recipe."""
    refs = {role: phrase(plugins, ref) for role, ref in manifest.refs.items()}
    return Output(title, store.artifact(manifest), manifest, refs)


def outputs_by_view(
    plugins: Plugins, store: Store, manifests: Iterable[tuple[str, Manifest]]
) -> list[tuple[View, list[Output]]]:
    """Each view that may show what its outputs share, with these."""
    groups: dict[type[View], list[Output]] = {}
    for title, manifest in manifests:
        kind = type(view_of(plugins, manifest))
        if kind.describe is not View.describe and store.shared.reach([manifest]):
            groups.setdefault(kind, []).append(output_of(plugins, store, title, manifest))
    return [(kind(), outputs) for kind, outputs in groups.items()]


def titled(step: str, outputs: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Name in the recipe → manifest of each output.

    The unnamed output is omitted if it repeats a named one.
    """
    named = {name: m for name, m in outputs.items() if name or outputs.keys() == {""}}
    return {f"{step}.{name}" if name else step: manifest for name, manifest in named.items()}


def phrase(plugins: Plugins, manifest: Manifest) -> str:
    """An artifact in a few words, for a list: `gguf q8_0, 138 MiB`."""
    brief = view_of(plugins, manifest).brief(manifest)
    return ", ".join(part for part in (brief, size(manifest.size())) if part)


T = TypeVar("T")


def folded(
    items: Sequence[T], node_of: Callable[[T], "Node"], state_of: Callable[[T], Hashable]
) -> list[list[T]]:
    """The items in groups, each at the place of its first: variants of one step in one state."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        node = node_of(item)
        key = (node.origin, state_of(item)) if node.variant else node.name
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def title_of(nodes: Sequence["Node"]) -> str:
    """`sft`, or `sft (12 variants)`."""
    first = nodes[0]
    if len(nodes) == 1:
        return first.name
    return f"{first.origin} ({counted(len(nodes), 'variant')})"


def result_in(graph: Graph, store: Store, step: str, word: str) -> Result:
    """A step's result in a run. Raises `UsageError` where the store doesn't have it."""
    run = find_run(store.root, graph.recipe, word)
    record = run.steps.get(step)
    if record is None or not record.key:
        why = "it didn't build this step"
        if record is not None:
            recorded = record.state in ("cached", "ran")
            why = (
                "an earlier version of finery recorded it" if recorded else f"it was {record.state}"
            )
        raise UsageError(
            f"run {run.id} has no result of '{step}': {why}",
            where="--run",
            fix="see finery runs for what it built",
        )
    result = store.lookup(record.key)
    if result is None:
        raise UsageError(
            f"the outputs of '{step}' in run {run.id} are no longer in the store",
            where="--run",
            fix="build that revision of the recipe again",
        )
    return result


class FirstMetric(NamedTuple):
    """The first metric of each model that a step judged. is_cleaned: its files are gone.

    is_share: whether it is from 0 to 1.
    """

    metric: str
    values: Mapping[str, float]
    is_cleaned: bool = False
    is_share: bool = True


def first_metrics(store: Store, run: Run) -> dict[str, FirstMetric]:
    """Step → first metric, for the evaluators that a run built or found built."""
    names = {}
    for step in run.steps.values():
        result = store.finished(step.key) if step.key else None
        for manifest in result.outputs.values() if result else ():
            if manifest.kind == Metrics.kind:
                names[step.name] = _first_metric(store, manifest)
    return names


def _first_metric(store: Store, manifest: Manifest) -> FirstMetric:
    try:
        digest, _ = manifest.files[METRICS]
        report = parsed_report(store.blob(digest).read_bytes())
    except (KeyError, TypeError, AttributeError, OSError, *READ_ERRORS):
        return FirstMetric("", {}, is_cleaned=True)
    metric = next((name for s in report.scores.values() for name in s), "")
    values = {model: s[metric].value for model, s in report.scores.items() if metric in s}
    return FirstMetric(metric, values, is_share=report.is_share(metric))
