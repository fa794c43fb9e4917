"""A plugin file for the projects of contracts: it provides input artifacts, and can kill a build.

A project has a copy of this file next to its recipe. `given.artifact` turns what a step's author
made in Python into an artifact of the project. Every other step is wrapped. The wrapper counts
moments: files that the step opens for writing, and its reports to the job. It logs which others
the step read, unless they hold code. If `FINERY_TRIAL_KILL`
is a number, the build is killed at that moment. If the recipe passes `TRIAL_EXECUTED` to a step,
the functions that it executes are added to the file of that path. An exception that isn't a
`FineryError` becomes an error that says so.
"""

import builtins
import inspect
import json
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from finery import (
    Artifact,
    Bundle,
    Dataset,
    Files,
    FineryError,
    Index,
    Job,
    Metrics,
    Model,
    Step,
    StepError,
    hookimpl,
    outside_key,
    setting,
    takes,
)
from finery.plugin.manager import Plugins, load_plugins
from finery.step.inspect import OUTSIDE_KEYS
from finery.testing.imports import HEAVY
from finery.util.references import OUTSIDE_KEY_CODE

KILL = "FINERY_TRIAL_KILL"
EXECUTED = "TRIAL_EXECUTED"
"""Not inherited by all steps, since recording takes several times as long as running."""
MOMENTS = "moments of the step: "
READS = "files that the step read: "
ESCAPED = "the step raised an exception that isn't a FineryError: "
KINDS: dict[str, type[Artifact]] = {c.kind: c for c in (Dataset, Model, Metrics, Bundle, Index)}
DISCOVERY = (load_plugins.__code__, Plugins.step_type.__code__, Plugins.engine.__code__)
UNCOUNTED = {*OUTSIDE_KEYS, *(code.co_name for code in DISCOVERY)}


class Given(Step, seeded=False):
    """An artifact that was made outside of the recipe."""

    kind: str = setting(help="Dataset, Model, Metrics, Bundle or Index.")
    files: Files | None = setting(None, help="Its files.")
    folder: str = setting("", help="The folder of the files, relative to the recipe.")
    external: dict[str, str] = setting({}, help="Files that stay where they are: name → path.")
    meta: dict[str, Any] = setting({}, help="The facts that identify it.")
    runtime: dict[str, Any] = setting({}, help="The facts that don't.")
    refs: list[Artifact] = takes([], help="The artifacts that it refers to.")
    roles: list[str] = setting([], help="What it refers to them as, in the same order.")

    def outputs(self) -> dict[str, type[Artifact]]:
        """One output, of the kind that the recipe says."""
        return {"": KINDS[self.kind]}

    def run(self, job: Job) -> Artifact:
        """Copy the files."""
        files = zip(self.files.names, self.files.paths, strict=True) if self.files else ()
        for name, path in files:
            target = job.out / os.path.relpath(name, self.folder or ".")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        return KINDS[self.kind](
            job.out,
            meta=self.meta,
            refs=dict(zip(self.roles, self.refs, strict=True)),
            external={name: Path(path) for name, path in self.external.items()},
            runtime=self.runtime,
        )


class Script(Step, seeded=False):
    """Some Python, with `job`, `os` and a list `rows`, which becomes the output."""

    code: str = setting("", help="The Python.")

    def run(self, job: Job) -> Dataset:
        """Run it."""
        names: dict[str, Any] = {"job": job, "os": os, "rows": []}
        exec(self.code, names)
        return Dataset.write(job.out, names["rows"])


class _Moments:
    """Counts the moments of one step, and kills the build at one of them."""

    def __init__(self, job: Job) -> None:
        self.count = 0
        self.read: set[str] = set()
        self._folders = (f"{job.out}/", f"{job._scratch}/")  # not what finery writes beside them
        self._kill_at = os.environ.get(KILL, "")
        self._report = job._report
        job._report = self._reported

    def next(self) -> None:
        self.count += 1
        if self._kill_at != str(self.count):
            return
        # `kill -9` of the build, which takes this worker along, and of this worker.
        worker, build = os.getpgrp(), os.getppid()
        if worker != os.getpid():  # this process was forked from the worker
            stat = Path(f"/proc/{worker}/stat").read_text()
            build = int(stat.rpartition(")")[2].split()[1])
        os.kill(build, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def opened(self, path: Any, flags: int) -> None:
        """Take a file that the process is about to open."""
        if isinstance(path, int):
            return
        name = os.fsdecode(path)
        if not flags & (os.O_WRONLY | os.O_RDWR):
            if not name.endswith((".py", ".pyc", ".so")):
                self.read.add(os.path.abspath(name))
        elif name.startswith(self._folders):
            self.next()

    def _reported(self, event: dict[str, Any]) -> None:
        self._report(event)
        self.next()


_watching: list[_Moments] = []
"""The moments of the step that runs, if one is being counted."""


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watching:
        path, _, flags = arguments
        _watching[-1].opened(path, flags or 0)


@cache
def _install() -> None:
    sys.addaudithook(_audit)


def _is_uncounted(frame: FrameType) -> bool:
    """Whether a function and what it calls isn't in keys: `check`, `load_plugins`, a marked one."""
    if frame.f_code in DISCOVERY or frame.f_code in OUTSIDE_KEY_CODE:
        return True
    return frame.f_code.co_name in OUTSIDE_KEYS and isinstance(frame.f_locals.get("self"), Step)


@contextmanager
def _executed() -> Iterator[None]:
    """Add every function that is executed to the file `EXECUTED`, with whether its code counts.

    Functions called by one that `_is_uncounted` aren't added, and those that importing something
    heavy calls aren't looked at: recording would make that take half a minute.
    """
    if not (path := os.environ.get(EXECUTED)):
        yield
        return
    # By identity: the hash of a code object takes longer than most calls.
    inside: dict[int, CodeType] = {}
    beyond: dict[int, CodeType] = {}
    outside: dict[int, FrameType] = {}  # thread → the frame of such a method

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            code = frame.f_code
            if (code.co_name in UNCOUNTED or code in OUTSIDE_KEY_CODE) and _is_uncounted(frame):
                outside.setdefault(threading.get_ident(), frame)
            found = beyond if outside and threading.get_ident() in outside else inside
            if id(code) not in found:
                found[id(code)] = code
        elif event == "return" and outside and outside.get(threading.get_ident()) is frame:
            del outside[threading.get_ident()]

    import_ = builtins.__import__

    def imported(name: str, *arguments: Any, **options: Any) -> Any:
        if sys.getprofile() is not profile or name.partition(".")[0] not in HEAVY:
            return import_(name, *arguments, **options)
        sys.setprofile(None)
        try:
            return import_(name, *arguments, **options)
        finally:
            sys.setprofile(profile)

    threading.setprofile(profile)
    sys.setprofile(profile)
    builtins.__import__ = imported
    try:
        yield
    finally:
        builtins.__import__ = import_
        sys.setprofile(None)
        threading.setprofile(None)
        codes = [(c, found is inside) for found in (inside, beyond) for c in found.values()]
        functions = [c for c in codes if c[0].co_flags & inspect.CO_OPTIMIZED]  # no class bodies
        names = sorted((c.co_filename, c.co_qualname, counts) for c, counts in functions)
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(names)}\n")


@hookimpl(wrapper=True)
@outside_key
def finery_run_step(step: Step, job: Job) -> Generator[None, Any, Any]:
    """Count the step's moments; turn what it must not raise into an error that says so."""
    if isinstance(step, Given | Script):
        return (yield)
    _install()
    moments = _Moments(job)
    _watching.append(moments)
    try:
        with _executed():
            output = yield
    except FineryError:
        raise
    except Exception as error:
        lines = traceback.format_exc().splitlines()
        name = type(error).__name__
        raise StepError(f"{ESCAPED}{name}: {error}", details=lines[-12:]) from error
    finally:
        _watching.pop()
    job.log(f"{MOMENTS}{moments.count}")
    job.log(f"{READS}{json.dumps(sorted(moments.read))}")
    return output


@hookimpl
def finery_steps() -> Mapping[str, Any]:
    """The step types of input artifacts, and of tasks for executors."""
    return {"given.artifact": Given, "given.script": Script}


@hookimpl
def finery_engines() -> Mapping[str, Any]:
    """The engines of `finery.testing.table_model`."""
    from finery.testing.job import ENGINES

    return ENGINES
