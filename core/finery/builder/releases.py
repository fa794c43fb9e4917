"""Releases: what is recorded of an output, and how its files are kept and brought back.

The store and, if results are pushed, the shared store keep the output and the evaluations that
judged it, each under the key of its digest.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from finery.artifact.kinds import Metrics
from finery.artifact.manifest import Manifest, with_references
from finery.builder.checks import failed_gates
from finery.builder.project import Project
from finery.builder.runs import revision_of, runs_of
from finery.builder.sharing import signing_keys
from finery.config import load_config
from finery.errors import RemoteError, RequirementError, UsageError
from finery.recipe.releases import (
    Evaluation,
    Release,
    Releases,
    lost_release,
    release_key,
    release_parts,
    release_result,
)
from finery.store.catalogue import Catalogue
from finery.store.objects import public_url
from finery.store.remote import Remote
from finery.util.installed import version_of
from finery.util.paths import plain_path, shown


class Judged(NamedTuple):
    """An evaluation of an output. manifest: of its `Metrics`. evaluation: as it is recorded."""

    step: str
    manifest: Manifest
    evaluation: Evaluation


class Candidate(NamedTuple):
    """An output that can be released. release: as it would be recorded."""

    release: Release
    manifest: Manifest
    judged: list[Judged]


def candidate(project: Project, title: str, *, force: bool = False) -> Candidate:
    """The current output of a step, e.g. `gguf.q8_0`, with what evaluations say of it.

    Raises `UsageError` if it isn't built for the recipe as it is now, or if the store doesn't have
    its files, and `RequirementError` if an evaluation of it fails its requirements. force: even so.
    """
    graph, store = project.graph, project.store
    name, _, output = title.partition(".")
    graph.require(name)
    result, is_current = project.result(name)
    manifest = project.output(result, name, output)
    if not is_current:
        raise UsageError(
            f"'{title}' isn't built for the recipe as it is now: this is the output of an earlier "
            "build",
            fix=f"finery build {graph.recipe.argument}--step {name}",
        )
    if manifest.external:
        raise UsageError(
            f"'{title}' has files outside of the store, so finery can't keep them",
            fix="release a step that makes files, such as an export",
        )
    judged = [*_judged(project, manifest)]
    if not force:
        _check_requirements(project, title, [each.step for each in judged])
    store.shared.bring([manifest])
    revision = revision_of(plain_path(graph.recipe.path).parent)
    blobs = {file for m in with_references(manifest) for file in m.files.values()}
    release = Release(
        digest=manifest.digest,
        kind=manifest.kind,
        output=title,
        recipe=plain_path(graph.recipe.path).name,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        size=sum(size for _, size in blobs),
        run=_run_of(project, name, result.key),
        commit=revision.commit if revision else None,
        dirty=bool(revision and revision.is_dirty),
        finery=version_of("finery"),
        facts={k: v for k, v in manifest.meta.items() if isinstance(v, str | int | float | bool)},
        proof=manifest.runtime.get("proof"),
        evaluations={each.step: each.evaluation for each in judged},
    )
    return Candidate(release, manifest, judged)


def _check_requirements(project: Project, title: str, judges: Sequence[str]) -> None:
    """Raise an error if an evaluation of an output isn't built, or fails what it requires."""
    graph, name = project.graph, title.partition(".")[0]
    for node in graph.nodes.values():
        takes_it = any(source.ref == title for source in node.sources)
        if node.evaluates and takes_it and node.name not in project.with_shared:
            raise UsageError(
                f"{node.name}, which judges '{title}', isn't built",
                fix=f"finery build {graph.recipe.argument}--step {node.name}, or add --force",
            )
    steps = {name, *judges}
    failed = failed_gates(graph.select([*steps]), project.store, project.with_shared)
    errors = [error for step, error in failed.items() if step in steps]
    if errors:
        raise RequirementError(
            f"'{title}' doesn't meet what the recipe requires",
            where=errors[0].where,
            details=[line for error in errors for line in error.details or [error.what]],
            fix="improve it, or add --force to release it nevertheless",
        )


def _judged(project: Project, manifest: Manifest) -> Iterator[Judged]:
    """The evaluations that have scores of an output, whatever other name it had there."""
    results = project.with_shared
    for node in project.graph.nodes.values():
        outputs = results[node.name].outputs if node.name in results else {}
        metrics = [m for m in outputs.values() if m.kind == Metrics.kind]
        built = [s for s in node.sources if s.step in results]
        names = [s.ref for s in built
                 if results[s.step].outputs[s.output].digest == manifest.digest]  # fmt: skip
        if not (metrics and names):
            continue
        project.store.shared.bring(metrics)
        artifact = project.store.artifact(metrics[0])
        assert isinstance(artifact, Metrics)
        report = artifact.report()
        for name in [name for name in names if report.scores.get(name)][:1]:
            scores = {m: [s.value, *(s.interval or ())] for m, s in report.scores[name].items()}
            digest, rows = metrics[0].digest, report.rows
            evaluation = Evaluation(digest=digest, rows=rows, scores=scores)
            yield Judged(node.name, metrics[0], evaluation)


def _run_of(project: Project, step: str, key: str) -> str | None:
    """The build that made a result, or the oldest known one that used it."""
    run_with_key = None
    for run in runs_of(project.store.root, project.graph.recipe):
        if step in run.steps and run.steps[step].key == key:
            run_with_key = run.id
            if run.steps[step].state == "ran":
                break
    return run_with_key


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
            raise RemoteError(
                f"nothing is released, since the shared store {public_url(config.remote)} can't "
                f"be written: {error.what}",
                fix=error.fix
                or "try again when it can be, or release without it: FINERY_PUSH=false",
            ) from error
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
    return manifests[0] if [m.digest for m in manifests] == [digest] else None


def bring(project: Project, release: Release, tag: str) -> Manifest:
    """The artifact of a release, with its files here. Raises `UsageError` if they can't be had."""
    made = find(project, release.digest)
    if made is None:
        problem, fix = lost_release(release, tag)
        raise UsageError(problem, where=shown(Releases(project.graph.recipe.path).path), fix=fix)
    project.store.shared.bring([made])
    return made
