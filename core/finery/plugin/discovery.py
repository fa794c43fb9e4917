"""Finds plugins: entry points of installed distributions, and files next to a recipe.

The Python files of a project run from their current source.
"""

import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from opcode import opmap
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, NoReturn

import pluggy
from blake3 import blake3

from finery import API, __version__
from finery.errors import FineryError, PluginError, raised_at
from finery.plugin import hookspecs as hooks
from finery.util.files import FileState, file_state
from finery.util.installed import EntryPoint
from finery.util.paths import plain_path, shown
from finery.util.references import OUTSIDE_KEY_MARK
from finery.util.text import did_you_mean


class _Source(SourceFileLoader):
    """Always compiles the current source and ignores `.pyc` files.

    Python trusts a `.pyc` by the size of the source and its time in whole seconds. After a quick
    edit, or one that keeps the time, it would run other code than the code in the key.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        state = file_state(path)  # before it is read
        source: Any = self.get_data(path)
        real, digest = os.path.realpath(path), blake3(source).hexdigest()
        is_same = COMPILED.get(real, Compiled(state, digest)).digest == digest
        COMPILED[real] = Compiled(state, digest if is_same else "")
        if classes := _LEFT_OUT.get(real):
            from finery.plugin.several import tree_without  # needs `ast`

            source = tree_without(source, path, classes)
        return self.source_to_code(source, path)


class Compiled(NamedTuple):
    """The state of a file of code before it was compiled, and the digest of what was compiled.

    digest: empty if several contents were.
    """

    state: FileState
    digest: str


COMPILED: dict[str, Compiled] = {}
"""Files of a project that this process has run."""


def load_source(path: Path, name: str) -> ModuleType:
    """Run a Python file as the module `name`. It can import neighbouring modules.

    The folder comes last in `sys.path`. The key of a step follows such imports for the files that
    `Step.cache_key` names. Raises what the file raises.
    """
    read_from_source(path.parent)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
        ADDED.add(str(path.parent))
    loader = _Source(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def leave_out(classes: Mapping[str, Collection[str]]) -> None:
    """From now on, load files of code without some classes. classes: path → their names.

    For a process that runs a step whose key doesn't cover them.
    """
    _LEFT_OUT.update((os.path.realpath(path), names) for path, names in classes.items())


_LEFT_OUT: dict[str, Collection[str]] = {}


def read_from_source(folder: Path) -> None:
    """Always compile modules in a folder, and in its subfolders, when they are imported."""
    root = str(plain_path(folder))
    if root in _FROM_SOURCE:
        return
    _FROM_SOURCE.add(root)
    if len(_FROM_SOURCE) == 1:
        sys.path_hooks.insert(0, _finder)
    sys.path_importer_cache.clear()


_FROM_SOURCE: set[str] = set()
ADDED: set[str] = set()
"""Folders that plugin files have added to `sys.path` of this process; those of other processes
differ."""


def _finder(path: str) -> FileFinder:
    """A finder for a folder of a project. Raises `ImportError` for other folders and for files.

    Files may be archives of modules, and `runpy.run_path` asks whether a script is one.
    """
    here = os.path.abspath(path or ".")
    if os.path.isfile(here):
        raise ImportError
    is_installed = here.startswith(sys.prefix + os.sep)  # an environment inside the project
    if is_installed or not any(here == r or here.startswith(r + os.sep) for r in _FROM_SOURCE):
        raise ImportError
    return FileFinder(
        path,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_Source, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


GROUP = "finery"
REPLACED_HOOKS = dict.fromkeys(
    (
        "finery_build_started", "finery_build_finished", "finery_step_started",
        "finery_step_finished", "finery_step_failed",
    ),
    "implement finery_build_event(event, graph), which gets all events of docs/reference/events.md",
)  # fmt: skip
"""Hooks of early versions → what to do."""
ACTING = ("finery_run_step", "finery_worker_environment")
"""Hooks that change what the steps of all recipes make: without them, finery builds nothing."""


class Plugin(NamedTuple):
    """A loaded plugin: its name, its module, and where it comes from."""

    name: str
    module: ModuleType
    origin: str  # "finery 0.1.0" or the file's path
    path: Path | None = None  # only for a file next to the recipe
    is_own: bool = False  # whether it is finery's
    apis: Sequence[str] = ()  # the versions of finery's API that it states

    @property
    def title(self) -> str:
        """It, in messages."""
        return f"plugin '{self.name}' ({self.origin})"


class BrokenPlugin(NamedTuple):
    """A plugin that can't be used, and why.

    is_vital: whether finery must not build without it: it is next to the recipe, or changes what
    the steps of all recipes make.
    """

    name: str
    origin: str
    error: FineryError
    is_vital: bool
    taken_names: frozenset[str] = frozenset()  # what it provides and another plugin does, too


def known_hooks() -> list[str]:
    """Names of all hooks."""
    return [n for n in vars(hooks) if n.startswith("finery_")]


# -- code that would end finery ------------------------------------------------------------------


class EndedError(Exception):
    """A plugin's code tried to end the process; the text says how."""


# What plugins started on import, and the end of this process would wait for: thread → plugin.
THREADS: dict[threading.Thread, str] = {}


@contextmanager
def surviving(plugin: str) -> Iterator[None]:
    """Turn what would end this process, or pass for Ctrl-C, into an `EndedError`.

    For code of plugins that finery calls and that has to return: imports, tables of what there is.
    What it prints goes to stderr, since finery may print JSON. plugin: its name for the user.
    """
    exit_at_once, pid, active = os._exit, os.getpid(), True
    before = threading.enumerate()
    stdout = os.dup(1) if sys.stdout and sys.stderr else None  # None: it is closed

    def refused(status: int) -> NoReturn:
        if not active or os.getpid() != pid:  # a child that the plugin forked
            exit_at_once(status)
        raise EndedError(f"it calls os._exit({status!r})")

    os._exit = refused
    if stdout is not None:  # also of child processes and C libraries
        os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (Exception, GeneratorExit):
        raise
    except SystemExit as error:
        raise EndedError(f"it calls sys.exit({error.code!r})") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not _is_raised(error):
            raise
        raise EndedError(f"it raises {type(error).__name__}: {error}") from error
    finally:
        active = False
        os._exit = exit_at_once
        if stdout is not None:
            os.dup2(stdout, 1)
            os.close(stdout)
        new = (each for each in threading.enumerate() if each not in before and not each.daemon)
        THREADS.update(dict.fromkeys(new, plugin))


def in_words(error: BaseException, text: object = None) -> str:
    """The message of a plugin's exception, with its class unless that is finery's own."""
    name = "" if isinstance(error, EndedError) else f"{type(error).__name__}: "
    return f"{name}{error if text is None else text}"


def _is_raised(error: BaseException) -> bool:
    """Whether code raised it with `raise`. A signal's exception occurs at any instruction."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == opmap["RAISE_VARARGS"]


# -- loading --------------------------------------------------------------------------------------


def load_entry_point(entry: EntryPoint) -> Plugin:
    """Import the module that an entry point names, if it is for this version of the API."""
    origin = origin_of(entry)
    if entry.apis and API not in entry.apis:
        raise PluginError(
            f"plugin '{entry.name}' of {origin} is for API {', '.join(entry.apis)} of finery, and "
            f"finery {__version__} has API {API}",
            where=f"entry point {GROUP}.{entry.name} = {entry.value}",
            fix=f"install a release of {entry.distribution.name} for API {API}, or another finery",
        )
    try:
        with surviving(f"plugin '{entry.name}' of {origin}"):
            module = importlib.import_module(entry.module)
    except Exception as error:
        raise PluginError(
            f"plugin '{entry.name}' of {origin} fails on import: {in_words(error)}",
            where=f"entry point {GROUP}.{entry.name} = {entry.value}",
            fix=f"repair or uninstall it: pip uninstall {entry.distribution.name}",
        ) from error
    return Plugin(entry.name, module, origin, is_own=entry.is_own, apis=entry.apis)


def origin_of(entry: EntryPoint) -> str:
    """The distribution of an entry point and its version."""
    return f"{entry.distribution.name} {entry.distribution.version}"


def load_file(path: Path) -> Plugin:
    """Load a plugin file next to a recipe, under a unique module name."""
    from finery.step.inspect import FILE_MODULE

    name = f"{FILE_MODULE}{path.stem}_{blake3(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        if path.suffix != ".py":
            raise PluginError(
                "a plugin file must be a Python file", where=shown(path), fix="use a .py file"
            )
        try:
            with surviving(f"plugin file {shown(path)}"):
                load_source(path, name)
        except FineryError:
            raise
        except Exception as error:
            cause = error.__cause__ or error if isinstance(error, EndedError) else error
            text = error.msg if isinstance(error, SyntaxError) else error
            raise PluginError(
                f"plugin file fails on import: {in_words(error, text)}",
                where=_raised_at(cause, path),
                fix="repair it",
            ) from error
    return Plugin(path.stem, sys.modules[name], shown(path), path)


def loaded_files() -> list[Path]:
    """The plugin files beside a recipe that this process has loaded.

    A process that a step starts passes them to `load_plugins`.
    """
    from finery.step.inspect import FILE_MODULE

    modules = [m for name, m in [*sys.modules.items()] if name.startswith(FILE_MODULE)]
    return [Path(m.__file__) for m in modules if m.__file__]


def _raised_at(error: BaseException, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{shown(Path(error.filename or path))}:{error.lineno}:{error.offset}"
    frame = raised_at(error, str(path))
    return f"{shown(path)}:{frame.lineno if frame and frame.filename == str(path) else 1}"


# -- registering ----------------------------------------------------------------------------------


def register(manager: pluggy.PluginManager, plugin: Plugin) -> None:
    """Register a plugin's hooks. If one is wrong, raises `PluginError` and registers none."""
    for name, function in _hook_functions(plugin.module):
        _check_hook(name, function, plugin)
    try:
        manager.register(plugin.module, name=plugin.name)
    except pluggy.PluginValidationError as error:
        raise PluginError(
            f"a hook of {plugin.title} is wrong: {str(error).splitlines()[-1]}", where=plugin.origin
        ) from error
    except ValueError as error:
        raise PluginError(
            f"two plugins have the name '{plugin.name}'",
            where=plugin.origin,
            fix="rename one of them",
        ) from error


def _hook_functions(module: ModuleType) -> Iterator[tuple[str, FunctionType]]:
    """(hook, function) of all functions that are marked as a hook or named like one."""
    for name, function in [*vars(module).items()]:
        if isinstance(function, FunctionType):
            marked = getattr(function, "finery_impl", None)
            if marked is not None or name.startswith("finery_"):
                yield (marked or {}).get("specname") or name, function


def _check_hook(name: str, function: FunctionType, plugin: Plugin) -> None:
    """Raise `PluginError` for a misspelled, unmarked or wrongly declared hook."""
    marked = getattr(function, "finery_impl", None)
    code, hook_names = function.__code__, known_hooks()
    of = "" if plugin.path else f" of {plugin.origin}"
    if marked is None:
        if name not in hook_names:
            return
        what = f"{name}{of} is not marked as a hook"
        fix: str | None = "add @hookimpl above it"
    elif name in hook_names:
        taken = getattr(hooks, name).__code__
        arguments = taken.co_varnames[: taken.co_argcount]
        others = [a for a in code.co_varnames[: code.co_argcount] if a not in arguments]
        if not others:
            return
        what = f"{name} of {plugin.title} takes '{others[0]}', which this hook doesn't have"
        fix = did_you_mean(others[0], arguments) or f"remove '{others[0]}'"
    elif marked.get("optionalhook"):
        return
    else:
        what = f"plugin '{plugin.name}'{of} implements the unknown hook '{name}'"
        fix = REPLACED_HOOKS.get(name) or did_you_mean(name, hook_names)
    where = f"{shown(Path(code.co_filename))}:{code.co_firstlineno}"
    raise PluginError(what, where=where, fix=fix)


# -- broken plugins -------------------------------------------------------------------------------


def acts_in_builds(entry: EntryPoint) -> bool:
    """Whether an installed plugin seems to change what the steps of all recipes make.

    If its module can't be imported, its source is searched for their names.
    """
    name = entry.module
    module = sys.modules.get(name)
    if module is not None:
        return any(
            hook not in (*known_hooks(), *REPLACED_HOOKS)  # which may be a mistyped one
            or (hook in ACTING and not getattr(function, OUTSIDE_KEY_MARK, False))
            for hook, function in _hook_functions(module)
        )
    try:
        spec = importlib.util.find_spec(name)
        text = Path(spec.origin or "").read_text("utf-8") if spec else ""
    except (Exception, SystemExit):  # the package may fail in any way
        return True
    pattern = rf"\b({'|'.join(ACTING)})\b|from (?!finery import)\S+ import \*"
    return re.search(pattern, text) is not None or not text
