"""What a running step reads besides its inputs: it becomes part of the step's result.

An audit hook (PEP 578) sees every file that Python code opens and every folder that it lists. A
process installs it once, since it can't be removed, and it does nothing unless a step is watched.
Each thing that is read in the scope (the project, and the folders of plugin files and of other
loose code) becomes an entry with a name and a value, computed before Python goes on:

- a file: its digest; a folder: a digest of the names in it; what is missing: `absent`;
- `module FOLDER/NAME`: which files a computed import could find there;
- `import NAME`: the distributions that install a top-level module, unless the key has them, or
  that none does;
- `places of code`, with each path: the recipe's folder and the files of its code, since another
  recipe may be a copy of this one. A worker runs steps in the recipe's folder.

`finery.execute.readlog` keeps them. A worker that isn't `is_clean` serves no other step.

Native code and programs that the step starts aren't seen, nor are files that are only examined.
"""

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from itertools import chain, takewhile
from opcode import opmap
from pathlib import Path
from types import FrameType
from typing import Any

from finery.artifact.manifest import with_references
from finery.execute.entries import (
    ABSENT,
    IMPORT_PREFIX,
    Places,
    Scope,
    candidates,
    entry_places,
    normalise_path,
    package_folders,
    scope_of,
)
from finery.execute.executor import Task
from finery.execute.readlog import ReadLog
from finery.plugin import discovery
from finery.plugin.discovery import GROUP
from finery.plugin.manager import Plugins
from finery.util.installed import (
    STANDARD_LIBRARY,
    code_origin,
    entry_points,
    is_finery_module,
    normalise_name,
    search_path,
)

_IMPORTERS = ("<frozen importlib", discovery.__file__, f"{STANDARD_LIBRARY}/pathlib")
"""Beginnings of the file names of code that imports modules."""
_SHELL_WORD = re.compile(r"""(>?)\s*((?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s'"\\<>|;&()])+)""")
"""A word of a shell's command, perhaps in quotes, and whether the command's output goes there."""
_FILE_WORD = re.compile(r"(?!-|\s)(?=\.{0,2}/|.+\.[A-Za-z]\w{0,11}$)[^:=@$*?{\n]{1,255}")
"""A word that looks like the path of a file: it begins like one, or has a suffix."""
_LISTING_MODULES = ("importlib._bootstrap_external", "importlib.metadata", "finery.util.installed")
"""Modules that list folders to find modules and distributions."""


class Observer:
    """Finds out what counts of all that this process does, and keeps it in `log`.

    is_own: whether only finery's own code runs. keyed: files of code in the step's key, which
    follows their imports in `search_path`. first_path: that before plugins changed it. declared:
    files that the recipe names and that inputs refer to.
    """

    def __init__(self, log: ReadLog, task: Task, scope: Scope, *, is_own: bool) -> None:
        self.log, self.scope, self.is_own = log, scope, is_own
        self.keyed = _plain_paths((*task.plugins, *task.code))
        folders = [*sys.path, *map(os.path.dirname, task.plugins)]
        self.search_path = frozenset(f"{os.path.abspath(folder)}/" for folder in folders)
        self.first_path = frozenset(f"{os.path.abspath(folder)}/" for folder in search_path())
        self.declared: frozenset[str] = frozenset()

    # -- files and folders: the arguments are those of the audit events ---------------------------

    def on_open(self, file: Any, mode: Any, flags: int) -> None:
        """A file is about to be opened."""
        if isinstance(file, int):
            return
        path = normalise_path(file)
        if path.startswith(self.scope.excluded):  # most files
            return
        frame = sys._getframe(2)
        if path.endswith((".py", ".pyc", ".so")) and _is_import(frame):
            self.on_import("", path)
        elif self.counts(path):
            writes = flags & os.O_ACCMODE
            if writes != os.O_WRONLY and not flags & (os.O_TRUNC | os.O_EXCL):
                name = os.fsdecode(file)
                if mode is None and name[:1] != "/" and not os.path.lexists(path):
                    if frame.f_globals.get("__name__") in ("shutil", "os"):  # by a descriptor
                        return
                    if not flags & os.O_CREAT:
                        self.log.give_up(f"opens {name}, perhaps in a folder that finery can't see")
                self.log.read(path)
            if writes:
                self.log.write(path, is_emptied=bool(flags & os.O_TRUNC))

    def counts(self, path: str) -> bool:
        """Whether it matters that a path is read or written."""
        return path not in self.declared and self.scope.covers(path)

    def read(self, file: Any) -> None:
        """Something is about to be read."""
        if self.counts(path := normalise_path(file)):
            self.log.read(path)

    def write(self, file: Any, *, is_emptied: bool = False) -> None:
        """Something is about to be made, emptied, replaced or changed."""
        if self.counts(path := normalise_path(file)):
            self.log.write(path, is_emptied=is_emptied)

    def on_list(self, folder: Any = None) -> None:
        """A folder is about to be listed."""
        if sys._getframe(2).f_globals.get("__name__") not in _LISTING_MODULES:
            self.read(f"/proc/self/fd/{folder}" if isinstance(folder, int) else folder or ".")

    def on_connect(self, database: Any) -> None:
        """SQLite is about to open a database."""
        name = os.fsdecode(database)
        if name.startswith("file:"):
            from urllib.parse import unquote, urlsplit

            name = unquote(urlsplit(name).path, errors="surrogateescape")
        is_handled = self.is_own and normalise_path(name) in self.declared
        if name not in ("", ":memory:") and not is_handled:
            for end in ("", "-wal", "-journal"):
                self.on_open(f"{name}{end}", "r+", os.O_RDWR)

    def on_link(self, source: Any, target: Any, *_: Any) -> None:
        """A file is about to get another name: what is read there is read here."""
        self.read(source)
        path = normalise_path(source)
        if self.counts(path) and os.path.isdir(path) and self.log.original_of(path) is None:
            name = self.log.places.name(path)
            self.log.give_up(f"moves or makes a link to {name}, in which finery can't see it")
        self.write(target, is_emptied=True)

    def on_rename(self, source: Any, target: Any, *_: Any) -> None:
        """A file or folder is about to be moved."""
        self.on_link(source, target)
        self.write(source)

    def on_symlink(self, source: Any, target: Any, *_: Any) -> None:
        """A symbolic link is about to be made."""
        folder = os.path.dirname(normalise_path(target))
        self.on_link(os.path.join(folder, os.fsdecode(source)), target)

    def on_remove(self, path: Any, folder: Any = -1, *_: Any) -> None:
        """A file or folder is about to be removed, which fails if it is missing."""
        if folder != -1:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fsdecode(path))
        self.read(path)
        self.write(path)

    def on_enter(self, folder: Any, *_: Any) -> None:
        """A folder is about to be entered or emptied: only that it is missing matters."""
        if not os.path.isdir(folder):
            self.read(folder)

    def on_glob(self, folder: Any, pattern: Any) -> None:
        """Files are about to be looked for, which isn't seen where a folder is missing."""
        parts = takewhile(lambda part: not re.search(r"[*?[]", part), Path(pattern).parts)
        self.on_enter(os.path.join(folder, *parts))

    def on_mkdir(self, folder: Any, *_: Any) -> None:
        """A folder is about to be made."""
        if not os.path.lexists(folder):
            self.write(folder)

    def on_start(self, executable: Any, arguments: Any = (), folder: Any = None, *_: Any) -> None:
        """A program is about to be started: what its command names counts.

        That are its arguments, the words of a shell in them, except files that output goes to, and
        the parts of words between `=`, `:` and `@`.
        """
        for item in map(os.fsdecode, [executable or "", *arguments]):
            quoted = [word for output, word in _SHELL_WORD.findall(item) if not output]
            words = [item, *(re.sub(r"""\\(.)|['"]""", r"\1", word) for word in quoted)]
            for word in {part for each in words for part in [each, *re.split("[=:@]", each)]}:
                path = os.path.join(os.fsdecode(folder or ""), word)
                is_path = word and (os.path.isdir(path) or _FILE_WORD.fullmatch(word))
                if (is_path and not self.is_own) or os.path.isfile(path):
                    self.read(path)

    # -- modules ----------------------------------------------------------------------------------

    def on_import(self, name: str, path: Any, *_: Any) -> None:
        """A file of code is about to be executed. path: None if it isn't found yet."""
        if not isinstance(path, str) or not self.scope.is_loose(path):
            return
        if path.endswith(".pyc") and "/__pycache__/" in path:
            path = importlib.util.source_from_cache(path)
        if path not in self.keyed and (not self.is_own or self.scope.covers(path)):
            self.log.record(self.log.places.name(path))

    def on_find(self, name: str, within: Any) -> None:
        """A module is looked for. within: folders of its package; None if it is a top-level one."""
        frame: FrameType | None = sys._getframe(2)
        while frame and _is_standard(frame.f_code.co_filename):
            frame = frame.f_back
        file = frame.f_code.co_filename if frame else ""
        if self.is_own and not self.scope.is_loose(file):
            return
        is_import = frame and frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_NAME"]
        is_followed = bool(is_import) and normalise_path(file) in self.keyed
        is_finery = file.startswith(package_folders(is_own=True))
        is_in_key = is_followed or name in sys.stdlib_module_names or is_finery_module(name)
        entry = f"{IMPORT_PREFIX}{name}"
        is_counted = not is_in_key and self.log.places.is_checked(entry)
        if is_counted and (not is_finery or self.log.places.value(entry) != ABSENT):
            self.log.record(entry)
        if is_finery or name in sys.builtin_module_names:
            return
        folders = [*map(os.path.abspath, list(sys.path if within is None else within))]
        places, covered = [], {*(self.search_path if is_followed else ())}
        for folder in folders if any(map(self.scope.is_loose, folders)) else ():
            places.append(f"{folder}/{name.rpartition('.')[2]}")
            if candidates(places[-1]):  # what comes before an installed one is in each key
                covered.update(self.first_path if code_origin(places[-1]) else ())
                break
        else:  # many libraries look for others that nobody has
            is_library = within is None and code_origin(file) == "installed"
            covered.update(self.scope.folders if is_library else ())
        for place in filter(self.scope.is_loose, places):
            if place.removesuffix(name.replace(".", "/")) not in covered:
                self.log.record(f"module {self.log.places.name(place)}")


class Finder:
    """Finds no module, but sees which ones are looked for."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Called for each import, with the folders of the package that the module is in."""
        if _observer is not None:
            _observer.on_find(name, path)


_observer: Observer | None = None
"""Keeps what is read, while something is watched."""
_log = ReadLog(Places("/", ""))
"""What this process has read."""
_HANDLERS: dict[str, Callable[..., Any]] = {
    "open": Observer.on_open, "os.listdir": Observer.on_list, "os.scandir": Observer.on_list,
    "pathlib.Path.glob": Observer.on_glob, "pathlib.Path.rglob": Observer.on_glob,
    "sqlite3.connect": Observer.on_connect,
    "ctypes.dlopen": lambda observer, library: "/" in library and observer.read(library),
    "os.chdir": Observer.on_enter, "shutil.rmtree": Observer.on_enter,
    "os.remove": Observer.on_remove, "os.rmdir": Observer.on_remove,
    "os.truncate": lambda observer, path, *_: observer.on_remove(path),
    "os.rename": Observer.on_rename, "os.link": Observer.on_link, "os.symlink": Observer.on_symlink,
    "import": Observer.on_import, "os.mkdir": Observer.on_mkdir,
    "subprocess.Popen": Observer.on_start, "os.system": Observer.on_start,
    "os.exec": lambda observer, *arguments: observer.on_start(*arguments[:2]),
    "os.posix_spawn": lambda observer, *arguments: observer.on_start(*arguments[:2]),
    "cpython.PyInterpreterState_New": lambda observer: observer.log.give_up(
        "makes an interpreter, in which finery can't see what it reads"
    ),
}  # fmt: skip


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook. It is called often, so it must be fast.

    An exception here would fail the step's own `open`, which fails for the same reason anyway.
    """
    observer = _observer
    if observer and event in _HANDLERS and threading.get_ident() not in observer.log.busy:
        with suppress(OSError, TypeError, ValueError):
            _HANDLERS[event](observer, *arguments)


@lru_cache(maxsize=1)
def _install() -> None:
    package_folders(is_own=True)  # asks all finders, so it can't be computed in one
    sys.addaudithook(_audit)
    sys.meta_path.insert(0, Finder)


@lru_cache(maxsize=64)
def _plain_paths(paths: tuple[str, ...]) -> frozenset[str]:
    return frozenset(map(normalise_path, paths))


@contextmanager
def observe(task: Task, plugins: Plugins | None = None) -> Iterator[None]:
    """Keep what is read in the block: the run of a step, or the import of plugin files.

    plugins: None while they are imported. A step of finery's own with a pin isn't watched, since
    it reads what the pin stands for.
    """
    global _observer, _log
    _install()
    previous = _observer
    is_own = plugins is not None and _has_only_own_code(task, plugins)
    if task.project and not (is_own and task.pinned is not None):
        paths = task.project, task.recipe, task.store, tuple(task.code)
        places = entry_places(*paths)
        if places[:2] != _log.places[:2]:  # at first, and if it builds in another project
            _log = ReadLog(places)
        _log.places = places
        observer = Observer(_log, task, scope_of(*paths), is_own=is_own)
        if plugins is not None:
            observer.declared = frozenset(map(normalise_path, _declared_paths(task)))
            _log.begin(Path(task.scratch))
        _observer = observer
    try:
        yield
    finally:
        _observer = previous


def collect_reads(task: Task) -> tuple[list[tuple[str, str]], str, list[str]]:
    """(entries, reason, rewritten) of the step that has just run, the entries sorted.

    reason: why its result can't be reused. rewritten: names of entries that it changed after it
    had read them.
    """
    if not task.project:
        return [], "", []
    versions = {normalise_name(name): version for name, version in task.expects.packages.items()}
    plugins = (e.distribution for e in entry_points(GROUP) if e.name in task.entry_points)
    versions |= {each.name: each.version for each in plugins}  # whose files are in the key
    entries, rewritten = _log.end(partial(_is_in_key, task, versions))
    return sorted(entries.items()), _log.reason, rewritten


def process_log() -> ReadLog:
    """What this process has read."""
    return _log


def is_clean() -> bool:
    """Whether this process has read nothing, so that it may serve another step."""
    return not (_log.reason or _log.entries)


def has_read() -> bool:
    """Whether this process has read anything of the project."""
    return any(not name.startswith(IMPORT_PREFIX) for name in _log.entries)


def _is_import(frame: FrameType | None) -> bool:
    """Whether a module's code is being read to execute it, and not as data."""
    while frame is not None and frame.f_code.co_filename.startswith(_IMPORTERS):
        if frame.f_code.co_name == "exec_module":
            return True
        frame = frame.f_back
    return False


@lru_cache(maxsize=4096)
def _is_standard(file: str) -> bool:
    """Whether code acts for its caller: that of Python, such as `pkgutil`, or a string."""
    return file.startswith("<") or code_origin(file) == "standard"


def _is_in_key(task: Task, versions: Mapping[str, str], name: str, value: str) -> bool:
    """Whether the key of a step has what an entry for a module says. versions: those in it."""
    is_import, module = name.startswith(IMPORT_PREFIX), normalise_name(name[len(IMPORT_PREFIX) :])
    if value == ABSENT:
        is_same = versions.get(module) == "not installed"
    else:
        is_same = all(installer.partition(" ")[0] in versions for installer in value.split(", "))
    # All packages of an environment count.
    return is_import and (is_same or task.environment is not None)


def _declared_paths(task: Task) -> Iterator[str]:
    """The paths of the files that the recipe names and that inputs refer to."""
    for files in task.files.values():
        yield from (path for _, path in files)
    manifests = (manifest for pairs in task.inputs.values() for _, manifest in pairs)
    for artifact in chain.from_iterable(map(with_references, manifests)):
        yield from (path for path, *_ in artifact.external.values())


def _has_only_own_code(task: Task, plugins: Plugins) -> bool:
    """Whether all code in a step's key is finery's own."""
    uses = [task.use, *(use for use, _ in task.nested.values())]
    are_own = all(plugins.step_types[use][1].is_own for use in uses)
    return are_own and all(path.startswith(package_folders(is_own=True)) for path in task.code)
