"""The code in the keys of a recipe's steps."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery.artifact.kinds import Artifact
from finery.builder.code import shared
from finery.builder.code.names import Names
from finery.builder.code.reach import Code, Reach, Subject, loaded, modules_of
from finery.builder.code.resolve import Modules
from finery.builder.code.units import Parsed
from finery.errors import PluginError
from finery.plugin.discovery import Plugin
from finery.plugin.hookspecs import OBSERVES
from finery.plugin.manager import Plugins
from finery.recipe.document import Recipe
from finery.step.inspect import declared_outputs, inputs_of, nested_fields, nested_steps
from finery.step.step import Step
from finery.store.database import Store
from finery.util.files import settled
from finery.util.paths import project_folder

FORMAT = "code 4"
"""Version of cached files in the store. Raise it with changes of `parse` and `counted`."""
NAMES = "names in code"
"""Prefix of the facts with the definitions of a file that count, by their digest."""
Stat = tuple[int, ...] | None
"""Stat of a file; None if it might not show another change."""


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
        self._forget_files()
        hooks = [*self._hooks()]
        self._around = [subject for _, _, subject in hooks]
        self.wrappers = [Wrapper(name, plugin, self._code(s)) for name, plugin, s in hooks]

    def of_step(self, step: Step, written: Mapping[str, Any]) -> Code:
        """The code of a step type, of code in its settings, and of its artifacts' files."""
        return self._code(*self._own(step, written))

    def of_check(self, use: str) -> Code:
        """The code of a step type alone, with its methods that aren't in keys."""
        return self._find((self._type(use),), checks=True).code

    def observing(self) -> Reach:
        """What the hooks reach that only observe steps."""
        return Reach(self._names, [subject for _, _, subject in self._hooks(observing=True)])

    def reached_by(self, named: Iterable[Any]) -> Reach:
        """What classes and functions reach."""
        return Reach(self._names, [(each, None) for each in named if hasattr(each, "__module__")])

    def of_type(self, use: str) -> Reach:
        """What all steps of a type reach: without code, outputs and steps that settings name."""
        cls = self._plugins.step_type(use)
        outputs = declared_outputs(cls) if cls.outputs is Step.outputs else {}
        return Reach(self._names, (self._type(use), *_artifact_files(cls, outputs)))

    def of_engine(self, model_format: str) -> Code:
        """The code of the engine for a model's format."""
        return self._code(self._engine(model_format))

    def reaches(
        self, step: Step, written: Mapping[str, Any], engines: Iterable[str]
    ) -> list[Reach]:
        """What the code of a step reaches: its own, that of its engines, and hooks around it."""
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
        for field, within in nested_steps(step).items():
            yield from self._subjects(within, written[field])

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
            if hook.plugin in plugins and getattr(hook.function, OBSERVES, False) == observing:
                name = f"{plugins[hook.plugin]}.{hook.function.__name__}"
                yield name, plugins[hook.plugin], (hook.function, hook.plugin)

    # -- finding it ------------------------------------------------------------------------------

    def _code(self, *subjects: Subject) -> Code:
        return self._find(subjects).code

    def _find(self, subjects: tuple[Subject, ...], *, checks: bool = False) -> _Followed:
        """What subjects reach: as found before, as kept in the store, or found now."""
        key = subjects, checks
        if key not in self._followed:
            name = self._name(subjects, checks=checks)
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
        """What was found before, if no file and no folder has changed since."""
        content = self._store.fact(name) if name else None
        try:
            kept = msgspec.msgpack.decode(content or b"", type=_Followed)
        except (msgspec.DecodeError, UnicodeError):  # none, or a damaged database
            return None
        folders = all(self._folder_stat(f) == stat for f, stat in kept.folders.items())
        same = folders and all(_same(path, stat) for path, stat in kept.files.items())
        return kept if same else None

    def _follow(self, subjects: tuple[Subject, ...], checks: bool, name: str = "") -> _Followed:
        reach = Reach(self._names, subjects, checks=checks)
        followed = _Followed(reach.code, {str(p): self._parsed[p][0] for p in reach.files})
        kept = {} if checks else reach.names  # no key has the digests of a check
        facts = {f"{NAMES} {d}": msgspec.json.encode(names) for d, names in kept.items()}
        folders = {folder: self._folder_stat(folder) for folder in self._modules.listed()}
        is_settled = None not in (*followed.files.values(), *folders.values())
        if name and reach.is_installed and is_settled:
            facts[name] = msgspec.msgpack.encode(_Followed(reach.code, followed.files, folders))
        self._store.keep_facts(facts)
        return followed

    def _forget_files(self) -> None:
        """Look for modules and read files anew."""
        plugins, recipe = self._plugins.plugins, self._recipe
        beside = dict.fromkeys(plugin.path.parent for plugin in plugins if plugin.path is not None)
        self._modules = Modules(
            (plugin.module.__name__.partition(".")[0] for plugin in plugins),
            project=[project_folder(recipe.path), *beside],
            search=[Path.cwd(), *beside, recipe.folder],  # the first is on the path of workers
        )
        self._parsed: dict[Path, tuple[Stat, Parsed]] = {}
        self._folders: dict[str, Stat] = {}
        self._names = Names(self._modules, self._read)

    def _read(self, path: Path) -> Parsed:
        if path not in self._parsed:
            self._parsed[path] = self._read_file(path)
        return self._parsed[path][1]

    def _read_file(self, path: Path) -> tuple[Stat, Parsed]:
        try:
            stat = _stat(path)
            content = self._store.remembered(FORMAT, path, _parse)
        except OSError as error:
            raise PluginError(f"can't read {path}: {error.strerror}") from error
        try:
            return stat, msgspec.msgpack.decode(content, type=Parsed)
        except (msgspec.DecodeError, UnicodeError):  # a damaged database
            return stat, shared.parsed(path)

    def _folder_stat(self, folder: str) -> Stat:
        """The stat of a folder, which changes with the names in it; empty if it isn't there."""
        if folder not in self._folders:
            self._folders[folder] = _stat(folder) if os.path.isdir(folder) else ()
        return self._folders[folder]


def _parse(path: Path) -> bytes:
    return msgspec.msgpack.encode(shared.parsed(path))


def _artifact_files(cls: type[Step], outputs: Mapping[str, type[Artifact]]) -> Iterator[Subject]:
    """The modules of the kit that write a step's outputs and read its inputs."""
    for kind in outputs.values():
        yield from ((module, None) for module in kind.written_by)
    for accepts in inputs_of(cls).values():
        yield from ((module, None) for module in accepts.kind.read_by)


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
    try:
        return stat is not None and stat == _stat(path)
    except OSError:
        return False


def _stat(path: str | Path) -> Stat:
    s = os.stat(path)
    if not settled(s.st_mtime_ns, s.st_ctime_ns, time.time_ns()):
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
