"""The code in the keys of a recipe's steps."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery.artifact.kinds import Artifact
from finery.builder.code import shared
from finery.builder.code.names import Names, Node
from finery.builder.code.reach import Code, Reach, Subject, loaded, modules_of
from finery.builder.code.resolve import Modules, Place
from finery.builder.code.units import EXECUTES, Parsed
from finery.errors import PluginError
from finery.plugin.discovery import Plugin
from finery.plugin.manager import Plugins, load_plugins
from finery.recipe.document import Recipe
from finery.step.inspect import (
    declared_outputs,
    inputs_of,
    nested_fields,
    nested_steps,
    part_at,
)
from finery.step.step import Step
from finery.store.database import Store
from finery.util.files import settled
from finery.util.installed import distributions
from finery.util.paths import project_folder
from finery.util.references import OUTSIDE

FORMAT = "code 6"
"""Version of cached files in the store. Raise it with changes of `parse` and `counted`."""
NAMES = "names in code"
"""Prefix of the facts with the definitions of a file that count, by their digest."""
Stat = tuple[int, ...] | None
"""Stat of a file; empty if there is none, None if it might not show another change."""


class Wrapper(NamedTuple):
    """A hook around every step: `plugin.function`, the plugin's name, and the hook's code."""

    name: str
    plugin: str
    code: Code


class _Followed(msgspec.Struct, frozen=True, array_like=True):
    """The code that subjects reach, and the files that this depends on.

    folders: those in which modules were looked for; only in what is kept.
    """

    code: Code
    files: dict[str, Stat]
    folders: dict[str, Stat] = {}


class StepCode:
    """Finds the code of step types, engines and wrappers, and later changes of it.

    written: a step's entry in the recipe, which names the types of nested steps.
    """

    def __init__(self, recipe: Recipe, plugins: Plugins, store: Store) -> None:
        self._recipe = recipe
        self._plugins = plugins
        self._store = store
        self._followed: dict[tuple[tuple[Subject, ...], bool], _Followed] = {}
        self._plain: dict[str, tuple[Subject, ...]] = {}  # by step type, if settings name no code
        self._named: set[str] = set()  # digests with the names in them in the store
        self._scope: list[str] = []  # packages into which `_names` follows names
        self._forget_files()
        # What a plugin file executes on import may change what any step reads.
        self._files = tuple(
            (Node(Place(p.module.__name__, str(p.path), is_local=True), EXECUTES), p.module)
            for p in plugins.plugins
            if p.path is not None
        )
        on_import = self._code(*self._files) if self._files else {}
        self._on_import = {f"{file} (on import)": digest for file, digest in on_import.items()}
        hooks = [*self._hooks()]
        self._around = [subject for _, _, subject in hooks]
        self.wrappers = [Wrapper(name, plugin, self._code(s)) for name, plugin, s in hooks]

    def of_step(self, step: Step, written: Mapping[str, Any]) -> Code:
        """The code of a step type, of code in its settings, and of its artifacts' files."""
        return self._code(*self._own(step, written)) | self._on_import

    def of_checks(self, uses: Iterable[str]) -> list[Any]:
        """What checks of step types depend on: their code, with the methods that aren't in keys.

        Reached immediately, except for types of a project, whose code isn't cached in the store.
        """
        subjects = {use: self._type(use) for use in uses}
        types = {use: [cls.__module__, cls.__qualname__] for use, (cls, _) in subjects.items()}
        own = [(s,) for s in subjects.values() if not self._name((s,), checks=True)]
        installed = tuple(s for s in subjects.values() if (s,) not in own)
        return [types, *(self._find(group, checks=True).code for group in (installed, *own))]

    def observing(self) -> Reach:
        """What the hooks reach that only observe steps."""
        hooks = [subject for _, _, subject in self._hooks(observing=True)]
        return Reach(self._names, hooks, checks=True)

    def reached_by(self, subjects: Iterable[Any]) -> Reach:
        """What classes, functions and nodes reach, with what is marked `outside_key`."""
        return Reach(self._names, [(each, None) for each in subjects], checks=True)

    def of_type(self, use: str) -> Reach:
        """What all steps of a type reach, without engines, outputs and steps that settings name."""
        cls = self._plugins.step_type(use)
        outputs = declared_outputs(cls) if cls.outputs is Step.outputs else {}
        return Reach(self._names, (self._type(use), *_artifact_files(cls, outputs)))

    def is_current(self, store: Store) -> bool:
        """Whether this belongs to a store, and no file that the code depends on has changed."""
        used = dict(self._folders)
        for followed in self._followed.values():
            used |= followed.files
        new = any(map(os.path.exists, self._modules.candidates - used.keys()))
        return store is self._store and not new and all(map(_same, used, used.values()))

    def of_engine(self, model_format: str) -> Code:
        """The code of the engine for a model's format."""
        return self._code(self._engine(model_format))

    def reaches(
        self, step: Step, written: Mapping[str, Any], engines: Iterable[str]
    ) -> list[Reach]:
        """What a step's code reaches, including its engines and the hooks around it."""
        return [Reach(self._names, subjects) for subjects in self._used(step, written, engines)]

    def changed(self, step: Step, written: Mapping[str, Any], engines: Iterable[str]) -> list[str]:
        """Files of a step's code that have changed."""
        changed: set[str] = set()
        for subjects in self._used(step, written, engines):
            before = self._followed[subjects, False]
            if all(_same(path, stat) for path, stat in before.files.items()):
                continue
            self._forget_files()
            now = self._follow(subjects, False)
            changed |= {file for file, _ in before.code.items() ^ now.code.items()}
            self._followed[subjects, False] = _Followed(before.code, now.files)
        return sorted(changed)

    def paths(self, step: Step, written: Mapping[str, Any], engines: Iterable[str]) -> set[Path]:
        """The files that a step's code depends on."""
        used = self._used(step, written, engines)
        return {Path(p) for subjects in used for p in self._followed[subjects, False].files}

    def files(self) -> set[Path]:
        """All files that the code depends on."""
        return {Path(path) for followed in self._followed.values() for path in followed.files}

    def folders(self) -> set[Path]:
        """Folders of packages, since a new module there may change what an import reads."""
        return {path.parent for path in self.files() if not self._modules.is_local(path)}

    def absent(self) -> set[str]:
        """Project files that an import reads or would read if they existed."""
        return self._modules.candidates

    def counts(self, path: str) -> bool:
        """Whether a file's code can be in keys: of plugins, the kit, or the project."""
        return self._modules.counts(path)

    def names(self, digest: str) -> dict[str, str] | None:
        """Function, method or variable → digest, in the code of this digest."""
        content = self._store.fact(f"{NAMES} {digest}")
        try:
            return None if content is None else msgspec.json.decode(content, type=dict[str, str])
        except (msgspec.DecodeError, UnicodeError):  # a damaged database
            return None

    # -- what there is ---------------------------------------------------------------------------

    def _used(
        self, step: Step, written: Mapping[str, Any], engines: Iterable[str]
    ) -> Iterator[tuple[Subject, ...]]:
        """All subjects of a step: its own code, its engines, and the hooks around it."""
        yield self._own(step, written)
        if self._files:
            yield self._files
        yield from ((subject,) for subject in (*map(self._engine, engines), *self._around))

    def _own(self, step: Step, written: Mapping[str, Any]) -> tuple[Subject, ...]:
        use = written["use"]
        if use in self._plain:
            return self._plain[use]
        subjects = tuple(dict.fromkeys(self._subjects(step, written)))
        if _is_plain(type(step)):
            self._plain[use] = subjects
        return subjects

    def _subjects(self, step: Step, written: Mapping[str, Any]) -> Iterator[Subject]:
        yield self._type(written["use"])
        yield from ((named, None) for named in step.key_code())
        yield from _artifact_files(type(step), step.outputs())
        for path, within, _ in nested_steps(step):
            yield from self._subjects(within, part_at(written, path))

    def _type(self, use: str) -> Subject:
        cls = self._plugins.step_type(use)
        return cls, _naming(*self._plugins.step_types[use])

    def _engine(self, model_format: str) -> Subject:
        cls = self._plugins.engine(model_format)
        return cls, _naming(*self._plugins.engines[model_format])

    def _hooks(self, *, observing: bool = False) -> Iterator[tuple[str, str, Subject]]:
        """(`plugin.function`, plugin, function) around every step, in the order of their calls.

        observing: those that only observe steps.
        """
        plugins = {plugin.module: plugin.name for plugin in self._plugins.plugins}
        for hook in reversed(self._plugins.hook.finery_run_step.get_hookimpls()):
            if hook.plugin in plugins and getattr(hook.function, OUTSIDE, False) == observing:
                name = f"{plugins[hook.plugin]}.{hook.function.__name__}"
                yield name, plugins[hook.plugin], (hook.function, hook.plugin)

    # -- finding it ------------------------------------------------------------------------------

    def _code(self, *subjects: Subject) -> Code:
        return self._find(subjects).code

    def _find(self, subjects: tuple[Subject, ...], *, checks: bool = False) -> _Followed:
        """What the subjects reach: from memory, from the store, or computed now."""
        key = subjects, checks
        if key not in self._followed:
            name = self._name(subjects, checks=checks)
            if self._scope != self._modules.scope():  # names are followed into more packages now
                self._scope = self._modules.scope()
                self._names = Names(self._modules, self._read)
            self._followed[key] = self._kept(name) or self._follow(subjects, checks, name)
        return self._followed[key]

    def _name(self, subjects: tuple[Subject, ...], *, checks: bool) -> str:
        """The name in the store of what subjects reach; empty for subjects of a project."""
        places = [loaded(m, self._modules) for s in subjects for m in modules_of(s)]
        names = [
            getattr(named, "__qualname__", None if isinstance(named, Path) else str(named))
            for named, _ in subjects
        ]
        if None in names or any(place.is_local for place in places):
            return ""
        modules = [place.module for place in places]
        scope = [names, modules, checks, self._modules.scope(), shared.version()]
        return f"{FORMAT} {blake3(msgspec.json.encode(scope)).hexdigest()}"

    def _kept(self, name: str) -> _Followed | None:
        """The result in memory, if no file and no folder has changed since."""
        content = self._store.fact(name) if name else None
        try:
            kept = msgspec.msgpack.decode(content or b"", type=_Followed)
        except (msgspec.DecodeError, UnicodeError):  # none, or a damaged database
            return None
        stats = kept.files | kept.folders
        if None in stats.values() or any(self._stat(p) != stat for p, stat in stats.items()):
            return None
        self._folders |= kept.folders
        return kept

    def _follow(self, subjects: tuple[Subject, ...], checks: bool, name: str = "") -> _Followed:
        reach = Reach(self._names, subjects, checks=checks)
        followed = _Followed(reach.code, {path: self._parsed[path][0] for path in reach.files})
        new = set() if checks else reach.names.keys() - self._named  # no key has those of a check
        self._named |= new
        facts = {f"{NAMES} {d}": msgspec.json.encode(reach.names[d]) for d in new}
        folders = {folder: self._stat(folder) for folder in self._modules.listed()}
        self._folders |= folders
        is_settled = None not in (*followed.files.values(), *folders.values())
        if name and reach.is_installed and is_settled:
            facts[name] = msgspec.msgpack.encode(_Followed(reach.code, followed.files, folders))
        self._store.keep_facts(facts)
        return followed

    def _forget_files(self) -> None:
        """Look for modules and read files anew."""
        plugins, recipe = self._plugins.plugins, self._recipe
        beside = dict.fromkeys(plugin.path.parent for plugin in plugins if plugin.path is not None)
        installed = {os.path.dirname(each.folder) for each in distributions().values()}
        searched = [folder for folder in sys.path if folder not in installed]
        self._modules = Modules(
            (plugin.module.__name__.partition(".")[0] for plugin in plugins),
            project=[project_folder(recipe.path), *beside, *searched],
            search=[Path.cwd(), *beside, recipe.folder],  # the first is on the path of workers
        )
        self._parsed: dict[str, tuple[Stat, Parsed]] = {}
        self._folders: dict[str, Stat] = {}
        self._stat = cache(_stat)
        self._names = Names(self._modules, self._read)
        self._scope = self._modules.scope()

    def _read(self, path: str) -> Parsed:
        if path not in self._parsed:
            self._parsed[path] = self._read_file(path)
        return self._parsed[path][1]

    def _read_file(self, path: str) -> tuple[Stat, Parsed]:
        try:
            stat = _stat(path)
            content = shared.kept(Path(path))
            if content is None:
                content = self._store.remembered(FORMAT, Path(path), shared.parsed)
        except OSError as error:
            raise PluginError(f"can't read {path}: {error.strerror}") from error
        try:
            return stat, _decoded(content)
        except (msgspec.DecodeError, UnicodeError):  # a damaged database
            return stat, _decoded(shared.parsed(Path(path)))


def code_digest(function: Any) -> str | None:
    """A digest of a function and of all code that it reaches, as the keys of steps count it.

    Of a function of a module: what a closure holds isn't in it. None if its code isn't in a file.
    """
    plugins = [plugin.module.__name__ for plugin in load_plugins().plugins]
    installed = {os.path.dirname(each.folder) for each in distributions().values()}
    try:
        beside = Path(sys.modules[function.__module__].__file__ or "").parent
        searched = (Path(folder) for folder in sys.path if folder not in installed)
        modules = Modules([*plugins, function.__module__], [beside, *searched], [beside])
        read = cache(lambda path: _decoded(shared.parsed(Path(path))))
        code = Reach(Names(modules, read), [(function, None)]).code
        return blake3(msgspec.json.encode([function.__qualname__, code])).hexdigest()[:16]
    except (AttributeError, OSError, PluginError):
        return None


def _decoded(content: bytes) -> Parsed:
    return msgspec.msgpack.decode(content, type=Parsed)


def _artifact_files(cls: type[Step], outputs: Mapping[str, type[Artifact]]) -> Iterator[Subject]:
    """The functions of the kit that write a step's outputs and read its inputs."""
    for kind in outputs.values():
        yield from ((writes, None) for writes in kind.written_by)
    for accepts in inputs_of(cls).values():
        yield from ((reads, None) for reads in accepts.kind.read_by)


def _is_plain(cls: type[Step]) -> bool:
    """Whether all steps of a type have the same code."""
    own = cls.key_code is Step.key_code and cls.outputs is Step.outputs
    return own and not nested_fields(cls)


def _naming(reference: Any, plugin: Plugin) -> ModuleType:
    """The module that names a class: the plugin's, or the one in `"module:Class"`."""
    if isinstance(reference, str):
        return sys.modules[reference.partition(":")[0]]
    return plugin.module


def _same(path: str, stat: Stat) -> bool:
    return stat is not None and stat == _stat(path)


def _stat(path: str) -> Stat:
    """The stat of a file, or of a folder, which changes with the names in it."""
    try:
        s = os.stat(path)
    except OSError:
        return ()
    if not settled(s.st_mtime_ns, s.st_ctime_ns, time.time_ns()):
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
