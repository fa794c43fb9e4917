"""Discovery: which plugins there are and what they provide."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pluggy
from blake3 import blake3

from finery.errors import FineryError, PluginError
from finery.inference.engine import Engine
from finery.plugin import hookspecs as hooks
from finery.plugin.notes import known_notes
from finery.step.contract import check_contract
from finery.step.inspect import FILE_MODULE
from finery.step.step import Step
from finery.util.installed import EntryPoint, entry_points
from finery.util.paths import shown
from finery.util.references import load_reference
from finery.util.text import did_you_mean, nearest_meant

if TYPE_CHECKING:
    from finery.plugin.view import View

GROUP = "finery"


class Plugin:
    """A loaded plugin: its name, where it comes from, and its module."""

    def __init__(
        self, name: str, module: ModuleType, origin: str, path: Path | None = None
    ) -> None:
        self.name = name
        self.module = module
        self.origin = origin  # "finery 0.1.0" or the file's path
        self.path = path  # only for a file beside the recipe


class Plugins:
    """All plugins of this process, and the step types, engines and commands they provide."""

    def __init__(self, manager: pluggy.PluginManager, plugins: Sequence[Plugin]) -> None:
        self.manager = manager
        self.plugins = list(plugins)

    @property
    def hook(self) -> Any:
        """The hooks, to call."""
        return self.manager.hook

    @cached_property
    def step_types(self) -> dict[str, tuple[Any, Plugin]]:
        """Step type name → (class or "module:Class", the plugin that provides it)."""
        return self._provided("finery_steps")

    @cached_property
    def engines(self) -> dict[str, tuple[Any, Plugin]]:
        """Model format → (class or "module:Class", plugin)."""
        return self._provided("finery_engines")

    @cached_property
    def commands(self) -> dict[str, tuple[Any, Plugin]]:
        """Command name → (click command or "module:function", plugin)."""
        return self._provided("finery_commands")

    @cached_property
    def executors(self) -> dict[str, tuple[Any, Plugin]]:
        """Executor name → (class or "module:Class", plugin)."""
        return self._provided("finery_executors")

    @cached_property
    def views(self) -> dict[str, tuple[Any, Plugin]]:
        """Kind of artifact, or `kind/format` → (a `View`'s class or "module:Class", plugin)."""
        return self._provided("finery_views")

    @cached_property
    def pages(self) -> dict[str, tuple[Any, Plugin]]:
        """Kind of artifact → (what makes a page of it, or "module:function"; plugin)."""
        return self._provided("finery_pages")

    @cached_property
    def notes(self) -> dict[str, tuple[Any, Plugin]]:
        """Kind of note → (when and why it is given, plugin)."""
        return self._provided("finery_notes")

    @cached_property
    def note_names(self) -> set[str]:
        """Names of all notes that may be given here: recipes silence them by name."""
        return {*known_notes(self)}

    def step_type(self, name: str) -> type[Step]:
        """The class of a step type; imports its module. `PluginError` if there is none."""
        if name not in self.step_types:
            raise PluginError(f"unknown step type '{name}'", fix=self.suggest(name))
        reference, plugin = self.step_types[name]
        cls: type[Step] = resolve(reference, f"step type '{name}'", plugin)
        if not getattr(cls, "__finery_checked__", False):
            check_contract(cls, name)
            type.__setattr__(cls, "__finery_checked__", True)
        return cls

    def suggest(self, name: str) -> str:
        """A fix for an unknown step type."""
        prefix = name.partition(".")[0]
        if prefix not in {p.name for p in self.plugins}:
            meant = nearest_meant(name, self.step_types)
            missing = (
                f"install the plugin that provides '{prefix}.*' (`finery plugins` lists yours)"
            )
            return f"{meant} or {missing}" if meant else missing
        return did_you_mean(name, self.step_types) or "run `finery plugins`"

    def engine(self, model_format: str) -> type[Engine]:
        """The engine's class for a model format; imports its module."""
        if model_format not in self.engines:
            there = ", ".join(sorted(self.engines))
            raise PluginError(
                f"no engine answers prompts with a model of format '{model_format}'",
                fix=f"install a plugin with one; there are engines for: {there}",
            )
        reference, plugin = self.engines[model_format]
        cls: type[Engine] = resolve(reference, f"engine '{model_format}'", plugin)
        return cls

    def view(self, kind: str, artifact_format: str = "") -> "View":
        """What shows artifacts of a kind and format: the most specific view that there is.

        Raises `PluginError` where a plugin's view can't be loaded, or is none.
        """
        from finery.plugin.view import View  # only where something is shown

        name = next((n for n in (f"{kind}/{artifact_format}", kind) if n in self.views), None)
        if name is None:
            return View()
        reference, plugin = self.views[name]
        cls = resolve(reference, f"view '{name}'", plugin)
        if not (isinstance(cls, type) and issubclass(cls, View)):
            raise PluginError(
                f"view '{name}' of plugin '{plugin.name}' ({plugin.origin}) is no View: {cls!r}",
                fix="subclass finery.View",
            )
        return cls()

    def _provided(self, hook: str) -> dict[str, tuple[Any, Plugin]]:
        found: dict[str, tuple[Any, Plugin]] = {}
        for plugin in self.plugins:
            for name, reference in _table(plugin, hook).items():
                if name in found:
                    first = found[name][1]
                    raise PluginError(
                        f"'{name}' is provided twice: by plugin '{first.name}' ({first.origin}) "
                        f"and by plugin '{plugin.name}' ({plugin.origin})",
                        fix="rename one, or uninstall its plugin",
                    )
                found[name] = (reference, plugin)
        return found


def _table(plugin: Plugin, hook: str) -> Mapping[str, Any]:
    """What a plugin's hook provides, by name; nothing where it has no such hook."""
    provide = getattr(plugin.module, hook, None)
    if provide is None:
        return {}
    try:
        table = provide()
    except Exception as error:
        raise PluginError(
            f"{hook} of plugin '{plugin.name}' fails: {type(error).__name__}: {error}",
            where=plugin.origin,
            fix="repair it",
        ) from error
    if not isinstance(table, Mapping):
        raise PluginError(
            f"{hook} of plugin '{plugin.name}' returns a {type(table).__name__}, not a mapping",
            where=plugin.origin,
            fix='return names and what they stand for: {"plugin.step": "module:Class"}',
        )
    return table


@lru_cache(maxsize=8)
def load_plugins(local: tuple[Path, ...] = ()) -> Plugins:
    """Load every installed plugin and the `local` plugin files; once per process and set."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(hooks)
    found = [_load_entry_point(entry) for entry in entry_points(GROUP)]
    found += [_load_file(path) for path in local]
    for plugin in found:
        _register(manager, plugin)
    return Plugins(manager, found)


def _register(manager: pluggy.PluginManager, plugin: Plugin) -> None:
    for name, function in vars(plugin.module).items():
        if name.startswith("finery_") and isinstance(function, FunctionType):
            _check_hook(name, function, plugin)
    try:
        manager.register(plugin.module, name=plugin.name)
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        first, *more = str(error).splitlines()
        raise PluginError(
            f"plugin '{plugin.name}' ({plugin.origin}) breaks the hooks' contract: {first}",
            fix="compare its hookimpls with docs/plugins.md",
            details=more,
        ) from error
    except ValueError as error:
        raise PluginError(
            f"two plugins are named '{plugin.name}'", where=plugin.origin, fix="rename one of them"
        ) from error


def _check_hook(name: str, function: FunctionType, plugin: Plugin) -> None:
    """Raise `PluginError` for a hook that is mistyped or not marked: it would never be called."""
    marked: dict[str, Any] | None = getattr(function, "finery_impl", None)
    known = [n for n in vars(hooks) if n.startswith("finery_")]
    code = function.__code__
    where = f"{shown(Path(code.co_filename))}:{code.co_firstlineno}"
    of = "" if plugin.path else f" of {plugin.origin}"
    if marked is None and name in known:
        raise PluginError(
            f"{name}{of} is not marked as a hook", where=where, fix="put @hookimpl above"
        )
    if marked is None or marked.get("optionalhook"):
        return
    if (marked.get("specname") or name) not in known:
        raise PluginError(
            f"plugin '{plugin.name}'{of} implements the unknown hook '{name}'",
            where=where,
            fix=did_you_mean(name, known),
        )


def _load_entry_point(entry: EntryPoint) -> Plugin:
    dist = entry.distribution
    origin = f"{dist.name} {dist.version}"
    try:
        module = importlib.import_module(entry.value.partition(":")[0])
    except Exception as error:
        raise PluginError(
            f"plugin '{entry.name}' of {origin} fails on import: {type(error).__name__}: {error}",
            where=f"entry point {GROUP}.{entry.name} = {entry.value}",
            fix=f"repair or uninstall it: pip uninstall {dist.name}",
        ) from error
    return Plugin(entry.name, module, origin)


def _load_file(path: Path) -> Plugin:
    """Load a plugin file that lies beside a recipe, under a module name of its own."""
    name = f"{FILE_MODULE}{path.stem}_{blake3(str(path).encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError(
                "a plugin file must be a Python file", where=shown(path), fix="name a .py file"
            )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except FineryError:
            del sys.modules[name]
            raise
        except Exception as error:
            del sys.modules[name]
            text = error.msg if isinstance(error, SyntaxError) else error
            raise PluginError(
                f"plugin file fails on import: {type(error).__name__}: {text}",
                where=_raised_at(error, path),
                fix="repair it",
            ) from error
    return Plugin(path.stem, sys.modules[name], shown(path), path)


def _raised_at(error: Exception, path: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{shown(Path(error.filename or path))}:{error.lineno}:{error.offset}"
    line, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{shown(path)}:{line}"


def resolve(reference: Any, what: str, plugin: Plugin) -> Any:
    """The object that a plugin's table names: itself, or `"module:Name"`."""
    try:
        return load_reference(reference)
    except FineryError:
        raise
    except Exception as error:
        raise PluginError(
            f"{what} of plugin '{plugin.name}' ({plugin.origin}) can't be loaded from "
            f"'{reference}': {type(error).__name__}: {error}",
            fix="install the extra it needs, or repair the plugin",
        ) from error
