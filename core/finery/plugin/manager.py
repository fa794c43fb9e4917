"""The plugins of this process, and what they provide by name.

Imports little: `finery --help` loads all plugins for their commands, but no step types.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from finery import builtin
from finery.errors import FineryError, PluginError, raised_as
from finery.plugin import hookspecs as hooks
from finery.plugin.discovery import (
    GROUP,
    BrokenPlugin,
    Plugin,
    acts_in_builds,
    in_words,
    load_entry_point,
    load_file,
    origin_of,
    register,
    surviving,
)
from finery.plugin.guards import GuardedContext, failing_in_words, guard_hooks, hook_failure
from finery.plugin.hookspecs import hookimpl
from finery.util.installed import ENTRY_POINTS_VARIABLE, EntryPoint, entry_points, version_of
from finery.util.paths import shown
from finery.util.references import load_reference
from finery.util.text import did_you_mean, suggest_nearest

if TYPE_CHECKING:
    from finery.inference.engine import Engine
    from finery.plugin.notes import About
    from finery.recipe.matrix.sample import Sampler
    from finery.step.step import Step
    from finery.views.view import View

INDEX_FILE = Path(__file__).with_name("index.txt")
"""Lines with the prefix of others' step types, and the distribution that has them."""
Table = dict[str, tuple[Any, Plugin]]
"""Name → (an object or `"module:Name"`, the plugin that provides it)."""


class HookFailure(NamedTuple):
    """How a hook failed. is_used: whether the recipe uses its plugin."""

    error: FineryError
    is_used: bool


class Builtin:
    """What finery itself provides through the hooks of plugins."""

    @staticmethod
    @hookimpl
    def finery_commands() -> Mapping[str, str]:
        """The commands."""
        return builtin.COMMANDS

    @staticmethod
    @hookimpl
    def finery_executors() -> Mapping[str, str]:
        """The executor for this machine."""
        return builtin.EXECUTORS

    @staticmethod
    @hookimpl
    def finery_notes() -> "Mapping[str, About]":
        """The notes that need no plugin."""
        from finery.plugin.notes import OWN_NOTES

        return OWN_NOTES


class Plugins:
    """All plugins of this process, and the step types, engines and commands they provide.

    hook: the hooks, to call. plugins: the working ones, except finery's own. broken: all others.
    are_broken_reported: whether the user was told about the broken ones. hook_failures: plugin →
    how the first of its hooks failed, of those that don't end a build.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hooks)
        self.hook: Any = self.manager.hook
        self.plugins: list[Plugin] = []
        self.broken: list[BrokenPlugin] = []
        self.are_broken_reported = False
        self.hook_failures: dict[str, HookFailure] = {}
        self._used_prefixes: set[str] = set()
        self.step_types: Table = {}
        self.engines: Table = {}
        self.commands: Table = {}
        self.executors: Table = {}
        self._tables: dict[str, Table] = {
            "finery_steps": self.step_types,
            "finery_engines": self.engines,
            "finery_commands": self.commands,
            "finery_executors": self.executors,
        }
        self._own = Plugin("finery", builtin, f"finery {version_of('finery')}", is_own=True)
        self.manager.register(Builtin, name=self._own.name)
        self._take(self._own, self._provided(self._own))

    # -- loading ---------------------------------------------------------------------------------

    def add(self, source: EntryPoint | Path) -> None:
        """Load an installed plugin or a file next to a recipe, or add it to the broken ones."""
        taken_names: frozenset[str] = frozenset()
        try:
            plugin = load_file(source) if isinstance(source, Path) else load_entry_point(source)
            register(self.manager, plugin)
            try:
                if not plugin.is_own:
                    guard_hooks(self.manager, plugin, lambda: self.notes, self._report)
                tables = self._provided(plugin)
                taken_names = self._taken_names(tables)
                self._take(plugin, tables)
            except FineryError:
                self.manager.unregister(plugin.module)
                raise
        except FineryError as error:
            if isinstance(source, Path):
                broken = BrokenPlugin(source.stem, shown(source), error, is_vital=True)
            else:
                is_vital = not taken_names and acts_in_builds(source)
                origin = origin_of(source)
                broken = BrokenPlugin(source.name, origin, error, is_vital, taken_names)
            self.broken.append(broken)
        else:
            self.plugins.append(plugin)

    def _taken_names(self, tables: Mapping[str, Table]) -> frozenset[str]:
        """The names in a plugin's tables that another plugin has, but for those of finery's own.

        It is unclear which of the two is meant.
        """
        return frozenset(
            name for hook, table in tables.items() for name in table
            if name in self._tables[hook] and not self._tables[hook][name][1].is_own
        )  # fmt: skip

    def _report(self, plugin: Plugin, hook: str, error: FineryError) -> None:
        """Keep the first failure of a plugin's hook, or raise it where the recipe can be blamed."""
        is_used = plugin.path is not None or plugin.name in self._used_prefixes
        if is_used and hook == "finery_checks":
            raise error
        self.hook_failures.setdefault(plugin.name, HookFailure(error, is_used))

    def _provided(self, plugin: Plugin) -> dict[str, Table]:
        """What a plugin provides by name, for each hook."""
        return {hook: self._table(hook, plugin) for hook in self._tables}

    def _take(self, plugin: Plugin, tables: Mapping[str, Table]) -> None:
        """Add what a plugin provides: all of it, or nothing if a name is taken."""
        for hook, table in tables.items():
            _check_new(table, self._tables[hook], plugin)
        for hook, table in tables.items():
            self._tables[hook] |= table

    def _table(self, hook: str, plugin: Plugin) -> Table:
        """The values that a plugin's implementations of a hook return."""
        table: Table = {}
        for call in getattr(self.hook, hook).get_hookimpls():
            if call.plugin_name == plugin.name:
                for name, reference in _mapping(hook, call.function, plugin).items():
                    table[name] = (reference, plugin)
        return table

    @cached_property
    def notes(self) -> Table:
        """Kind of note → (when and why it is given, plugin)."""
        return self._lazily("finery_notes")

    @cached_property
    def views(self) -> Table:
        """Kind of artifact, or `kind/format` → (a `View`'s class or "module:Class", plugin)."""
        return self._lazily("finery_views")

    @cached_property
    def _samplers(self) -> Table:
        return self._lazily("finery_samplers")

    @property
    def sampler_names(self) -> set[str]:
        """Names of what can draw the variants of a matrix."""
        return {*self._samplers}

    def sampler(self, name: str) -> "Sampler":
        """A sampler by its name; imports its module."""
        reference, plugin = self._samplers[name]
        drawing: Sampler = resolve(reference, f"sampler '{name}'", plugin)
        return drawing

    @property
    def chooser(self) -> str:
        """The step type that chooses a variant of a matrix. `PluginError` if there is none."""
        name: str | None = self.hook.finery_chooser()
        if name is None:
            raise PluginError(
                "no plugin provides a step type that chooses a variant for `select`",
                fix="install a plugin with the hook finery_chooser",
                details=[plugin.error.what for plugin in self.broken],
            )
        return name

    @cached_property
    def servers(self) -> Table:
        """Format of a model or bundle → (a function or "module:function", plugin)."""
        return self._lazily("finery_servers")

    def _lazily(self, hook: str) -> Table:
        """A table that is read on first use: most commands don't need it.

        So its errors only stop the commands that do. A plugin that the recipe doesn't use is left
        out with a warning.
        """
        table: Table = {}
        for plugin in (self._own, *self.plugins):
            try:
                provided = self._table(hook, plugin)
                _check_new(provided, table, plugin)
                if hook == "finery_notes":
                    _check_notes(provided, plugin)
            except FineryError as error:
                if plugin.is_own or plugin.path or plugin.name in self._used_prefixes:
                    raise
                self.hook_failures.setdefault(plugin.name, HookFailure(error, is_used=False))
                continue
            table |= provided
        return table

    @property
    def note_names(self) -> set[str]:
        """Names of all notes that plugins may give: recipes silence them by name."""
        return {*self.notes}

    # -- broken plugins --------------------------------------------------------------------------

    def raise_broken(self, uses: Iterable[str]) -> None:
        """Raise the error of a broken plugin that a recipe needs.

        uses: the step types of the recipe. A plugin that provides none of them can be skipped,
        unless it acts on every step.
        """
        uses = {*uses}
        self._used_prefixes |= {use.partition(".")[0] for use in uses}
        for plugin in self.broken:
            if (
                plugin.is_vital
                or plugin.name in self._used_prefixes
                or not plugin.taken_names.isdisjoint(uses)
            ):
                self.are_broken_reported = True
                raise plugin.error

    # -- use -------------------------------------------------------------------------------------

    def step_type(self, name: str) -> "type[Step]":
        """The class of a step type; imports its module. `PluginError` if there is none."""
        if name not in self.step_types:
            raise PluginError(f"unknown step type '{name}'", fix=self.suggest(name))
        reference, plugin = self.step_types[name]
        cls: type[Step] = resolve(reference, f"step type '{name}'", plugin)
        if "__finery_use__" not in vars(cls):
            from finery.step.methods import OF_STEPS, check_methods
            from finery.step.step import check_contract

            check_contract(cls, name)
            type.__setattr__(cls, "__finery_use__", name)
            check_methods(cls, OF_STEPS)
        return cls

    def versions(self, uses: Iterable[str]) -> dict[str, str]:
        """Distribution → version, of the plugins of others that provide these step types."""
        names = {self.step_types[use][1].name for use in uses if use in self.step_types}
        used = (e.distribution for e in entry_points(GROUP) if e.name in names and not e.is_own)
        return {each.name: each.version for each in used}

    def suggest(self, name: str) -> str:
        """A fix for an unknown step type."""
        prefix = name.partition(".")[0]
        if prefix not in {p.name for p in self.plugins}:
            meant = suggest_nearest(name, self.step_types)
            missing = f"install the plugin with '{prefix}.*' (`finery plugins` lists yours)"
            for line in INDEX_FILE.read_text(encoding="utf-8").splitlines():
                if line.startswith(f"{prefix} "):
                    missing = f"pip install {line.partition(' ')[2].strip()}"
            return f"{meant} or {missing}" if meant else missing
        return did_you_mean(name, self.step_types) or "run `finery plugins`"

    def engine(self, model_format: str) -> "type[Engine]":
        """The engine's class for a model format; imports its module."""
        if model_format not in self.engines:
            there = ", ".join(sorted(self.engines))
            raise PluginError(
                f"no engine answers prompts with a model of format '{model_format}'",
                fix=f"install a plugin with one. There are engines for: {there}",
                details=[plugin.error.what for plugin in self.broken],
            )
        reference, plugin = self.engines[model_format]
        self._refuse_taken(model_format)
        from finery.inference.engine import Engine
        from finery.step.methods import OF_ENGINES

        subject = f"engine '{model_format}'"
        cls: type[Engine] = _checked_class(reference, subject, plugin, Engine, OF_ENGINES)
        return cls

    def _refuse_taken(self, name: str) -> None:
        for plugin in self.broken:
            if name in plugin.taken_names:
                raise plugin.error

    def server(self, artifact_format: str) -> Any:
        """The function that serves models or bundles of a format; None if no plugin has one.

        It returns a context manager. Of a plugin of others, its errors name the plugin.
        """
        if artifact_format not in self.servers:
            return None
        reference, plugin = self.servers[artifact_format]
        subject = f"server '{artifact_format}'"
        serve: Any = resolve(reference, subject, plugin)
        if plugin.is_own:
            return serve

        @wraps(serve)
        def guarded(*arguments: Any) -> GuardedContext:
            return GuardedContext(lambda: serve(*arguments), subject, plugin)

        return guarded

    def copy_completer(self, artifact_format: str) -> Any:
        """The function that completes copies of a format; None if no plugin has one.

        It returns the lines for the user.
        """
        functions = self._lazily("finery_copies")
        if artifact_format not in functions:
            return None
        reference, plugin = functions[artifact_format]
        subject = f"function for copies of '{artifact_format}'"
        complete: Any = resolve(reference, subject, plugin)

        def guarded(*arguments: Any) -> list[str]:
            with failing_in_words(subject, plugin):
                return [str(line) for line in complete(*arguments)]

        return guarded

    def view(self, kind: str, artifact_format: str = "") -> "View":
        """The most specific view for artifacts of a kind and format.

        Raises `PluginError` if a plugin's view can't be loaded, or is not a `View`.
        """
        from finery.step.methods import OF_VIEWS
        from finery.views.view import View  # only where something is shown

        name = next((n for n in (f"{kind}/{artifact_format}", kind) if n in self.views), None)
        if name is None:
            return View()
        reference, plugin = self.views[name]
        view: View = _checked_class(reference, f"view '{name}'", plugin, View, OF_VIEWS)()
        return view

    def worker_environment(self, use: str, *, alone: bool, here: bool) -> dict[str, str]:
        """Environment variables that plugins add to a new worker. Later plugins win."""
        environment: dict[str, str] = {}
        facts = {"use": use, "alone": alone, "here": here}
        for variables in reversed(self.hook.finery_worker_environment(**facts)):
            environment |= variables
        return environment


def _checked_class(
    reference: Any,
    subject: str,
    plugin: Plugin,
    base: type,
    problems: Mapping[str, Callable[[Any], str]],
) -> Any:
    """A class that a plugin's table names, with methods that fail in words, see `check_methods`."""
    from finery.step.methods import check_methods

    cls = resolve(reference, subject, plugin)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        article = "an" if base.__name__.startswith("E") else "a"
        raise PluginError(
            f"{subject} of {plugin.title} is not {article} {base.__name__}: {cls!r}",
            fix=f"subclass finery's {base.__name__}",
        )
    check_methods(cls, problems)
    return cls


def _check_new(table: Table, known: Table, plugin: Plugin) -> None:
    for name in table.keys() & known.keys():
        first = known[name][1]
        raise PluginError(
            f"'{name}' is provided twice: by plugin '{first.name}' ({first.origin}) "
            f"and by plugin '{plugin.name}' ({plugin.origin})",
            fix="rename one, or uninstall its plugin",
        )


def _check_notes(table: Table, plugin: Plugin) -> None:
    from finery.plugin.notes import About

    for name, (about, _) in table.items():
        if not isinstance(about, About):
            problem = f"returns {about!r:.60} for '{name}', which isn't a finery.advanced.About"
            raise hook_failure("finery_notes", plugin, problem)


def _mapping(hook: str, provide: Any, plugin: Plugin) -> Mapping[str, Any]:
    """The value that an implementation of a hook returns, which must be a mapping."""
    try:
        with surviving(plugin.title):
            table = provide()
    except Exception as error:
        raise hook_failure(hook, plugin, error) from error
    if not isinstance(table, Mapping):
        problem = f"must return a mapping of names to references, but returns {table!r:.60}"
        raise hook_failure(hook, plugin, problem)
    return table


_loaded: dict[tuple[tuple[Path, ...], frozenset[str] | None], Plugins] = {}


def load_plugins(local: tuple[Path, ...] = (), only: Collection[str] | None = None) -> Plugins:
    """Load all installed plugins and the `local` plugin files, once per process and set of files.

    only: the entry points to load, besides finery's own; by default, in a worker, those that are in
    its step's key, and elsewhere all. Broken plugins don't raise here, see `Plugins.broken`.
    """
    if only is None and ENTRY_POINTS_VARIABLE in os.environ:
        only = os.environ[ENTRY_POINTS_VARIABLE].split()
    key = local, None if only is None else frozenset(only)
    if key not in _loaded:
        plugins = Plugins()
        installed = [e for e in entry_points(GROUP) if only is None or e.is_own or e.name in only]
        installed.sort(key=lambda entry: not entry.is_own)  # nobody takes a name of finery's own
        sources: list[EntryPoint | Path] = [*installed, *local]
        for source in sources:
            plugins.add(source)
        _loaded[key] = plugins
    return _loaded[key]


def left_out() -> list[BrokenPlugin]:
    """Broken plugins of this process that weren't reported yet."""
    plugins = [p for (_, only), p in _loaded.items() if only is None and not p.are_broken_reported]
    return list({plugin.name: plugin for p in plugins for plugin in p.broken}.values())


def hook_failures() -> list[HookFailure]:
    """The failures of hooks in this process that didn't end its command."""
    return [failure for plugins in _loaded.values() for failure in plugins.hook_failures.values()]


def resolve(reference: Any, what: str, plugin: Plugin) -> Any:
    """The object that a plugin's table names: itself, or `"module:Name"`."""

    def explain(error: Exception) -> PluginError:
        return PluginError(
            f"{what} of plugin '{plugin.name}' ({plugin.origin}) can't be loaded from "
            f"'{reference}': {in_words(error)}",
            fix="install the extra that it needs, or repair the plugin",
        )

    with raised_as(explain), surviving(plugin.title):
        return load_reference(reference)
