"""Which executor runs which step, by `executors` in finery.toml."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import msgspec

from finery.artifact.manifest import Manifest
from finery.config import NAMES, Setting, check_executor, misfit
from finery.errors import FineryError, PluginError, UsageError
from finery.execute.executor import Closing, Detached, Executor, Need, Report, Task, TaskEvent
from finery.execute.job import CLOSING_EVENTS, JobFolder
from finery.plugin.discovery import in_words
from finery.plugin.guards import failing_in_words, hook_failure
from finery.plugin.manager import Plugins, resolve
from finery.recipe.document import Recipe
from finery.step.inspect import SECTIONS
from finery.step.methods import check_methods, problem_of_texts, problem_of_type
from finery.store.database import Store
from finery.store.uses import JOB
from finery.util.paths import plain_path
from finery.util.text import did_you_mean, suggest_nearest

DEFAULT_ROUTE, LOCAL_EXECUTOR, EXECUTOR_OPTION = "default", "local", "--executor"
POLL_SECONDS = 0.05
"""Seconds for which one executor of several may wait for an event."""


class Router:
    """An executor over several, each made when the first step needs it.

    jobs: for each executor. settings: those in force; an executor gets the table with its name.
    """

    def __init__(
        self, settings: Iterable[Setting], store: Path, jobs: int | None, option: str | None = None
    ) -> None:
        """store: its folder. option: the executor that `--executor` names."""
        self._settings = {setting.name: setting for setting in settings}
        self._store = store
        self._jobs = jobs
        self._plugins: Plugins | None = None
        routes = self._settings["executors"]
        self._routes = {DEFAULT_ROUTE: LOCAL_EXECUTOR, **routes.value}
        self._origins = dict.fromkeys(routes.value, routes.origin)
        if option is not None:
            self._routes[DEFAULT_ROUTE], self._origins[DEFAULT_ROUTE] = option, EXECUTOR_OPTION
        self._executors: dict[str, Executor] = {}
        self._names: dict[tuple[str, str], str] = {}  # (key, step) → executor
        self._running: dict[str, str] = {}  # step → executor
        # It starts a worker while plugins are loaded.
        if self._routes[DEFAULT_ROUTE] == LOCAL_EXECUTOR:
            self._executor(LOCAL_EXECUTOR)

    def use(self, plugins: Plugins, needs: Iterable[Need]) -> None:
        """Make the executors for some steps. Raises `UsageError` for a wrong name or option."""
        self._plugins = plugins
        for route, name in self._routes.items():
            check_executor(name, self._origins.get(route, DEFAULT_ROUTE), plugins.executors)
        for name in self._settings.keys() - NAMES:
            check_executor(name, self._settings[name].origin, plugins.executors)
        if LOCAL_EXECUTOR in self._settings:
            raise _options_error(self._settings[LOCAL_EXECUTOR])
        for name in {self.name_for(need) for need in needs}:
            self._executor(name)

    def name_for(self, need: Need) -> str:
        """The executor for a step: the one that has a job for its key, or by `executors`."""
        place = need.key, need.step
        if place not in self._names:
            folder = JobFolder(self._store / "work" / f"{need.key}{JOB}")
            about = folder.about() if need.key else None
            configured = executor_for(self._routes, need.step, need.origin, need.use, need.section)
            self._names[place] = about.executor if about is not None else configured
        return self._names[place]

    def _executor(self, name: str) -> Executor:
        if name not in self._executors:
            if name == LOCAL_EXECUTOR and self._plugins is None:
                from finery.execute.local import LocalExecutor

                self._executors[name] = LocalExecutor(self._jobs)
                return self._executors[name]
            assert self._plugins is not None
            check_executor(name, f"a job in {self._store / 'work'}", self._plugins.executors)
            cls, options = _class_of(name, self._settings, self._plugins)
            arguments = [self._jobs] if options is None else [self._jobs, options]
            try:
                with failing_in_words(f"executor '{name}'", self._plugins.executors[name][1]):
                    self._executors[name] = cls(*arguments)
            except UsageError as error:  # a setting is missing, for example
                routes = (route for route, executor in self._routes.items() if executor == name)
                error.where = error.where or next(map(self._origins.get, routes), None)
                raise
        return self._executors[name]

    # -- the contract of executors -----------------------------------------------------------------

    def has_room(self, need: Need) -> bool:
        """Whether the step's executor has room for it."""
        return self._executor(self.name_for(need)).has_room(need)

    def start(self, task: Task) -> None:
        """Start a task on its executor."""
        self._running[task.step] = self.name_for(task)
        self._executor(self._running[task.step]).start(task)

    def poll(self, timeout: float) -> Iterator[tuple[Task, TaskEvent]]:
        """Events of all executors, waiting up to `timeout` seconds for the first."""
        deadline = time.monotonic() + timeout
        while True:
            busy = {*self._running.values()} or self._executors.keys()
            any_event = False
            for name in busy:
                remaining = max(0.0, deadline - time.monotonic())
                wait = (
                    remaining
                    if len(busy) == 1
                    else 0.0
                    if any_event
                    else min(POLL_SECONDS, remaining)
                )
                for task, event in self._executors[name].poll(wait):
                    any_event = True
                    if task.step not in self._running:
                        problem = f"an event of step '{task.step}', which doesn't run"
                        fix = "report its end once, and last"
                        raise PluginError(f"executor '{name}' yields {problem}", fix=fix)
                    if event["event"] in CLOSING_EVENTS:
                        self._running.pop(task.step, None)
                    yield task, event
            if any_event or time.monotonic() >= deadline or not busy:
                return

    def close(self) -> None:
        """Close all executors."""
        for executor in self._executors.values():
            executor.close()

    def left(self) -> list[str]:
        """The jobs that continue."""
        return [job for executor in self._detached_executors() for job in executor.left()]

    def how_to_cancel(self) -> str:
        """The commands that cancel them."""
        return "; ".join(e.how_to_cancel() for e in self._detached_executors() if e.left())

    def cancel(self) -> None:
        """Cancel them."""
        for executor in self._detached_executors():
            executor.cancel()

    def _detached_executors(self) -> list[Detached]:
        return [e for e in self._executors.values() if isinstance(e, Detached)]


def executor_for(routes: Mapping[str, str], *names: str) -> str:
    """The executor for a step, by the first of its names (see `Need`) that has a route."""
    return next(
        (routes[name] for name in (*names, DEFAULT_ROUTE) if name in routes), LOCAL_EXECUTOR
    )


def check_executors(
    settings: Iterable[Setting],
    plugins: Plugins,
    recipe: Recipe,
    other_recipes: Iterable[Path] = (),
) -> None:
    """Check `executors` and the tables of executors, also of those that no step uses.

    other_recipes: those that may share the settings. Raises `UsageError`, and warns of a name that
    is in no recipe: it may be of one that isn't here.
    """
    by_name = {setting.name: setting for setting in settings}
    routes = by_name["executors"]
    for name in routes.value.values():
        check_executor(name, routes.origin, plugins.executors)
    for name in by_name.keys() - NAMES:
        check_executor(name, by_name[name].origin, plugins.executors)
        _class_of(name, by_name, plugins)
    types = [DEFAULT_ROUTE, *SECTIONS, *plugins.step_types]
    sections = (recipe.data.get(section) for section in SECTIONS)
    steps = [str(step) for section in sections if isinstance(section, dict) for step in section]
    parent = plain_path(recipe.folder).parent
    nearby = (*recipe.folder.glob("*.yaml"), *parent.glob("*/recipe.yaml"))
    for word in routes.value.keys() - {*types, *steps}:
        key = re.compile(rf"^[^#]*\b{re.escape(word.partition('@')[0])}['\"]?\s*:", re.MULTILINE)
        files = (path for path in (*other_recipes, *nearby) if path.is_file())
        if any(key.search(path.read_text("utf-8", "replace")) for path in files):
            continue
        problem = f"executors: there is no section, step type or step '{word}'"
        if fix := suggest_nearest(word, types):
            raise UsageError(problem, where=routes.origin, fix=fix)
        suggestion = suggest_nearest(word, steps)
        print(
            f"warning: {routes.origin}: {problem}{(suggestion and f'; {suggestion}') or ''}",
            file=sys.stderr,
        )


def _problem_of_event(pair: Any) -> str:
    """What is wrong with an item of `poll`; empty if nothing is."""
    try:
        task, event = pair
        if not isinstance(task, Task):
            raise TypeError("the first isn't a Task")
        msgspec.convert(event, EVENT_TYPES[event["event"]])
        if event["event"] == "done":
            msgspec.convert(event["outputs"], dict[str, Manifest])
        elif event["event"] == "failed":
            FineryError.from_dict(event["error"])
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        shown = pair[-1] if isinstance(pair, tuple) else pair  # a task has secrets
        return f"{shown!r:.60}, which isn't a task with one of its events: {in_words(error)}"
    return ""


OF_EXECUTORS: Mapping[str, Callable[[Any], str]] = {
    "has_room": problem_of_type("True or False", bool),
    "start": lambda returned: "",
    "poll": _problem_of_event,
    "close": lambda returned: "",
    "left": problem_of_texts,
    "how_to_cancel": problem_of_type("a text", str),
    "cancel": lambda returned: "",
    "submit": problem_of_texts,
    "states": problem_of_type("a mapping of ids to states", Mapping),
    "end": lambda returned: "",
    "cancel_words": problem_of_type("a text", str),
    "follow": lambda returned: "",
    "last_words": problem_of_type("a text", str),
}
"""Method → what is wrong with what it returned, see `check_methods`."""
REQUIRED_METHODS = ("has_room", "start", "poll", "close")
"""The others are those of executors whose jobs continue without the build, and of their base."""
EVENT_TYPES: Mapping[str, Any] = {
    get_args(get_type_hints(kind)["event"])[0]: kind
    for kind in (*get_args(Report), *get_args(Closing))
}
"""Event → what it must have."""


class EarlierJob(NamedTuple):
    """A job of an earlier build, as it is now.

    key, step, recipe: of its task; recipe is a folder. name: `slurm job 4`. outdated: why it can't
    give its result any more; empty if it can. is_over: whether it ended without one. cancel: the
    command that ends it, if it is known.
    """

    folder: JobFolder
    key: str
    name: str
    step: str = ""
    recipe: str = ""
    outdated: str = ""
    is_over: bool = False
    cancel: str = ""

    def __str__(self) -> str:
        words = f"step {self.step}: {self.name}" if self.step else self.name
        return f"{words}, which {self._refusal()}" if self.outdated else words

    def fate(self) -> str:
        """What the next build does with it."""
        name = f"{self.name} of an earlier build"
        return f"{name} {self._refusal()}" if self.outdated else f"continues with {name}"

    def _refusal(self) -> str:
        end = f"; to end it: {self.cancel}" if self.cancel and not self.is_over else ""
        return f"doesn't count: {self.outdated}{end}"


def earlier_jobs(
    store: Store, settings: Iterable[Setting], plugins: Plugins
) -> Iterator[EarlierJob]:
    """The jobs that no running build takes care of. One whose engine doesn't answer may run."""
    from finery.execute.detached import DetachedExecutor

    by_name = {setting.name: setting for setting in settings}
    for path in sorted((store.root / "work").glob(f"*{JOB}")):
        folder, key = JobFolder(path), path.name.removesuffix(JOB)
        about = folder.about()
        if about is None or not store.try_lock(key):
            continue
        job = EarlierJob(folder, key, f"{about.executor} job {about.id}", is_over=not about.id)
        try:
            with (
                suppress(FineryError, KeyError),
                failing_in_words("the executor", plugins.executors[about.executor][1]),
            ):
                cls, options = _class_of(about.executor, by_name, plugins)
                executor = cls(None) if options is None else cls(None, options)
                if about.id and isinstance(executor, DetachedExecutor):
                    job = job._replace(cancel=executor.cancel_words([about.id]))
                    job = job._replace(is_over=executor.is_over(folder, about))
            task = msgspec.json.decode((path / "task.json").read_bytes(), type=Task)
            outdated = folder.outdated(about)
            yield job._replace(step=task.step, recipe=task.recipe, outdated=outdated)
        except msgspec.DecodeError:
            yield job._replace(outdated="another version of finery submitted it")
        except OSError:  # a build has just removed it
            continue
        finally:
            store.unlock(key)


def _options_error(table: Setting) -> UsageError:
    return UsageError(
        f"executor '{table.name}' has no options",
        where=table.origin,
        fix=f"remove the table [{table.name}]",
    )


def _class_of(name: str, settings: Mapping[str, Setting], plugins: Plugins) -> tuple[Any, Any]:
    """The class of an executor, and its options; None if it has none."""
    reference, plugin = plugins.executors[name]
    subject = f"executor '{name}'"
    cls: Any = resolve(reference, subject, plugin)
    accepts: Any = getattr(cls, "Options", None)
    for method in REQUIRED_METHODS:
        if not isinstance(cls, type) or not hasattr(cls, method):
            problem = f"is {cls!r:.60}, which isn't a class with a method `{method}`"
            raise hook_failure(subject, plugin, problem)
    if accepts is not None and not hasattr(accepts, "__struct_fields__"):
        raise hook_failure(subject, plugin, "has `Options` that aren't a msgspec.Struct")
    table = settings.get(name)
    problems = {method: p for method, p in OF_EXECUTORS.items() if hasattr(cls, method)}
    check_methods(cls, problems, f"{subject} of {plugin.title}")
    if accepts is None:
        if table is not None:
            raise _options_error(table)
        return cls, None
    shared_settings = {n: settings[n].value for n in NAMES if n in accepts.__struct_fields__}
    return cls, _convert_options(accepts, name, table, shared_settings)


def _convert_options(
    accepts: Any, name: str, table: Setting | None, shared: Mapping[str, Any]
) -> Any:
    """An executor's table as its `Options`. shared: settings, unless the table has them."""
    if table is None:
        return accepts(**shared)
    fields = accepts.__struct_fields__
    for option in table.value:
        if option not in fields:
            raise UsageError(
                f"unknown option '{option}' of executor '{name}'",
                where=table.origin,
                fix=did_you_mean(option, fields) or f"one of: {', '.join(fields)}",
            )
    try:
        return msgspec.convert({**shared, **table.value}, accepts)
    except msgspec.ValidationError as error:
        problem = misfit(error, f"[{name}]")
        raise UsageError(problem, where=table.origin, fix="correct it") from None
