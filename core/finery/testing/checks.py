"""Cheap checks of what plugins provide: descriptions, help texts, and references that load."""

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType
from typing import Any, NamedTuple

import click

from finery import API
from finery.errors import FineryError
from finery.fields import Settings
from finery.inference.engine import Engine
from finery.plugin.discovery import Plugin
from finery.plugin.manager import Plugins, resolve
from finery.plugin.notes import About
from finery.step.inspect import field_hints, full_name
from finery.step.step import Step, is_overridden
from finery.testing.imports import (
    HEAVY_FIX,
    REQUIRE_FIX,
    problems_of_loading,
    problems_of_requirements,
)
from finery.views.view import View, metrics_of

EXECUTOR_METHODS = ("has_room", "start", "poll", "close")
DETACHED_METHODS = ("left", "how_to_cancel", "cancel")
"""With one of them, an executor says that its jobs outlive a build, and needs the others."""


class Problem(NamedTuple):
    """A fault of something that a plugin provides, and its fix."""

    subject: str
    what: str
    fix: str = ""


def problems_of_plugins(
    plugins: Plugins, checked: Iterable[Plugin]
) -> list[tuple[Plugin, Problem]]:
    """Everything that is wrong with the plugins `checked`."""
    names = {plugin.name for plugin in checked}
    problems: list[tuple[Plugin, Problem]] = []
    modules: dict[str, tuple[Plugin, str]] = {}

    def load(plugin: Plugin, module: str, subject: str) -> None:
        name = module if plugin.path is None else str(plugin.path)
        modules.setdefault(name, (plugin, subject))

    for plugin in plugins.plugins:
        if plugin.name in names:
            load(plugin, plugin.module.__name__, "its module")
            if not _text(plugin.module):
                fix = "say in one line what the plugin is for"
                problems.append((plugin, Problem("its module", "has no docstring", fix)))
            if not (plugin.is_own or plugin.path or plugin.apis):
                what = "doesn't say for which API of finery the plugin is"
                entry = f'{plugin.name} = "{plugin.module.__name__} [api-{API}]"'
                problems.append((plugin, Problem("its entry point", what, f"write {entry}")))
            faults = problems_of_requirements(plugin.module.__name__)
            problems += [(plugin, Problem("its metadata", fault, REQUIRE_FIX)) for fault in faults]
    tables: Mapping[str, Mapping[str, tuple[Any, Plugin]]] = {
        "step type": plugins.step_types,
        "engine": plugins.engines,
        "command": plugins.commands,
        "executor": plugins.executors,
        "view": plugins.views,
        "note": plugins.notes,
    }
    provided = [(kind, name, *of) for kind, table in tables.items() for name, of in table.items()]
    for kind, name, reference, plugin in provided:
        if plugin.name not in names:
            continue
        subject = f"{kind} '{name}'"
        try:
            if kind == "step type":
                own = [*_misnamed(name, plugin, plugins)]
                own += problems_of_step(plugins.step_type(name), subject)
            else:
                own = [*_CHECKS[kind](resolve(reference, subject, plugin), subject)]
        except FineryError as error:
            owner = f"{subject} of plugin '{plugin.name}' ({plugin.origin}) "
            what = error.what.removeprefix(f"{subject}: ").removeprefix(owner)
            own = [Problem(subject, what, error.fix or "")]
        problems += [(plugin, problem) for problem in own]
        if not own and isinstance(reference, str):
            load(plugin, reference.partition(":")[0], subject)
    for module, what in problems_of_loading(modules):
        plugin, subject = modules[module]
        name = module if plugin.path is None else plugin.origin
        problems.append((plugin, Problem(subject, f"{name} {what}", HEAVY_FIX)))
    return problems


def _misnamed(name: str, plugin: Plugin, plugins: Plugins) -> Iterator[Problem]:
    """A step type without the prefix of its plugin, or of another one of the same package."""
    prefix, _, last = name.rpartition(".")
    if prefix not in {other.name for other in plugins.plugins if other.origin == plugin.origin}:
        fix = f"name it {plugin.name}.{last}"
        yield Problem(f"step type '{name}'", "isn't named after its plugin", fix)


def problems_of_step(cls: type[Step], subject: str) -> Iterator[Problem]:
    """Faults of a step type's class, beyond those that prevent loading it."""
    for path in _without_help(cls):
        yield Problem(subject, f"setting '{path}' has no help", 'setting(…, help="…")')
    try:
        metrics_of(cls)
    except FineryError as error:
        yield Problem(subject, error.what, error.fix or "")
    missing = [*_missing_methods(cls, Step)]
    if is_overridden(cls, "floating_name") and not is_overridden(cls, "pin_name"):
        missing.append("pin_name")
    yield from _problems_of_missing(missing, cls, subject)


def _missing_methods(cls: type, base: type) -> Iterator[str]:
    """The methods that `cls` calls and lacks, which a class between it and `base` leaves to it.

    There, they only raise `NotImplementedError`. Those of `base` itself are optional.
    """
    methods: dict[str, Any] = {name: getattr(cls, name, None) for name in dir(cls)}
    methods = {name: inspect.unwrap(method) for name, method in methods.items()}
    codes = {name: m.__code__ for name, m in methods.items() if hasattr(m, "__code__")}
    called = {name for code in codes.values() for name in _names_in(code)}
    for name, code in codes.items():
        if code.co_names == ("NotImplementedError",) and name in called and not hasattr(base, name):
            yield name


def _names_in(code: CodeType) -> Iterator[str]:
    """The names in a function and in those inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)


def _problems_of_missing(methods: Iterable[str], cls: type, subject: str) -> Iterator[Problem]:
    for method in methods:
        yield Problem(subject, f"{full_name(cls)} has no method `{method}`", f"define {method}")


def problems_of_engine(cls: Any, subject: str) -> Iterator[Problem]:
    """Faults of an engine's class."""
    if not (isinstance(cls, type) and issubclass(cls, Engine)):
        yield Problem(subject, f"{full_name(cls)} isn't an Engine", "subclass finery.Engine")
        return
    if cls.generate is Engine.generate and cls.stream is Engine.stream:
        yield Problem(subject, f"{full_name(cls)} answers nothing", "give it a method `generate`")
    yield from _problems_of_missing(_missing_methods(cls, Engine), cls, subject)
    yield from _undocumented(cls, subject)


def problems_of_executor(cls: Any, subject: str) -> Iterator[Problem]:
    """Faults of an executor's class."""
    is_detached = any(hasattr(cls, method) for method in DETACHED_METHODS)
    methods = (*EXECUTOR_METHODS, *(DETACHED_METHODS if is_detached else ()))
    missing = [method for method in methods if not callable(getattr(cls, method, None))]
    missing += _missing_methods(cls, object)
    yield from _problems_of_missing(missing, cls, subject)
    yield from _undocumented(cls, subject)


def _problems_of_command(command: Any, subject: str) -> Iterator[Problem]:
    if not isinstance(command, click.Command):
        yield Problem(subject, f"{full_name(command)} isn't a click command", "@click.command()")
        return
    commands = command.commands if isinstance(command, click.Group) else {"": command}
    for name, inner in {**commands, "": command}.items():
        if not (inner.help or "").strip():
            yield Problem(subject, f"{name or 'it'} has no help", "give its function a docstring")
        for option in inner.params:
            if isinstance(option, click.Option) and not option.help:
                yield Problem(subject, f"option {option.opts[-1]} has no help", 'help="…"')


def _problems_of_view(cls: Any, subject: str) -> Iterator[Problem]:
    if not (isinstance(cls, type) and issubclass(cls, View)):
        yield Problem(subject, f"{full_name(cls)} isn't a View", "subclass finery.views.View")


def _problems_of_note(note: Any, subject: str) -> Iterator[Problem]:
    if not isinstance(note, About) or not (note.when and note.why):
        yield Problem(subject, "doesn't say when it is given and why", "About(when=…, why=…)")


_CHECKS: Mapping[str, Callable[[Any, str], Iterator[Problem]]] = {
    "engine": problems_of_engine,
    "command": _problems_of_command,
    "executor": problems_of_executor,
    "view": _problems_of_view,
    "note": _problems_of_note,
}


def _without_help(cls: type[Settings], prefix: str = "") -> Iterator[str]:
    """Settings inside groups of settings that have no help; `check_contract` sees the others."""
    for field, hint in field_hints(cls).items():
        if prefix and field in cls.__finery_fields__ and not cls.__finery_fields__[field].help:
            yield f"{prefix}{field}"
        for group in groups_in(hint):
            if group is not cls:
                yield from _without_help(group, f"{prefix}{field}.")


def groups_in(hint: Any) -> Iterator[type[Settings]]:
    """The classes of settings in a type, e.g. `Lora` of `Lora | None`."""
    if isinstance(hint, type) and issubclass(hint, Settings):
        if not issubclass(hint, Step):
            yield hint
        return
    for part in typing.get_args(hint):
        yield from groups_in(part)


def _undocumented(cls: Any, subject: str) -> Iterator[Problem]:
    if not _text(cls):
        yield Problem(subject, f"{full_name(cls)} has no docstring", "say in one line what it does")


def _text(thing: Any) -> str:
    """The docstring of a class or module itself, not an inherited one."""
    return str(vars(thing).get("__doc__") or "").strip()
