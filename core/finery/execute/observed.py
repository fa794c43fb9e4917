"""What a running step reads besides its inputs: it becomes part of the step's result.

An audit hook (PEP 578) sees every file that Python code opens and every folder that it lists. A
process installs it once, since it can't be removed, and it does nothing unless a step is watched.
Each thing that is read in the **scope** (the project, and the folders of plugin files and of other
loose code) becomes an entry with a name and a value, computed before Python goes on:

- a file: its digest; a folder: a digest of the names in it; what is missing: `absent`;
- a file that the step made and then read: its digest at the step's end, unless it is gone by then;
- `module FOLDER/NAME`: which files a computed import could find there;
- `import NAME`: a module that was looked for in vain; `package NAME`: the version of a distribution
  that was imported without being in the key;
- `places of code`, with each path: the recipe's folder and the files of its code, since another
  recipe may be a copy of this one. A worker runs steps in the recipe's folder.

A process keeps its entries, since what one step read may be in a cache of a module. That is why a
worker that isn't `is_clean` serves no other step. Entries also go to a file beside the scratch
folder: processes that the step forked write there, too, and the next attempt at the step compares
them, since it continues what was made from them.

Native code and programs that the step starts aren't seen, nor are files that are only examined.
"""

import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from opcode import opmap
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from finery.artifact.manifest import with_references
from finery.execute.entries import (
    ABSENT,
    KINDS,
    LAYOUT,
    MOST,
    Places,
    Scope,
    candidates,
    package_folders,
    places_of,
    scope_of,
)
from finery.execute.executor import Task
from finery.inference.records import Records
from finery.plugin import discovery
from finery.plugin.discovery import GROUP, Plugin
from finery.plugin.manager import Plugins
from finery.util.files import ABSENT as MISSING
from finery.util.files import FileState, file_state, hash_file, settled
from finery.util.installed import (
    STANDARD_LIBRARY,
    entry_points,
    is_installed,
    normalised,
    owners,
    package_version,
)
from finery.util.leftovers import reads_path

LEFT = "left"
"""The value, until the step ends, of a file that it made itself."""
_EMPTIES, _ACCESS, _WRITE = os.O_TRUNC | os.O_EXCL, os.O_ACCMODE, os.O_WRONLY
"""Flags of `open`: those that create an empty file, the mask of the mode, and writing."""
_ASIDE = (
    "/site-packages/", "/dist-packages/", "/__pycache__/", "/.git/", "/.finery/", "/wandb/",
    "/mlruns/", "/lightning_logs/", "/unsloth_compiled_cache/",
)  # fmt: skip
"""Parts of paths in which nothing is watched: what Python, git and libraries write."""
_IMPORTERS = ("<frozen importlib", discovery.__file__, f"{STANDARD_LIBRARY}/pathlib")
"""Beginnings of the file names of code that imports modules."""
_LISTERS = ("importlib._bootstrap_external", "importlib.metadata", "finery.util.installed")
"""Modules that list folders to find modules and distributions."""


class Seen(NamedTuple):
    """The value of an entry, with the state of its file then. is_settled: a change would show."""

    value: str
    state: FileState = MISSING
    is_settled: bool = True
    is_at_import: bool = False


class Observer:
    """The entries of this process, see the module's docstring.

    reason: why what it makes can't be reused; empty if it can.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self.places = Places("/", "")
        self.reason = ""
        self.is_at_import = self.is_own = False
        self.scope = Scope((), ())
        self.keyed: frozenset[str] = frozenset()
        self.log = ""
        self.start = 0  # of this attempt in the log
        self.tried: set[str] = set()  # top-level modules that were looked for
        self._paths: set[str] = set()  # that were opened
        self._own: dict[str, int] = {}  # files that the step made, and when
        self._made: set[str] = set()  # such files that didn't exist before
        self._own_folders: tuple[str, ...] = ()  # that it made
        self._written: set[str] = set()  # files that it opened to write
        self._appended: dict[str, Seen] = {}  # as they were before it wrote to them
        self.rewritten: list[str] = []  # names of entries that it changed
        self._real: dict[str, str] = {}
        self._declared: set[str] = set()
        self._modules = frozenset(sys.modules)  # before the first loose one
        self._has_loose = False
        self._busy: set[int] = set()  # threads that compute a value

    # -- events ----------------------------------------------------------------------------------

    def opened(self, path: Any, mode: Any, flags: int) -> None:
        """A file is about to be opened. The arguments are those of the audit event."""
        if isinstance(path, int):
            return
        given, path = os.fsdecode(path), self.plain(path)
        if path.startswith(self.scope.excluded) or threading.get_ident() in self._busy:
            return
        if path in self._declared:
            return
        frame, is_inside = sys._getframe(2), self._is_inside(path)
        is_code = path.endswith((".py", ".pyc", ".so")) and (is_inside or not self.is_own)
        is_import = is_code and _is_import(frame)
        if not (is_inside or is_import):
            return
        if flags & _ACCESS and not is_import:
            self._written.add(path)
        if path in self._paths:
            return
        if is_import:
            if not flags & _ACCESS:
                self._imported(path)
            return
        is_there = os.path.lexists(path)
        if flags & os.O_CREAT and not is_there:
            self._made.add(path)
        if flags & _EMPTIES and not (flags & os.O_EXCL and is_there):
            self._own[path] = time.time_ns()  # from now on, its content is the step's own
        elif flags & _ACCESS == _WRITE:
            if is_there and not self._is_own_file(path):
                self._appended[path] = self._examine(self.places.name(path), path)
            elif not is_there:
                self._own[path] = time.time_ns()
        elif not self._is_own_file(path):
            if mode is None and given[:1] != "/" and not is_there:
                if frame.f_globals.get("__name__") in ("shutil", "os"):  # a folder by descriptor
                    return
                if not flags & os.O_CREAT:
                    self._give_up(f"opens {given}, perhaps in a folder that finery can't see")
            self._see_path(path)
        elif path in self._made:  # it may have asked whether the file exists
            self._see_path(path, LEFT)

    def listed(self, path: Any = None) -> None:
        """A folder is about to be listed."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        path = self.plain("." if path is None else path)
        is_ours = f"{path}/".startswith(self.scope.excluded)
        if is_ours or threading.get_ident() in self._busy or not self._is_inside(path):
            return
        if path in self._paths or self._is_own_file(path):
            return
        if sys._getframe(2).f_globals.get("__name__") not in _LISTERS:
            self._see_path(path)

    def connected(self, database: Any) -> None:
        """SQLite is about to open a database."""
        name = os.fsdecode(database)
        if name.startswith("file:"):
            from urllib.parse import unquote

            name, _, options = name[5:].partition("?")
            name = "" if "mode=memory" in options else unquote(name.removeprefix("//"))
        is_handled = self.is_own and self.plain(name) in self._declared
        if name not in ("", ":memory:") and not is_handled:
            for end in ("", "-wal", "-journal"):
                self.opened(f"{name}{end}", "r+", os.O_RDWR)

    def renamed(self, source: Any, target: Any, *_: Any) -> None:
        """A file is about to be moved."""
        if self.plain(source) in self._own:
            path = self.plain(target)
            self._own[path] = time.time_ns()
            self._written.add(path)
            self._made.update(() if os.path.lexists(path) else (path,))

    def linked(self, source: Any, target: Any, *_: Any) -> None:
        """A file is about to get another name: what is read there counts as read here."""
        path = self.plain(source)
        self.opened(path, "r", os.O_RDONLY)
        if self._is_inside(path) and os.path.isdir(path):
            self._give_up(f"makes a link to {self.places.name(path)}, in which finery can't see it")

    def symlinked(self, source: Any, target: Any, *_: Any) -> None:
        """A symbolic link is about to be made."""
        folder = os.path.dirname(self.plain(target))
        path = os.path.normpath(os.path.join(folder, os.fsdecode(source)))
        if not path.startswith(self.scope.excluded):  # finery makes many links in the store
            self.linked(path, target)

    def started(self, executable: Any, arguments: Any, folder: Any, _: Any) -> None:
        """A program is about to be started: the files that its command names count."""
        words = [arguments] if isinstance(arguments, (str, bytes, os.PathLike)) else arguments
        text = " ".join(map(os.fsdecode, [executable or "", *words]))
        for word in text.split():
            path = os.path.join(os.fsdecode(folder or os.getcwd()), word)
            if os.path.isfile(path):
                self.opened(path, "r", os.O_RDONLY)

    def loaded(self, path: Any) -> None:
        """A library is about to be loaded."""
        if isinstance(path, str) and "/" in path:
            self.opened(path, "r", os.O_RDONLY)

    def made(self, folder: Any, *_: Any) -> None:
        """A folder is about to be made."""
        path = self.plain(folder)
        if self._is_inside(path) and not os.path.lexists(path):
            self._own_folders += (f"{path}/",)

    def native(self, name: str, path: Any, *_: Any) -> None:
        """A module is about to be imported. path: of a compiled one."""
        if isinstance(path, str) and (self._is_inside(path) or not self.is_own):
            self._imported(path)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """A finder of `sys.meta_path` that finds nothing, but sees what is looked for."""
        if _observer is None:
            return
        frame: FrameType | None = sys._getframe(1)
        while frame and str(frame.f_globals.get("__name__")).startswith("importlib"):
            frame = frame.f_back
        file = frame.f_code.co_filename if frame else ""
        is_library = file.startswith(STANDARD_LIBRARY) and not is_installed(file)
        is_own = file.startswith(("<", *package_folders(is_own=True)))
        if path is None and not is_library and not is_own:
            self.tried.add(name)
        if frame is None or not self._is_loose(file):
            return
        is_statement = frame.f_code.co_code[frame.f_lasti] == opmap["IMPORT_NAME"]
        if is_statement and self.plain(file) in self.keyed:
            return  # the key follows it
        for folder in map(os.path.abspath, list(sys.path if path is None else path)):
            module = f"{folder}/{name.rpartition('.')[2]}"
            files = candidates(module)
            if self._is_loose(f"{folder}/"):
                self.see(f"module {self.places.name(module)}", "", files or ABSENT)
            if files:
                return

    # -- entries ---------------------------------------------------------------------------------

    def _see_path(self, path: str, value: str = "") -> None:
        self._paths.add(path)
        self.see(LAYOUT, "")
        self.see(self.places.name(path), path, value)

    def see(self, name: str, path: str, value: str = "") -> None:
        """Keep the entry for something that is about to be read."""
        if name in self.seen:
            return
        if len(self.seen) >= MOST:
            self._give_up(f"reads more than {MOST:,} files and folders of the project")
            return
        seen = self._appended.get(path) or self._examine(name, path, value)
        if seen.value == "not a file":
            self._give_up(f"reads {name}, which is neither a file nor a folder")
        self.seen[name] = seen
        if self.log:
            self._write({name: seen})

    def _examine(self, name: str, path: str, value: str = "") -> Seen:
        self._busy.add(threading.get_ident())
        try:
            state, now = file_state(path) if path else MISSING, time.time_ns()
            value = value or self.places.value(name, hash_file)
            is_settled = not path or settled(state[3], state[4], now)
            return Seen(value, state, is_settled, self.is_at_import)
        finally:
            self._busy.discard(threading.get_ident())

    def _write(self, entries: Mapping[str, Seen]) -> None:
        """Add entries to the log, each in one write: other processes do the same."""
        file = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            for name, seen in entries.items():
                os.write(file, f"{json.dumps([name, *seen])}\n".encode())
        finally:
            os.close(file)

    def begin(self, task: Task) -> None:
        """Begin to log for a step. Empties its scratch folder if it was made from other files."""
        self._declared = set(map(self.plain, _declared(task)))
        self.log = str(reads_path(Path(task.scratch)))
        earlier = dict(_entries(self.log, 0)) if os.path.exists(self.log) else {}
        if earlier and not os.path.isdir(task.scratch):
            os.unlink(self.log)
        elif any(
            self.places.value(name, hash_file) != seen.value
            for name, seen in earlier.items()
            if seen.value != LEFT
        ):
            print("what an earlier attempt read has changed: this one starts anew", flush=True)
            shutil.rmtree(task.scratch)
            os.unlink(self.log)
        else:
            for name in earlier:
                self.see(name, "" if name.partition(" ")[0] in KINDS else self.places.path(name))
        self.start = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        if self.seen:
            self._write(dict(self.seen))
        self.rewritten.clear()

    def end(self, task: Task) -> list[tuple[str, str]]:
        """The entries of a step that succeeded, sorted. Sets `reason` if one changed meanwhile."""
        log, self.log = self.log, ""
        for name, seen in _entries(log, self.start):  # of processes that the step forked, too
            values = {self.seen.setdefault(name, seen).value, seen.value}
            if len(values - {LEFT}) > 1:
                self._give_up(f"reads {name}, which changes meanwhile")
        entries: dict[str, str] = {}
        for name, seen in dict(self.seen).items():
            path = self.places.path(name)
            entries[name] = seen.value
            if seen.value == LEFT:  # the content that it leaves, if it leaves the file
                entries[name] = self.places.value(name, hash_file)
                if entries[name] == ABSENT:
                    del entries[name]
                continue
            if not self.places.is_checked(name):
                self._give_up(f"reads {name}, which is outside the project")
            elif not self._is_same(name, seen):
                if not any(p == path or os.path.dirname(p) == path for p in self._written):
                    self._give_up(f"reads {name}, which changes before the step ends")
                self.rewritten.append(name)
        if [*entries] == [LAYOUT]:  # of files that it made and removed
            entries.clear()
        if not self.is_own and task.environment is None:
            entries |= {f"package {name}": version for name, version in self._versions(task)}
            for name in self.tried - sys.modules.keys():
                entry = f"import {name}"
                if name.isidentifier() and self.places.value(entry, hash_file) == ABSENT:
                    entries[entry] = ABSENT
        return sorted(entries.items())

    def _versions(self, task: Task) -> Iterator[tuple[str, str]]:
        """Distribution → version of those that this process imported and that aren't in the key."""
        names = {name.partition(".")[0] for name in sys.modules.keys() - self._modules}
        files = {name: getattr(sys.modules.get(name), "__file__", None) or "" for name in names}
        installed = [name for name in names if is_installed(files[name])]
        owning = owners() if installed else {}
        names = {owner for name in installed for owner in owning.get(name, ())}
        own = {entry.distribution.name for entry in entry_points(GROUP)}
        for name in names - own - set(map(normalised, task.expects.packages)):
            yield name, package_version(name)

    def _is_same(self, name: str, seen: Seen) -> bool:
        if name.partition(" ")[0] in KINDS:
            return True
        if seen.value != ABSENT and not seen.value.startswith("folder "):
            state = file_state(self.places.path(name))
            if state[:4] != seen.state[:4]:
                return False
            if state == seen.state and seen.is_settled:  # another name changes the ctime
                return True
        return self.places.value(name, hash_file) == seen.value

    def _give_up(self, reason: str) -> None:
        self.reason = self.reason or reason

    # -- paths -----------------------------------------------------------------------------------

    def plain(self, given: Any) -> str:
        """An absolute path without `..`."""
        path = given if type(given) is str else os.fsdecode(given)
        if path[:1] != "/":
            path = f"{os.getcwd()}/{path}"
        if "/." in path or "//" in path or path[-1:] == "/":
            plain = os.path.normpath(path)
            real = os.path.realpath(path) if "/.." in path else ""
            path = real if real and real != os.path.realpath(plain) else plain
        return os.path.realpath(path) if path.startswith("/proc/self/") else path

    def _is_inside(self, path: str) -> bool:
        """Whether a path, or the real one that a link leads to, is in the scope."""
        for folder in self.scope.folders:
            if f"{path}/".startswith(folder):
                below = f"{path[len(folder) - 1 :]}/"
                return not any(part in below for part in _ASIDE)
        if path.startswith(self.scope.excluded) or is_installed(path):
            return False
        folder = path if os.path.islink(path) else os.path.dirname(path)
        if folder not in self._real:
            self._real[folder] = f"{os.path.realpath(folder)}/"
        real = self._real[folder]
        return real.startswith(self.scope.folders) and not real.startswith(self.scope.excluded)

    def _is_loose(self, path: str) -> bool:
        """Whether code is neither installed nor a part of Python or finery."""
        is_elsewhere = path.startswith(self.scope.excluded) or is_installed(path)
        return path[:1] == "/" and not is_elsewhere

    def _is_own_file(self, path: str) -> bool:
        """Whether the step has made a file: opening it to write may have failed."""
        created = self._own.get(path)
        if f"{path}/".startswith(self._own_folders):
            return True
        return created is not None and file_state(path)[4] > created - 1_000_000_000

    def _imported(self, path: str) -> None:
        if path.endswith(".pyc") and "/__pycache__/" in path:
            path = importlib.util.source_from_cache(path)
        if not self._has_loose and self._is_loose(path):  # the rest so far is finery's
            self._has_loose, self._modules = True, frozenset(sys.modules)
        if path not in self.keyed and self._is_loose(path) and path not in self._paths:
            self.see(self.places.name(path), path)


_observer: Observer | None = None
"""Keeps what is read, while something is watched."""
_process = Observer()
"""What this process has read."""
_HANDLERS: dict[str, Callable[..., None]] = {
    "open": Observer.opened, "os.listdir": Observer.listed, "os.scandir": Observer.listed,
    "sqlite3.connect": Observer.connected, "os.rename": Observer.renamed, "os.mkdir": Observer.made,
    "import": Observer.native, "os.link": Observer.linked, "os.symlink": Observer.symlinked,
    "subprocess.Popen": Observer.started, "ctypes.dlopen": Observer.loaded,
}  # fmt: skip


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook. It is called often, so it must be fast.

    An exception here would fail the step's own `open`, which fails for the same reason anyway.
    """
    if _observer is not None and event in _HANDLERS:
        with suppress(OSError, TypeError, ValueError):
            _HANDLERS[event](_observer, *arguments)


@lru_cache(maxsize=1)
def _install() -> None:
    package_folders(is_own=True)  # asks all finders, so it can't be computed in one
    sys.addaudithook(_audit)
    sys.meta_path.insert(0, _process)


@contextmanager
def watching(task: Task, plugins: Plugins | None = None) -> Iterator[None]:
    """Keep what is read in the block: the run of a step, or the import of plugin files.

    plugins: None while they are imported. A step of finery's own with a pin isn't watched, since
    it reads what the pin stands for.
    """
    global _observer
    _install()
    before = _observer
    is_own = plugins is not None and _is_own(task, plugins)
    if task.project and not (is_own and task.pinned is not None):
        places = places_of(task.project, task.recipe, task.store, task.code)
        if places[:2] != _process.places[:2]:  # at first, and if it builds in another project
            vars(_process).update(vars(Observer()))
        _process.is_at_import, _process.places = plugins is None, places
        _process.keyed = frozenset(map(_process.plain, (*task.plugins, *task.code)))
        _process.scope = scope_of(task.project, task.recipe, task.store, tuple(task.code))
        if plugins is not None:
            _process.begin(task)
        _observer = _process
    _process.is_own = is_own
    try:
        yield
    finally:
        _observer = before


def reads_of(task: Task) -> tuple[list[tuple[str, str]], str, list[str]]:
    """(entries, reason, rewritten) of the step that has just run.

    reason: why its result can't be reused. rewritten: names of entries that it changed after it
    had read them.
    """
    entries = _process.end(task) if task.project else []
    return entries, _process.reason, _process.rewritten


def is_clean() -> bool:
    """Whether this process has read nothing, except when it imported its plugin files."""
    return not _process.reason and all(seen.is_at_import for seen in _process.seen.values())


class UncachedRecords:
    """Answers of engines that aren't finery's own: keys of records don't have what those read.

    So nothing is kept in the cache or taken from it in a process that has read something.
    """

    def __init__(self, records: Records) -> None:
        self._records = records

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The existing records, by key."""
        return {} if _process.seen else self._records.get(keys)

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Store records."""
        if not _process.seen:
            self._records.put(records)


def _entries(log: str, start: int) -> Iterator[tuple[str, Seen]]:
    """The entries in a log from a byte on."""
    try:
        with open(log, "rb") as file:
            file.seek(start)
            for line in file:
                name, value, state, *flags = json.loads(line)
                yield name, Seen(value, tuple(state), *flags)
    except FileNotFoundError:
        return
    except ValueError:  # a process was killed while it wrote a line
        yield "", Seen("damaged")


def _is_import(frame: FrameType | None) -> bool:
    """Whether a module's code is being read to execute it, and not as data."""
    names = set()
    while frame is not None and frame.f_code.co_filename.startswith(_IMPORTERS):
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return {"get_code", "exec_module"} <= names


def _declared(task: Task) -> set[str]:
    """The paths of the files that the recipe names and that inputs refer to."""
    inputs = (manifest for named in task.inputs.values() for _, manifest in named)
    artifacts = (each for manifest in inputs for each in with_references(manifest))
    paths = {path for files in task.files.values() for _, path in files}
    return paths | {path for artifact in artifacts for path, *_ in artifact.external.values()}


def _is_own(task: Task, plugins: Plugins) -> bool:
    """Whether all code in a step's key is finery's own."""
    uses = [task.use, *(use for use, _ in task.nested.values())]
    are_own = all(is_own_plugin(plugins.step_types[use][1]) for use in uses)
    return are_own and all(path.startswith(package_folders(is_own=True)) for path in task.code)


def is_own_plugin(plugin: Plugin) -> bool:
    """Whether a plugin is one of finery's own."""
    return not plugin.path and str(plugin.module.__file__).startswith(package_folders(is_own=True))
