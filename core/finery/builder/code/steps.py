"""The code in the keys of a recipe's steps."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery.artifact.kinds import Artifact
from finery.builder.code.closure import Closure, Code, Subject
from finery.builder.code.files import decode_stored
from finery.builder.code.index import CodeIndex
from finery.errors import PluginError
from finery.plugin.discovery import Plugin
from finery.plugin.manager import Plugins
from finery.recipe.document import Recipe
from finery.step.inspect import inputs_of, nested_fields, nested_steps, part_at
from finery.step.look import promises_of
from finery.step.step import Step
from finery.store.database import Store
from finery.util.installed import is_finery_module
from finery.util.references import OUTSIDE_KEY_MARK

NAMES_FORMAT = "names in code 2"
"""Prefix of the facts with the definitions of a file that count, by their digest."""


class Wrapper(NamedTuple):
    """A hook around every step: `plugin.function`, the plugin's name, and the hook's code."""

    name: str
    plugin: str
    code: Code
    packages: tuple[str, ...] = ()


class Watched(NamedTuple):
    """Files and folders that are there, and files that would be code if they were."""

    present: set[str]
    absent: set[str]


class StepCode:
    """Finds the code of step types, engines and wrappers, and later changes of it.

    written: a step's entry in the recipe, which names the types of nested steps.
    """

    def __init__(self, recipe: Recipe, plugins: Plugins, store: Store) -> None:
        self._recipe = recipe
        self._plugins = plugins
        self._store = store
        self._closures: dict[tuple[Subject, ...], Closure] = {}
        self._plain_subjects: dict[
            str, tuple[Subject, ...]
        ] = {}  # by step type, if settings name no code
        self._index = self._new_index()
        hooks = [*self._hooks()]
        self._wrapper_subjects = [(subject,) for _, _, subject in hooks]
        closures = [self._closure(subjects) for subjects in self._wrapper_subjects]
        self.wrappers = [
            Wrapper(name, plugin, closure.code, tuple(sorted(closure.packages)))
            for (name, plugin, _), closure in zip(hooks, closures, strict=True)
        ]
        self._always_subjects = (*self._always(),)

    def step_code(self, step: Step, settings: Mapping[str, Any]) -> Code:
        """The code of a step type, of code in its settings, and of its artifacts' files."""
        own_code = self._closure(self._step_subjects(step, settings)).code
        always_code = self._closure(self._always_subjects).code
        return own_code | {f"{file} (always)": digest for file, digest in always_code.items()}

    def packages(self, step: Step, settings: Mapping[str, Any]) -> list[str]:
        """The distributions that the step's code imports."""
        subject_groups = (self._step_subjects(step, settings), self._always_subjects)
        return sorted(
            {name for subjects in subject_groups for name in self._closure(subjects).packages}
        )

    def engine_code(self, model_format: str) -> tuple[Code, list[str]]:
        """The code of the engine for a model's format, and the distributions that it imports."""
        closure = self._closure(self._engine(model_format))
        return closure.code, sorted(closure.packages)

    def check_dependencies(self, uses: Iterable[str]) -> list[Any]:
        """What checks of step types depend on: all of finery's own code, and that of others."""
        subjects = {use: self._type(use) for use in uses}
        types = {use: [cls.__module__, cls.__qualname__] for use, (cls, _) in subjects.items()}
        foreign = [subject for subject in subjects.values() if not _is_own_subject(subject)]
        closures = [self._closure((subject,)) for subject in foreign]
        return [
            types, self._index.own.any_digest,
            [[closure.code, sorted(closure.packages)] for closure in closures],
        ]  # fmt: skip

    def variables(self, step: Step, use: str) -> dict[str, str]:
        """The variables that the plugins of others add to the environment of the step's worker."""
        hook = "finery_worker_environment"
        impls = getattr(self._plugins.hook, hook).get_hookimpls()
        own_plugins = [
            added_variables.plugin
            for added_variables in impls
            if is_finery_module(added_variables.plugin.__name__)
        ]
        if len(own_plugins) == len(impls):
            return {}
        call = self._plugins.manager.subset_hook_caller(hook, remove_plugins=own_plugins)
        added = call(use=use, alone=type(step).__spec__.alone, here=True)
        return {
            name: value
            for added_variables in reversed(added)
            for name, value in added_variables.items()
        }

    def left_out(
        self, step: Step, settings: Mapping[str, Any], engines: Iterable[str]
    ) -> dict[str, list[str]]:
        """Plugin file → the step types in it that aren't in the step's key.

        The process that runs the step must not define them, see `source_without`.
        """
        closures = [
            self._closure(subjects) for subjects in self._all_subjects(step, settings, engines)
        ]
        excluded = {
            path: {*names} for closure in closures for path, names in closure.left_out.items()
        }
        for closure in closures:
            for path in closure.files & excluded.keys():
                excluded[path].intersection_update(closure.left_out.get(path, ()))
        return {path: sorted(names) for path, names in excluded.items() if names}

    def is_current(self, store: Store) -> bool:
        """Whether this belongs to a store, and no file that the code depends on has changed."""
        has_appeared = any(map(os.path.exists, self._index.absent))
        files = self._index.files
        return (
            store is self._store and not has_appeared and all(map(files.is_same, [*files.states]))
        )

    def changed(self, step: Step, settings: Mapping[str, Any], engines: Iterable[str]) -> list[str]:
        """Files of a step's code that have changed."""
        changed_files: set[str] = set()
        for subjects in self._all_subjects(step, settings, engines):
            closure = self._closures[subjects]
            if not all(map(self._index.files.is_same, closure.files | closure.folders)):
                current = Closure(self._new_index(), subjects)
                changed_files |= {file for file, _ in closure.code.items() ^ current.code.items()}
        return sorted(changed_files)

    def paths(self, step: Step, written: Mapping[str, Any], engines: Iterable[str]) -> set[str]:
        """The files that a step's code depends on."""
        used = self._all_subjects(step, written, engines)
        return {path for subjects in used for path in self._closure(subjects).files}

    def own_paths(self) -> dict[str, str]:
        """Label → path of each file of finery."""
        return self._index.own.paths

    def digest(self, path: str) -> str | None:
        """BLAKE3 of what was read of a file of code; None if that was known from before."""
        return self._index.files.digests.get(path)

    def watched(self) -> Watched:
        """What shows whether the code of any step may have changed."""
        own_folders = map(os.path.dirname, self._index.own.paths.values())
        present = {*self._index.files.states, *self._index.own.paths.values(), *own_folders}
        return Watched(present | self._index.listed, self._index.absent)

    def names(self, digest: str) -> dict[str, str] | None:
        """Function, method or variable → digest, in the code of this digest."""
        return decode_stored(self._store.fact(f"{NAMES_FORMAT} {digest}"), dict[str, str])

    # -- what there is ---------------------------------------------------------------------------

    def _all_subjects(
        self, step: Step, settings: Mapping[str, Any], engines: Iterable[str]
    ) -> Iterator[tuple[Subject, ...]]:
        """All subjects of a step: its own code, its engines, and the hooks around it."""
        yield self._step_subjects(step, settings)
        yield from map(self._engine, engines)
        yield from self._wrapper_subjects
        yield self._always_subjects

    def _step_subjects(self, step: Step, settings: Mapping[str, Any]) -> tuple[Subject, ...]:
        use = settings["use"]
        if use in self._plain_subjects:
            return self._plain_subjects[use]
        subjects = tuple(dict.fromkeys(self._subjects(step, settings)))
        if _is_plain(type(step)):
            self._plain_subjects[use] = subjects
        return subjects

    def _subjects(self, step: Step, settings: Mapping[str, Any]) -> Iterator[Subject]:
        yield self._type(settings["use"])
        yield from ((named, None) for named in step.cache_key().code)
        kinds = {name: promise.kind for name, promise in promises_of(step).items()}
        yield from _artifact_files(type(step), kinds)
        for path, within, _ in nested_steps(step):
            yield from self._subjects(within, part_at(settings, path))

    def _type(self, use: str) -> Subject:
        cls = self._plugins.step_type(use)
        return cls, _naming_module(*self._plugins.step_types[use])

    def _engine(self, model_format: str) -> tuple[Subject, ...]:
        cls = self._plugins.engine(model_format)
        more = ((code, None) for code in cls.cache_key().code)
        return (cls, _naming_module(*self._plugins.engines[model_format])), *more

    def _hooks(self) -> Iterator[tuple[str, str, Subject]]:
        """(`plugin.function`, plugin, function) around every step, in the order of their calls."""
        plugins = {plugin.module: plugin.name for plugin in self._plugins.plugins}
        for hook in reversed(self._plugins.hook.finery_run_step.get_hookimpls()):
            if hook.plugin in plugins and not getattr(hook.function, OUTSIDE_KEY_MARK, False):
                name = f"{plugins[hook.plugin]}.{hook.function.__name__}"
                yield name, plugins[hook.plugin], (hook.function, hook.plugin)

    def _always(self) -> Iterator[Subject]:
        """What may act on any step: hooks for the environment of workers, and code at start."""
        for hook in self._plugins.hook.finery_worker_environment.get_hookimpls():
            if not is_finery_module(hook.plugin.__name__):
                yield hook.plugin.__name__, None
        yield from ((module, None) for module in self._index.startup_modules())

    # -- finding it ------------------------------------------------------------------------------

    def _closure(self, subjects: tuple[Subject, ...]) -> Closure:
        if subjects not in self._closures:
            self._closures[subjects] = closure = Closure(self._index, subjects)
            self._keep_names(closure)
        return self._closures[subjects]

    def _keep_names(self, closure: Closure) -> None:
        """Keep the definitions in the code, for explanations after it has changed."""
        digest = blake3(msgspec.json.encode([*closure.code.values()])).hexdigest()
        if self._store.fact(mark := f"{NAMES_FORMAT} of {digest}") is None:
            names = {
                f"{NAMES_FORMAT} {d}": msgspec.msgpack.encode(n) for d, n in closure.names().items()
            }
            self._store.keep_facts({**names, mark: b""})

    def _new_index(self) -> CodeIndex:
        beside = [plugin.path.parent for plugin in self._plugins.plugins if plugin.path is not None]
        return CodeIndex([*map(str, beside), str(self._recipe.folder), os.getcwd()], self._store)


def code_digest(function: Any) -> str | None:
    """A digest of a function and of all code that it reaches, as the keys of steps count it.

    Of a function of a module: what a closure holds isn't in it. None if its code isn't in a file.
    """
    from finery.execute.observed import unobserved  # not in each build

    try:
        folder = os.path.dirname(sys.modules[function.__module__].__file__ or "")
        with unobserved():
            code = Closure(CodeIndex([folder], None), [(function, None)]).code
        return blake3(msgspec.json.encode([function.__qualname__, code])).hexdigest()[:16]
    except (AttributeError, KeyError, OSError, PluginError):
        return None


def _is_own_subject(subject: Subject) -> bool:
    cls, named_in = subject
    return is_finery_module(cls.__module__) and (
        named_in is None or is_finery_module(named_in.__name__)
    )


def _artifact_files(cls: type[Step], outputs: Mapping[str, type[Artifact]]) -> Iterator[Subject]:
    """The functions of the kit that write a step's outputs and read its inputs."""
    for kind in outputs.values():
        yield from ((writes, None) for writes in kind.written_by)
    for accepts in inputs_of(cls).values():
        yield from ((reads, None) for reads in accepts.kind.read_by)


def _is_plain(cls: type[Step]) -> bool:
    """Whether all steps of a type have the same code."""
    is_default = cls.cache_key is Step.cache_key and cls.outputs is Step.outputs
    return is_default and not nested_fields(cls)


def _naming_module(reference: Any, plugin: Plugin) -> ModuleType:
    """The module that names a class: the plugin's, or the one in `"module:Class"`."""
    if isinstance(reference, str):
        return sys.modules[reference.partition(":")[0]]
    return plugin.module
