"""The quick answer to "is there anything to do": a stamp of all that a finished build looked at.

A stamp lists every file whose state decides the answer, with its stat: the recipe and its lock,
plugin files, outside files, blobs, views, the links under `build/`, and the folders of `sys.path`
(whose times change when a distribution comes, goes or is upgraded). When all stand as they stood,
a build would find nothing to do, and neither plugins nor the recipe need to be read to know it.
Any difference, and the build takes the long road, which alone decides what runs.

Imports little: with it, a build with nothing to do takes hardly longer than starting Python.
"""

import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finery.util.files import settled
from finery.util.paths import store_folder

if TYPE_CHECKING:
    from finery.artifact.manifest import Manifest
    from finery.build.scheduler import Build

FORMAT = 1
HOOKS = (
    "finery_build_started", "finery_build_finished", "finery_step_started", "finery_step_finished",
    "finery_step_failed",
)  # fmt: skip
"""Hooks that a plugin expects to be called in every build: with one of them, no stamp."""


def steps_if_done(recipe: Path, steps: Sequence[str], overrides: Sequence[str]) -> int | None:
    """How many steps the recipe has if a build would find nothing to do; None if it may."""
    database = store_folder(recipe) / "finery.db"
    if not database.is_file():
        return None
    try:
        db = sqlite3.connect(database, timeout=1, isolation_level=None)
        try:
            row = db.execute(
                "SELECT content FROM facts WHERE name = ?", [_name(recipe, steps, overrides)]
            ).fetchone()
        finally:
            db.close()
        return _steps_if_same(json.loads(row[0])) if row else None
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return None  # no such table, a stamp of another version, a busy database: the long road


def _steps_if_same(stamp: dict[str, Any]) -> int | None:
    same = (
        stamp["format"] == FORMAT
        and stamp["python"] == _python()
        and all(_stat(path) == stat for path, stat in stamp["files"])
        and all(_link(path) == text for path, text in stamp["links"])
        and all(_matches(pattern) == found for pattern, found in stamp["patterns"])
    )
    return int(stamp["steps"]) if same else None


def keep(build: "Build", steps: Sequence[str], overrides: Sequence[str]) -> None:
    """Stamp a build that is complete, if nothing that it looked at changed since it began.

    What changed later isn't what the build saw: the next one must look at it again.
    """
    if any(getattr(build.graph.plugins.hook, hook).get_hookimpls() for hook in HOOKS):
        return
    recipe = build.graph.recipe.path
    sources, patterns = _sources(build)
    if not all(_settled(path, build.began) for path in (*sources, *sys.path)):
        return
    if any(build.store.lookup(result.key) is None for result in build.outcome.results.values()):
        return
    manifests = [m for r in build.outcome.results.values() for m in r.outputs.values()]
    files = {*sources, *_stored(build, manifests)}
    stamp = {
        "format": FORMAT,
        "python": _python(),
        "steps": len(build.graph.nodes),
        "files": [[path, _stat(path)] for path in sorted(files)],
        "links": [[path, _link(path)] for path in _links(build.folder)],
        "patterns": [[pattern, _matches(pattern)] for pattern in sorted(patterns)],
    }
    build.store.keep_facts({_name(recipe, steps, overrides): json.dumps(stamp).encode()})


def _sources(build: "Build") -> tuple[set[str], set[str]]:
    """(files and folders outside the store that decide what is built, patterns of more)."""
    from finery.fields import OptionalFiles
    from finery.step.inspect import files_of

    graph, planner = build.graph, build.planner
    found = {str(graph.recipe.path.absolute()), str(planner.lock.path.absolute())}
    for plugin in graph.plugins.plugins:
        found.add(str(plugin.path or plugin.module.__file__))
    found |= {str(path) for path in planner.code.files() | planner.code.folders()}
    found |= planner.code.absent()
    patterns, folder = set(), graph.recipe.folder.absolute()
    for node in graph.nodes.values():
        found |= {str(path) for named in planner.files(node).values() for _, path in named}
        for files in files_of(node.step).values():
            named = {str(folder / Path(p).expanduser()) for p in files.patterns}
            patterns |= named
            if isinstance(files, OptionalFiles):  # one that comes is to be seen, too
                found |= named
    return found, patterns


def _stored(build: "Build", manifests: Iterable["Manifest"]) -> Iterable[str]:
    """Blobs, views and external files of artifacts and of those they refer to."""
    from finery.store.links import view_path

    for manifest in manifests:
        folder = view_path(build.store.root, manifest)
        yield from {str((folder / name).parent) for name in ("", *manifest.files)}
        yield from (str(build.store.blob(digest)) for digest, _ in manifest.files.values())
        yield from (path for path, *_ in manifest.external.values())
        yield from _stored(build, manifest.refs.values())


def _links(folder: Path) -> list[str]:
    """Everything under `build/<recipe>`, two levels deep."""
    return sorted(
        glob(f"{folder}/*")
        + [p for p in glob(f"{folder}/*/*") if not os.path.islink(os.path.dirname(p))]
    )


def _matches(pattern: str) -> list[str]:
    """What a pattern finds now; a folder stands for all that is in it."""
    if os.path.isdir(pattern):
        return sorted(
            os.path.join(root, name) for root, _, names in os.walk(pattern) for name in names
        )
    return sorted(glob(pattern, recursive=True)) if any(c in pattern for c in "*?[") else []


def _python() -> list[Any]:
    """This Python, and the state of the folders that it imports from."""
    folders = [[entry, _stat(entry)] for entry in sys.path]
    own = os.path.dirname(os.path.abspath(__file__))
    return [list(sys.version_info[:3]), folders, _stat(own), os.path.realpath(sys.prefix)]


def _stat(path: str) -> list[int] | None:
    try:
        s = os.stat(path)
    except OSError:
        return None
    return [s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns]


def _settled(path: str, began: int) -> bool:
    stat = _stat(path)
    return stat is None or settled(stat[3], stat[4], began)


def _link(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return "" if os.path.isdir(path) else None


def _name(recipe: Path, steps: Sequence[str], overrides: Sequence[str]) -> str:
    # A copy of a project brings its stamps along, and they are about the original's files.
    arguments = json.dumps([str(recipe.absolute()), sorted(steps), list(overrides)])
    return f"stamp of {arguments}"
