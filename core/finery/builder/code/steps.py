"""The code in the keys of a recipe's steps."""

import os
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
from blake3 import blake3

from finery.builder.code.closure import Closure, Code, Subject
from finery.builder.code.files import decode_stored
from finery.builder.code.index import CodeIndex
from finery.errors import PluginError
from finery.key import Key
from finery.plugin.discovery import Plugin
from finery.plugin.manager import Plugins
from finery.recipe.document import Recipe
from finery.step.inspect import inputs_of, part_at, steps_inside
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


class StepCode:
    """Finds the code of step types, engines and wrappers, and later changes of it.

    index: what was read of files. wrappers: the hooks around every step, in the order of their
    calls. around: their code.
    """

    def __init__(self, recipe: Recipe, plugins: Plugins, store: Store) -> None:
        self._recipe = recipe
        self._plugins = plugins
        self._store = store
        self._closures: dict[tuple[Subject, ...], Closure] = {}
        self.index = self._new_index()
        adding = plugins.hook.finery_worker_environment.get_hookimpls()
        names = (each.plugin.__name__ for each in adding)
        foreign = (name for name in names if not is_finery_module(name))
        # What may act on any step: hooks for the environment of workers, and code at start.
        self._always = [(named, None) for named in (*foreign, *self.index.startup_modules())]
        self.around: list[Closure] = []
        self.wrappers: list[Wrapper] = []
        plugin_names = {plugin.module: plugin.name for plugin in plugins.plugins}
        for hook in reversed(plugins.hook.finery_run_step.get_hookimpls()):
            if hook.plugin in plugin_names and not getattr(hook.function, OUTSIDE_KEY_MARK, False):
                name = plugin_names[hook.plugin]
                closure = self._closure([(hook.function, hook.plugin)])
                label, packages = f"{name}.{hook.function.__name__}", (*sorted(closure.packages),)
                self.wrappers.append(Wrapper(label, name, closure.code, packages))
                self.around.append(closure)

    def of_step(self, step: Step, written: Mapping[str, Any], own: Key) -> Closure:
        """The code of a step and of those inside it, of their artifacts' files, and of `own`.

        With what may act on any step. written: its entry in the recipe, which names the types.
        """
        subjects: list[Subject] = [(named, None) for named in own.code]
        for path, each in [("", step), *steps_inside(step)]:
            subjects.append(self._type((part_at(written, path) if path else written)["use"]))
            made = [promise.kind.written_by for promise in promises_of(each).values()]
            read = [accepts.kind.read_by for accepts in inputs_of(type(each)).values()]
            subjects += [(function, None) for functions in (*made, *read) for function in functions]
        return self._closure([*subjects, *self._always])

    def of_engine(self, model_format: str, own: Key) -> Closure:
        """The code of the engine for a model's format, and of `own`."""
        cls = self._plugins.engine(model_format)
        subject = (cls, _naming_module(*self._plugins.engines[model_format]))
        return self._closure([subject, *((named, None) for named in own.code)])

    def check_dependencies(self, uses: Iterable[str]) -> list[Any]:
        """What checks of step types depend on: all of finery's own code, and that of others."""
        subjects = {use: self._type(use) for use in uses}
        types = {use: [cls.__module__, cls.__qualname__] for use, (cls, _) in subjects.items()}
        closures = map(self._closure, [[subject] for subject in subjects.values()])
        code = [[closure.code, sorted(closure.packages)] for closure in closures]
        return [types, self.index.own.any_digest, code]

    def variables(self, step: Step, use: str) -> dict[str, str]:
        """The variables that the plugins of others add to the environment of the step's worker."""
        hook = self._plugins.hook.finery_worker_environment
        own = [i.plugin for i in hook.get_hookimpls() if is_finery_module(i.plugin.__name__)]
        call = self._plugins.manager.subset_hook_caller(hook.name, remove_plugins=own)
        added = call(use=use, alone=type(step).__spec__.alone, here=True)
        return {name: value for each in reversed(added) for name, value in each.items()}

    def is_current(self, store: Store) -> bool:
        """Whether this belongs to a store, and no file that the code depends on has changed."""
        files, has_appeared = self.index.files, any(map(os.path.exists, self.index.absent))
        is_same = not has_appeared and all(map(files.is_same, [*files.states]))
        return store is self._store and is_same

    def changed(self, closures: Iterable[Closure]) -> list[str]:
        """Files of code that have changed since then."""
        changed_files: set[str] = set()
        for closure in closures:
            if not all(map(self.index.files.is_same, closure.files | closure.folders)):
                current = Closure(self._new_index(), closure.subjects)
                changed_files |= {file for file, _ in closure.code.items() ^ current.code.items()}
        return sorted(changed_files)

    def present(self) -> set[str]:
        """Files and folders that show whether the code of any step may have changed.

        `index.absent` has files that would be code if they were there.
        """
        own = self.index.own.paths.values()
        return {*self.index.files.states, *self.index.watched, *own, *map(os.path.dirname, own)}

    def names(self, digest: str) -> dict[str, str] | None:
        """Function, method or variable → digest, in the code of this digest."""
        return decode_stored(self._store.fact(f"{NAMES_FORMAT} {digest}"), dict[str, str])

    def _type(self, use: str) -> tuple[type[Step], ModuleType]:
        reference, plugin = self._plugins.step_types[use]
        return self._plugins.step_type(use), _naming_module(reference, plugin)

    def _closure(self, named: Iterable[Subject]) -> Closure:
        subjects = tuple(dict.fromkeys(named))
        if subjects not in self._closures:
            self._closures[subjects] = closure = Closure(self.index, subjects)
            digest = blake3(msgspec.json.encode([*closure.code.values()])).hexdigest()
            if self._store.fact(mark := f"{NAMES_FORMAT} of {digest}") is None:
                encode = msgspec.msgpack.encode  # for explanations after it has changed
                names = {f"{NAMES_FORMAT} {d}": encode(n) for d, n in closure.names().items()}
                self._store.keep_facts({**names, mark: b""})
        return self._closures[subjects]

    def _new_index(self) -> CodeIndex:
        beside = [plugin.path.parent for plugin in self._plugins.plugins if plugin.path is not None]
        return CodeIndex([*map(str, beside), str(self._recipe.folder)], self._store)


def code_digest(function: Any) -> str | None:
    """A digest of a function and of all code that it reaches, as the keys of steps count it.

    Of a function of a module: what a closure holds isn't in it. None if its code isn't in a file.
    """
    from finery.execute.observed import process_log  # not in each build

    try:
        folder = os.path.dirname(sys.modules[function.__module__].__file__ or "")
        with process_log().paused():  # the step's key has this code anyway
            code = Closure(CodeIndex([folder], None), [(function, None)]).code
        return blake3(msgspec.json.encode([function.__qualname__, code])).hexdigest()[:16]
    except (AttributeError, KeyError, OSError, PluginError):
        return None


def _naming_module(reference: Any, plugin: Plugin) -> ModuleType:
    """The module that names a class: the plugin's, or the one in `"module:Class"`."""
    if isinstance(reference, str):
        return sys.modules[reference.partition(":")[0]]
    return plugin.module
