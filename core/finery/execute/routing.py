"""Which executor runs which step, by `executors` in finery.toml."""

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from finery.config import NAMES, Setting
from finery.errors import UsageError
from finery.execute.executor import Detached, Executor, Need, Task, TaskEvent
from finery.execute.job import CLOSING, JobFolder
from finery.plugin.manager import Plugins, resolve
from finery.store.uses import JOB
from finery.util.text import did_you_mean

DEFAULT, LOCAL, OPTION = "default", "local", "--executor"
SLICE = 0.05
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
        named = self._settings["executors"]
        self._routes = {DEFAULT: LOCAL, **named.value}
        self._origins = dict.fromkeys(named.value, named.origin)
        if option is not None:
            self._routes[DEFAULT], self._origins[DEFAULT] = option, OPTION
        self._executors: dict[str, Executor] = {}
        self._names: dict[tuple[str, str], str] = {}  # (key, step) → executor
        self._running: dict[str, str] = {}  # step → executor
        if self._routes[DEFAULT] == LOCAL:  # it starts a worker while plugins are loaded
            self._executor(LOCAL)

    def use(self, plugins: Plugins, needs: Iterable[Need]) -> None:
        """Make the executors for some steps. Raises `UsageError` for a wrong name or option."""
        self._plugins = plugins
        for route, name in self._routes.items():
            self._check_name(name, self._origins.get(route, DEFAULT))
        for name in self._settings.keys() - NAMES:
            self._check_name(name, self._settings[name].origin)
        if LOCAL in self._settings:
            raise self._no_options(LOCAL)
        for name in {self.name_for(need) for need in needs}:
            self._executor(name)

    def name_for(self, need: Need) -> str:
        """The executor for a step: the one that has a job for its key, or by `executors`."""
        place = need.key, need.step
        if place not in self._names:
            folder = JobFolder(self._store / "work" / f"{need.key}{JOB}")
            about = folder.about() if need.key else None
            named = (need.step, need.origin, need.use, need.section, DEFAULT)
            routed = next(self._routes[name] for name in named if name in self._routes)
            self._names[place] = about.executor if about is not None else routed
        return self._names[place]

    def _check_name(self, name: str, origin: str) -> None:
        assert self._plugins is not None
        names = [*self._plugins.executors]
        if name not in names:
            raise UsageError(
                f"executor '{name}' was not found",
                where=origin,
                fix=did_you_mean(name, names) or f"one of: {', '.join(names)}",
            )

    def _no_options(self, name: str) -> UsageError:
        return UsageError(
            f"executor '{name}' has no options",
            where=self._settings[name].origin,
            fix=f"remove the table [{name}]",
        )

    def _executor(self, name: str) -> Executor:
        if name not in self._executors:
            if name == LOCAL and self._plugins is None:
                from finery.execute.local import LocalExecutor

                self._executors[name] = LocalExecutor(self._jobs)
                return self._executors[name]
            assert self._plugins is not None
            self._check_name(name, f"a job in {self._store / 'work'}")
            reference, plugin = self._plugins.executors[name]
            cls: Any = resolve(reference, f"executor '{name}'", plugin)
            table, accepts = self._settings.get(name), getattr(cls, "Options", None)
            if accepts is None:
                if table is not None:
                    raise self._no_options(name)
                self._executors[name] = cls(self._jobs)
            else:
                own = {n: self._settings[n].value for n in NAMES if n in accepts.__struct_fields__}
                self._executors[name] = cls(self._jobs, _options(accepts, name, table, own))
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
                rest = max(0.0, deadline - time.monotonic())
                wait = rest if len(busy) == 1 else 0.0 if any_event else min(SLICE, rest)
                for task, event in self._executors[name].poll(wait):
                    any_event = True
                    if event["event"] in CLOSING:
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
        return [job for executor in self._detached() for job in executor.left()]

    def how_to_cancel(self) -> str:
        """The commands that cancel them."""
        return "; ".join(e.how_to_cancel() for e in self._detached() if e.left())

    def cancel(self) -> None:
        """Cancel them."""
        for executor in self._detached():
            executor.cancel()

    def _detached(self) -> list[Detached]:
        return [e for e in self._executors.values() if isinstance(e, Detached)]


def _options(accepts: Any, name: str, table: Setting | None, shared: Mapping[str, Any]) -> Any:
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
        raise UsageError(f"[{name}]: {error}", where=table.origin, fix="correct it") from None
