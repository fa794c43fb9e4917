"""Undeclared reads: project files that a step reads, but that aren't in its key.

An audit hook (PEP 578) sees every file that Python code opens. A process installs it once, since it
can't be removed, and it does nothing unless a step is watched. While a step runs, the hook collects
paths in the project folder. After the step, the undeclared ones become notes.

The hook doesn't see files that C and Rust libraries open themselves or that child processes read,
nor folders that are only listed and files that are only checked for existence.
"""

import os
import site
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import msgspec

from finery.artifact.manifest import with_references
from finery.errors import FineryError
from finery.execute.executor import Noted, Task
from finery.plugin.discovery import load_file
from finery.plugin.manager import Plugins
from finery.util.installed import distributions

NAME = "undeclared-read"
MOST = 10
"""Maximum number of files that are named; the rest are counted."""
HELD = 10_000
"""Maximum number of paths that are collected while a step runs."""
_EMPTIES, _ACCESS, _WRITE = os.O_TRUNC | os.O_EXCL, os.O_ACCMODE, os.O_WRONLY
"""Flags of `open`: those that create an empty file, the mask of the mode, and writing."""


class Scope(NamedTuple):
    """Which reads count: those in `folders` and not in `known`. All paths end with a slash."""

    folders: tuple[str, ...]
    known: tuple[str, ...]


class Opened:
    """The files in a scope that this process opens for reading."""

    def __init__(self, scope: Scope) -> None:
        self.paths: dict[str, None] = {}
        self._folders, self._known = scope
        self._written: set[str] = set()

    def take(self, path: Any, flags: int) -> None:
        """Record a file that is about to be opened. path, flags: from the audit event `open`."""
        if type(path) is not str:
            if isinstance(path, int):
                return
            path = os.fsdecode(path)
        if path[:1] != "/":
            path = f"{os.getcwd()}/{path}"
        if "/." in path:
            path = os.path.normpath(path)
        if not path.startswith(self._folders) or path.startswith(self._known):
            return
        if path in self.paths:
            return
        if flags & _EMPTIES:
            self._written.add(path)  # from now on, its content is the step's own
        elif flags & _ACCESS != _WRITE and path not in self._written and len(self.paths) < HELD:
            self.paths[path] = None


_watched: Opened | None = None
"""Collects the files that are opened, if a step is watched."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook. It is called often, so it must be fast.

    An exception here would fail the step's own `open`.
    """
    if event == "open":
        if _watched is not None:
            try:
                _watched.take(arguments[0], arguments[2])
            except (OSError, TypeError, ValueError):
                return
    elif event == "sqlite3.connect" and _watched is not None:
        with suppress(OSError, TypeError, ValueError):
            name = os.fsdecode(arguments[0])
            is_uri = name.startswith("file:")
            path = name.removeprefix("file:").partition("?")[0] if is_uri else name
            _watched.take(path, os.O_RDWR)


@lru_cache(maxsize=1)
def _install() -> None:
    sys.addaudithook(_audit)


@contextmanager
def _watch(scope: Scope) -> Iterator[Opened]:
    """Collect the files that are opened in the block."""
    global _watched
    _install()
    before, _watched = _watched, Opened(scope)
    try:
        yield _watched
    finally:
        _watched = before


@contextmanager
def noted(task: Task, plugins: Plugins, send: Callable[[Noted], None]) -> Iterator[None]:
    """Watch a step that runs in the block, and send a note for each undeclared file that it reads.

    A step with a pin isn't watched, since it reads what the pin stands for.
    """
    if not _is_watched(task) or task.pinned is not None:
        yield
        return
    scope = _scope(task.project, task.store, plugins)
    modules = set(sys.modules)
    with _watch(scope) as opened:
        try:
            yield
        except Exception:
            _report(task, plugins, scope, opened, modules, send)
            raise
    _report(task, plugins, scope, opened, modules, send)


def _is_watched(task: Task) -> bool:
    """Whether the project folder identifies the project's own files."""
    return task.project not in ("", "/")


def _report(
    task: Task,
    plugins: Plugins,
    scope: Scope,
    opened: Opened,
    modules: Collection[str],
    send: Callable[[Noted], None],
) -> None:
    providers = [plugins.step_types[use][1].path for use in _uses(task)]
    paths = dict(opened.paths)
    for path in providers:
        paths |= _at_import.get(str(path), {})
    for note in _notes(
        "reads {}, which isn't declared: the step doesn't rerun when that file changes",
        "declare it in the step type as a setting of type Files, or take the step that makes it "
        "as an input",
        _undeclared(paths, task, scope) if paths else [],
    ):
        send(note)
    for note in _notes(
        "imports {}, which isn't in its key: the step doesn't rerun when that code changes",
        "import it with an import statement, which finery can follow",
        _unkeyed(task, plugins, scope, modules),
    ):
        send(note)


def _notes(text: str, fix: str, paths: list[str]) -> Iterator[Noted]:
    """A note for each path; the last note counts the rest."""
    # Relative without resolving links, since `build/t/a/…` says more than a blob.
    relative = {path: os.path.relpath(path) for path in paths[:MOST]}
    names = [path if short.startswith("..") else short for path, short in relative.items()]
    if len(paths) > MOST:
        names.append(f"{len(paths) - MOST} more files like these")
    for name in names:
        yield Noted(event="note", name=NAME, text=text.format(name), fix=fix)


def _uses(task: Task) -> list[str]:
    return [task.use, *(use for use, _ in task.nested.values())]


# -- files ----------------------------------------------------------------------------------------


_at_import: dict[str, dict[str, None]] = {}
"""Plugin file → the files that were opened while it was imported."""


def load_files(task: Task) -> None:
    """Import the plugin files of a task, and record the files that they read.

    `load_plugins` reports broken ones.
    """
    for path in task.plugins if _is_watched(task) else ():
        if path not in _at_import:
            with _watch(_scope(task.project, task.store)) as opened, suppress(FineryError):
                load_file(Path(path))
            _at_import[path] = opened.paths


@lru_cache(maxsize=8)
def _scope(project: str, store: str, plugins: Plugins | None = None) -> Scope:
    """The reads that count: not those from the store, this Python or installed plugins."""
    folders = {_slash(project), _slash(os.path.realpath(project))}
    packages = [p.module.__file__ or "" for p in plugins.plugins if not p.path] if plugins else []
    finery = os.path.dirname(os.path.dirname(__file__))
    installed = [os.path.dirname(each.folder) for each in distributions().values()]
    own = {
        store,
        finery,
        sys.prefix,
        sys.base_prefix,
        os.path.dirname(os.__file__),
        site.getusersitepackages(),
        *site.getsitepackages(),
        *installed,
        *map(os.path.dirname, packages),
    }
    known = {_slash(p) for path in own for p in (path, os.path.realpath(path))} - folders
    return Scope(tuple(folders), tuple(known))


def _slash(folder: str) -> str:
    return folder.rstrip("/") + "/"


def _undeclared(paths: Iterable[str], task: Task, scope: Scope) -> list[str]:
    """Those of the paths that are files which the user must declare."""
    declared = {path for files in task.files.values() for _, path in files}
    inputs = (manifest for named in task.inputs.values() for _, manifest in named)
    artifacts = (each for manifest in inputs for each in with_references(manifest))
    declared |= {path for artifact in artifacts for path, *_ in artifact.external.values()}
    declared = {*map(os.path.normpath, declared), *task.plugins, *task.code}
    rest = [path for path in paths if path not in declared and not _is_aside(path, scope)]
    if not rest:
        return []
    same = {identity for path in declared if (identity := _identity(path))}  # under another name
    modules = {file for name in [*sys.modules] if (file := _file_of(name))}
    return [
        path for path in rest if (i := _identity(path)) and i not in same and path not in modules
    ]


def _is_aside(path: str, scope: Scope) -> bool:
    """Whether a file is hidden (a cache, configuration) or one of Python's own files."""
    folder = next(f for f in scope.folders if path.startswith(f))
    return (
        path.startswith(scope.known)
        or "/." in path[len(folder) - 1 :]
        or path.endswith(".pyc")
        or ".dist-info/" in path
        or ".egg-info/" in path
    )


def _identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a file; None if it is missing."""
    return (stat.st_dev, stat.st_ino) if os.path.isfile(path) and (stat := os.stat(path)) else None


# -- code -----------------------------------------------------------------------------------------


_imported: dict[str, set[str]] = {}
"""Step type → files of modules that were imported while such a step ran, without installed ones.

They are already imported for the next step of that type."""


def _unkeyed(task: Task, plugins: Plugins, scope: Scope, before: Collection[str]) -> list[str]:
    """Files of modules that the step uses, but that are neither in its key nor installed.

    Of a step type from a plugin file, those in folders of `sys.path`; of others, those in the
    recipe's folder.
    """
    is_file = any(plugins.step_types[use][1].path for use in _uses(task))
    folders = [task.recipe, *(map(os.path.abspath, sys.path) if is_file else ())]
    code, imported = (
        Scope((*map(_slash, folders),), scope.known),
        _imported.setdefault(task.use, set()),
    )
    if len(sys.modules) != len(before):
        imported |= _within(code, sys.modules.keys() - before)
    types = [plugins.step_type(use) for use in _uses(task)]
    used = imported.union(*(_reached(cls, code) for cls in types))
    specs = (value for cls in types for value in msgspec.structs.astuple(cls.__spec__))
    interfaces = (v.partition(":")[0] for v in specs if isinstance(v, str) and ":" in v)
    return sorted(used.difference(task.code, task.plugins, _within(code, interfaces)))


@lru_cache(maxsize=256)
def _reached(cls: type, code: Scope) -> frozenset[str]:
    """Files in a scope of the modules that a class's module uses through its globals."""
    reached: set[str] = set()
    rest = [cls.__module__]
    while rest:
        name = rest.pop()
        if not (found := _within(code, [name]) - reached):
            continue
        reached |= found
        for value in vars(sys.modules[name]).values():
            if isinstance(value, ModuleType):
                rest.append(value.__name__)
            elif isinstance(value, (type, FunctionType)):
                rest.append(str(value.__module__))
    return frozenset(reached)


def _within(code: Scope, names: Iterable[str]) -> set[str]:
    """Files of those modules that are in a scope."""
    files = {file for name in names if (file := _file_of(name))}
    return {f for f in files if f.startswith(code.folders) and not f.startswith(code.known)}


def _file_of(name: str) -> str | None:
    """The file of an imported module; None for other objects in `sys.modules`."""
    module = sys.modules.get(name)
    file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
    return file if isinstance(file, str) else None
