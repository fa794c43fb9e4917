"""Releases: what is recorded of an output, and how its files are kept and brought back.

The store and, if results are pushed, the shared store keep the output and the evaluations that
judged it, each under the key of its digest.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from finery.artifact.kinds import Metrics
from finery.artifact.manifest import Manifest, with_references
from finery.builder.checks import failed_gates
from finery.builder.project import Project
from finery.builder.runs import revision_of, runs_of
from finery.builder.sharing import signing_keys
from finery.config import load_config
from finery.errors import FineryError, RemoteError, UsageError
from finery.recipe.releases import (
    Evaluation,
    Release,
    Releases,
    release_key,
    release_parts,
    release_result,
)
from finery.recipe.validate import raise_all
from finery.store.catalogue import Catalogue
from finery.store.objects import public_url
from finery.store.remote import Remote
from finery.util.installed import version_of
from finery.util.paths import plain_path, shown
from finery.util.text import a_or_an, visible

OF_ROWS = ("training_example",)
"""Facts that have a text of a row, which isn't meant for git."""


def candidate(
    project: Project, title: str, *, force: bool = False
) -> tuple[Release, list[Manifest]]:
    """The current output of a step, e.g. `gguf.q8_0`, as it would be recorded, and what to keep.

    These are the manifests of the output and of the evaluations that judged it. Raises `UsageError`
    if the output isn't built for the recipe as it is now, or if the store doesn't have its files,
    and the error of the build if an evaluation of it fails its requirements. force: even so.
    """
    graph, store = project.graph, project.store
    name, _, output = title.partition(".")
    graph.require(name)
    result, is_current = project.result(name)
    manifest = project.output(result, name, output)
    title = f"{name}.{output}" if output else name
    if not is_current:
        problem = f"'{title}' isn't built for the recipe as it is now: this is the output of an "
        fix = f"finery build {graph.recipe.argument}--step {name}"
        raise UsageError(f"{problem}earlier build", fix=fix)
    if manifest.external:
        problem = f"'{title}' has files outside of the store, so finery can't keep them"
        raise UsageError(problem, fix="release a step that makes files, such as an export")
    judged = [*_evaluations_of(project, manifest)]
    unmet = _unmet(project, title, [step for step, *_ in judged], force=force)
    if not force:
        raise_all(unmet)
    store.shared.bring([manifest])
    revision = revision_of(plain_path(graph.recipe.path).parent)
    blobs = {file for m in with_references(manifest) for file in m.files.values()}
    meta = {name: value for name, value in manifest.meta.items() if name not in OF_ROWS}
    facts = {name: v for name, v in meta.items() if isinstance(v, str | int | float | bool)}
    release = Release(
        digest=manifest.digest,
        kind=manifest.kind,
        output=title,
        recipe=plain_path(graph.recipe.path).name,
        date=now(),
        size=sum(size for _, size in blobs),
        run=_run_of(project, name, result.key),
        commit=revision.commit if revision else None,
        dirty=bool(revision and revision.is_dirty),
        finery=version_of("finery"),
        facts=facts,
        proof=manifest.runtime.get("proof"),
        evaluations={step: evaluation for step, _, evaluation in judged},
        unmet=[line for error in unmet for line in error.details or [error.what]],
    )
    return release, [manifest, *(metrics for _, metrics, _ in judged)]


def now() -> str:
    """The date of a release: UTC, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _unmet(
    project: Project, title: str, judges: Iterable[str], *, force: bool
) -> list[FineryError]:
    """The requirements of an output that aren't met. Raises if an evaluation of it isn't built."""
    graph, results = project.graph, project.with_shared
    for node in graph.nodes.values():
        judged = [source.ref for source in node.sources if source not in node.row_sources]
        if node.evaluates and title in judged and node.name not in results and not force:
            fix = f"finery build {graph.recipe.argument}--step {node.name}, or add --force"
            raise UsageError(f"{node.name}, which judges '{title}', isn't built", fix=fix)
    steps = [title.partition(".")[0], *judges]
    failed = failed_gates(graph.select(steps), project.store, results)
    return [error for step, error in failed.items() if step in steps]


def _evaluations_of(
    project: Project, manifest: Manifest
) -> Iterator[tuple[str, Manifest, Evaluation]]:
    """(step, its `Metrics`, what it says) of the evaluations that have scores of an output.

    Whatever other name the output has there.
    """
    results = project.with_shared
    for node in project.graph.nodes.values():
        outputs = results[node.name].outputs.values() if node.name in results else ()
        metrics = next((m for m in outputs if m.kind == Metrics.kind), None)
        built = [s for s in node.sources if s.step in results]
        names = [s.ref for s in built
                 if results[s.step].outputs[s.output].digest == manifest.digest]  # fmt: skip
        if metrics is None or not names:
            continue
        project.store.shared.bring([metrics])
        artifact = project.store.artifact(metrics)
        assert isinstance(artifact, Metrics)
        report = artifact.report()
        for scored in [report.scores[name] for name in names if report.scores.get(name)][:1]:
            scores = {metric: [s.value, *(s.interval or ())] for metric, s in scored.items()}
            evaluation = Evaluation(digest=metrics.digest, rows=report.rows, scores=scores)
            yield node.name, metrics, evaluation


def _run_of(project: Project, step: str, key: str) -> str | None:
    """The build that made a result, or the oldest known one that used it."""
    runs = runs_of(project.store.root, project.graph.recipe)
    using = [run for run in runs if step in run.steps and run.steps[step].key == key]
    made = [run for run in using if run.steps[step].state == "ran"]
    return (made[:1] or using)[-1].id if using else None


def check_entry(project: Project, releases: Releases, tag: str, release: Release) -> None:
    """Raise `UsageError` if a tag is that of another recipe in the folder, or of another kind."""
    current, recipe = releases.current(tag), plain_path(project.graph.recipe.path)
    owner = recipe.with_name(Path(current.recipe).name) if current is not None else recipe
    if owner.name != recipe.name and owner.is_file():
        problem = f"'{tag}' is a release of {visible(owner.name)}, which is beside {recipe.name}"
        fix = f"choose another tag, e.g. {recipe.stem}-{tag}"
        raise UsageError(problem, where="--as", fix=fix)
    kinds = [each.kind for each in project.graph.unreleased.values() if each.tag == tag]
    for kind in [current.kind] if current is not None else kinds:
        if kind != release.kind:
            problem = f"'{tag}' is {a_or_an(kind)}, and '{release.output}' {a_or_an(release.kind)}"
            raise UsageError(problem, where="--as", fix="choose another tag")


# -- kept and brought back -------------------------------------------------------------------------


def keep(project: Project, release: Release, manifests: Iterable[Manifest]) -> bool:
    """Keep what belongs to a release in the store, and in the shared store if results are pushed.

    Returns whether they are in the shared store. Raises `RemoteError` if they should be and can't.
    """
    store, recipe = project.store, project.graph.recipe
    store.check_writable()
    results = [release_result(manifest) for manifest in manifests]
    config = load_config(recipe.path)
    pushes = bool(config.remote and config.push)
    if config.remote and pushes:
        remote = Remote(config.remote, *signing_keys(config))
        try:
            for result in results:
                remote.push_result(store.root, result)
                remote.keep(result.key)
        except RemoteError as error:
            problem = "nothing is released, since the shared store"
            error.what = f"{problem} {public_url(config.remote)} can't be written: {error.what}"
            error.fix = error.fix or "try again, or release without it: FINERY_PUSH=false"
            raise
    store.commit(results, run=release.run or "")
    pin = f"(release) {recipe.name} {release.output}"
    Catalogue(store).pin({result.key: pin for result in results})
    return pushes


def find(project: Project, digest: str) -> Manifest | None:
    """An artifact that belongs to a release, from the store or the shared store, without its files.

    Its digest is that of its content, so neither can put another one in its place.
    """
    store, key = project.store, release_key(digest)
    result = store.lookup(key)
    config = load_config(project.graph.recipe.path) if result is None else None
    if config is not None and config.remote and not store.read_only:
        remote = Remote(config.remote, *signing_keys(msgspec.structs.replace(config, push=False)))
        records = remote.records([key])
        if records and [m.digest for m in records[key].outputs.values()] == [digest]:
            store.shared.use(remote)
            known = [m for r in project.with_shared.values() for m in r.outputs.values()]
            parts = {key: release_parts(digest)}
            store.shared.adopt(public_url(remote.url), records, parts, {key: known}, "")
            result = store.lookup(key)
    manifests = [*result.outputs.values()] if result is not None else []
    if not manifests and not store.read_only:  # perhaps it was built again
        made = (m for _, outputs in Catalogue(store).everything() for m in outputs.values())
        manifests = [manifest for manifest in made if manifest.digest == digest][:1]
        store.commit([*map(release_result, manifests)], run="")
    return manifests[0] if [m.digest for m in manifests] == [digest] else None


def bring(project: Project, release: Release, tag: str) -> Manifest:
    """The artifact of a release, with its files here. Raises `UsageError` if they can't be had."""
    made = find(project, release.digest)
    if made is None:
        releases = Releases(project.graph.recipe.path)
        problem, fix = releases.lost(release, tag)
        raise UsageError(problem, where=shown(releases.path), fix=fix)
    project.store.shared.bring([made])
    return made
