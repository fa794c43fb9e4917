"""The code in the keys of a recipe's steps."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from finery.artifact.kinds import Artifact
from finery.build.code import shared
from finery.build.code.follow import Code, CodeReader, Parsed, add
from finery.build.code.resolve import Modules
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

FORMAT = "code 2"
"""Version of cached files in the store. Raise it with changes of `parse` and `counted`."""
NAMES = "names in code"
"""Prefix of the facts with a file's functions, by the digest of its code."""
Stat = tuple[int, ...] | None
"""Stat of a file; None if it might not show another change."""


Subject = tuple[Any, ModuleType | None]
"""A class, function, module name or file, and the module whose hook names it."""


class Wrapper(NamedTuple):
    """A hook around every step: `plugin.function`, the plugin's name, and the hook's code."""

    name: str
    plugin: str
    code: Code


class _Followed(NamedTuple):
    """Code, and the files that it depends on."""

    code: Code
    files: dict[Path, Stat]


class _Own(NamedTuple):
    """The code of a step, and its subjects."""

    code: Code
    subjects: list[Subject]


class StepCode:
    """Finds the code of step types, engines and wrappers, and later changes of it.

    written: a step's entry in the recipe, which names the types of nested steps.
    """

    def __init__(self, recipe: Recipe, plugins: Plugins, store: Store) -> None:
        self._recipe = recipe
        self._plugins = plugins
        self._store = store
        self._followed: dict[Subject, _Followed] = {}
        self._plain: dict[str, _Own] = {}  # by step type, if settings name no code
        self._files: dict[Path, Stat] = {}
        self._reader = self._new_reader()
        hooks = [*self._hooks()]
        self._around = [subject for _, _, subject in hooks]
        self.wrappers = [Wrapper(name, plugin, self._code(s)) for name, plugin, s in hooks]

    def of_step(self, step: Step, written: Mapping[str, Any]) -> Code:
        """The code of a step type, of code in its settings, and of its artifacts' files."""
        return self._own(step, written).code

    def _own(self, step: Step, written: Mapping[str, Any]) -> _Own:
        use = written["use"]
        if use in self._plain:
            return self._plain[use]
        subjects = [*self._subjects(step, written)]
        code: Code = {}
        for subject in subjects:
            add(code, self._code(subject))
        own = _Own(dict(sorted(code.items())), subjects)
        if _is_plain(type(step)):
            self._plain[use] = own
        return own

    def of_type(self, use: str) -> Code:
        """The code of a step type alone."""
        return self._code(self._type(use))

    def of_artifacts(self, cls: type[Step]) -> Code:
        """The code that reads a type's inputs, and writes outputs that don't depend on settings."""
        code: Code = {}
        outputs = declared_outputs(cls) if cls.outputs is Step.outputs else {}
        for subject in _artifact_files(cls, outputs):
            code |= self._code(subject)
        return code

    def of_engine(self, model_format: str) -> Code:
        """The code of the engine for a model's format."""
        return self._code(self._engine(model_format))

    def changed(self, step: Step, written: Mapping[str, Any], engines: Iterable[str]) -> list[str]:
        """Files of a step's code that have changed."""
        changed: set[str] = set()
        for subject in self._used(step, written, engines):
            before = self._followed[subject]
            if all(_same(path, stat) for path, stat in before.files.items()):
                continue
            self._reader = self._new_reader()
            now = self._find(subject)
            changed |= {file for file, _ in before.code.items() ^ now.code.items()}
            self._followed[subject] = before._replace(files=now.files)
        return sorted(changed)

    def paths(self, step: Step, written: Mapping[str, Any], engines: Iterable[str]) -> set[Path]:
        """The files that a step's code depends on."""
        subjects = self._used(step, written, engines)
        return {path for subject in subjects for path in self._followed[subject].files}

    def files(self) -> set[Path]:
        """All files that the code depends on."""
        return {path for followed in self._followed.values() for path in followed.files}

    def folders(self) -> set[Path]:
        """Folders of packages, since a new module there may change what an import reads."""
        return {path.parent for path in self.files() if not self._modules.is_local(path)}

    def absent(self) -> set[str]:
        """Project files that an import reads or would read if they existed."""
        return self._modules.candidates

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
    ) -> list[Subject]:
        """All subjects of a step: its own code, its engines, and the hooks around it."""
        own = self._own(step, written).subjects
        return [*own, *map(self._engine, engines), *self._around]

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

    def _hooks(self) -> Iterator[tuple[str, str, Subject]]:
        """(`plugin.function`, plugin, function) around every step, in the order of their calls."""
        plugins = {plugin.module: plugin.name for plugin in self._plugins.plugins}
        for hook in reversed(self._plugins.hook.finery_run_step.get_hookimpls()):
            if hook.plugin in plugins and not getattr(hook.function, OBSERVES, False):
                name = f"{plugins[hook.plugin]}.{hook.function.__name__}"
                yield name, plugins[hook.plugin], (hook.function, hook.plugin)

    # -- finding it ------------------------------------------------------------------------------

    def _code(self, subject: Subject) -> Code:
        if subject not in self._followed:
            self._followed[subject] = self._find(subject)
        return self._followed[subject].code

    def _find(self, subject: Subject) -> _Followed:
        self._files = {}
        return _Followed(self._reader.code_of(*subject), self._files)

    def _new_reader(self) -> CodeReader:
        plugins, recipe = self._plugins.plugins, self._recipe
        beside = dict.fromkeys(plugin.path.parent for plugin in plugins if plugin.path is not None)
        self._modules = Modules(
            (plugin.module.__name__.partition(".")[0] for plugin in plugins),
            project=[project_folder(recipe.path), *beside],
            search=[Path.cwd(), *beside, recipe.folder],  # the first is on the path of workers
        )
        return CodeReader(self._modules, self._read)

    def _read(self, path: Path) -> Parsed:
        try:
            self._files[path] = _stat(path)
            content = self._store.remembered(FORMAT, path, self._parse)
        except OSError as error:
            raise PluginError(f"can't read {path}: {error.strerror}") from error
        try:
            return msgspec.msgpack.decode(content, type=Parsed)
        except (msgspec.DecodeError, UnicodeError):  # a damaged database
            return msgspec.msgpack.decode(self._parse(path), type=Parsed)

    def _parse(self, path: Path) -> bytes:
        parsed, names = msgspec.structs.astuple(shared.parsed(path))
        self._store.keep_facts({f"{NAMES} {parsed.digest}": msgspec.json.encode(names)})
        return msgspec.msgpack.encode(parsed)


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


def _same(path: Path, stat: Stat) -> bool:
    try:
        return stat is not None and stat == _stat(path)
    except OSError:
        return False


def _stat(path: Path) -> Stat:
    s = os.stat(path)
    if not settled(s.st_mtime_ns, s.st_ctime_ns, time.time_ns()):
        return None
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns
