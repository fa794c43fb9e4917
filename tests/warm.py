"""The `finery` command in processes that have finery's modules in memory from the start.

An interpreter imports them once and forks for each command: `finery check` takes 0.04 s instead of
0.28 s. A build's first workers are forked before the build begins, which saves 0.3 s for each. As a
fork keeps what its interpreter read at the start, most builds begin with the variables that finery
sets for workers, e.g. their hash seed. Everything else is as in processes of their own, and further
workers are.

A test module's `IMPORTS` names libraries that its steps use, which that interpreter imports, too.
Importing torch and transformers takes seconds, and many more while a contract records what a step
executes.
"""

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

import finery
from finery.execute import local
from finery.execute.environment import inherited_variables
from finery.util import installed

FINERY = Path(sys.executable).with_name("finery")
READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_", "OMP_", "CUDA_")
"""Variables that an interpreter, or a library in it, reads only once."""
READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "TOKENIZERS_", "TORCH_", "PYTORCH_", "KMP_", "MKL_")
"""Those that the libraries of `TORCH` read, too."""
TORCH = (
    "torch", "peft", "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)  # fmt: skip
"""For `IMPORTS` of modules whose steps load models."""
PATH = "PYTHONPATH"
CUSTOMIZE = ("sitecustomize", "usercustomize")
"""Modules that each interpreter imports at its start."""
Kind = frozenset[tuple[str, str]]
SPARES = 4
"""Workers that are forked ahead."""
SPARES_OF_CONTRACTS = 8
"""Those of a contract's first build, whose steps with hostile rows have a worker each."""


class Warm:
    """An interpreter that forks."""

    def __init__(self, kind: Kind, imports: tuple[str, ...]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Without variables of the first test, by which others may look for its processes.
        read = READ_AT_START + READ_AT_IMPORT
        shared = {k: v for k, v in os.environ.items() if not k.startswith(read)}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno()), *imports], pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=shared | dict(kind), start_new_session=True,
        )  # fmt: skip
        theirs.close()
        atexit.register(self.close)

    def run(
        self, args: tuple[str, ...], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Run `finery` with these arguments: its exit code, and what it printed to both streams."""
        pipes = [os.pipe() for _ in range(3)]  # output, errors, and the exit code
        request = json.dumps([args, str(folder), dict(environment)]).encode()
        socket.send_fds(self._socket, [request], [writing for _, writing in pipes])
        for _, writing in pipes:
            os.close(writing)
        texts = _texts([reading for reading, _ in pipes], timeout)
        if texts is None:
            raise subprocess.TimeoutExpired([FINERY, *args], timeout)
        out, err, code = texts
        assert code, self._process.communicate()[1].decode()
        return int(code), out.decode("utf-8", "replace"), err.decode("utf-8", "replace")

    def close(self) -> None:
        """End the interpreter."""
        self._socket.close()
        self._process.wait()


_warm: dict[tuple[Kind, tuple[str, ...]], Warm] = {}
_wanted = Counter[Kind]()


def warm(
    args: tuple[str, ...],
    environment: Mapping[str, str],
    imports: tuple[str, ...] = (),
    *,
    as_workers: bool = False,
) -> Warm | None:
    """The interpreter for a command with these variables; None if it needs one of its own.

    PYTHONPATH may begin with further folders if nothing in them has the name of what is there
    without them. Other variables that are read at the start must be the same, or those of workers
    if it is a build with the variables of this process, with imports, or `as_workers`. If they
    aren't those of this process, the third command of a kind has an interpreter started, as all
    contracts build in one other locale.

    imports: modules that it has imported besides finery's. as_workers: whether only the command's
    workers need the right variables from the start.
    """
    if any(_hides_something(folder) for folder in _added(environment, os.environ)):
        return None
    environment = _with_path(environment, os.environ)
    names = READ_AT_START + READ_AT_IMPORT if imports else READ_AT_START
    kind, ours = _read(environment, names), _read(os.environ, names)
    is_ours = kind == ours
    if args[:1] == ("build",) and (is_ours or imports or as_workers):
        kind = _read(_of_workers(environment), names)
    _wanted[kind] += 1
    if (kind, imports) not in _warm and (_wanted[kind] > 2 or is_ours):
        _warm[kind, imports] = Warm(kind, imports)
    return _warm.get((kind, imports))


def _of_workers(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the workers of a command with these."""
    with mock.patch.object(os, "environ", dict(environment)):
        return inherited_variables()


def _read(environment: Mapping[str, str], names: tuple[str, ...]) -> Kind:
    """The variables whose names begin with one of these."""
    read = {name: value for name, value in environment.items() if name.startswith(names)}
    read.pop("OMP_WAIT_POLICY", None)  # finery sets it for workers, and only speed depends on it
    return frozenset(read.items())


def _with_path(environment: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """The variables of an environment, with PYTHONPATH as in another."""
    paths = {PATH: other[PATH]} if PATH in other else {}
    return {name: value for name, value in environment.items() if name != PATH} | paths


def _added(environment: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    """The folders that PYTHONPATH begins with before those that it has here; all if others end it.

    Python takes an empty one as the working directory.
    """
    all_, here = (
        env[PATH].split(os.pathsep) if env.get(PATH) else [] for env in (environment, ours)
    )
    is_longer = all_[len(all_) - len(here) :] == here
    return all_[: len(all_) - len(here)] if is_longer else [*all_, ""]


def _hides_something(folder: str) -> bool:
    """Whether a folder at the front of `sys.path` could change what is imported without it."""
    if not os.path.isabs(folder) or folder in sys.path or os.path.isfile(folder):
        return True
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        stem = name.partition(".")[0]
        if name.endswith((".dist-info", ".egg-info")):
            if installed.normalise_name(name.partition("-")[0]) in installed.distributions():
                return True
        elif stem in CUSTOMIZE or stem in sys.modules or PathFinder.find_spec(stem) is not None:
            return True
    return False


def _texts(pipes: list[int], timeout: float) -> list[bytes] | None:
    """What comes out of the pipes until all are closed; None if that takes too long."""
    texts = {pipe: bytearray() for pipe in pipes}
    late = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            if time.monotonic() > late:
                return None
            for key, _ in selector.select(1):
                if data := os.read(key.fd, 1 << 16):
                    texts[key.fd] += data
                else:
                    selector.unregister(key.fd)
                    os.close(key.fd)
    return [bytes(text) for text in texts.values()]


# -- in the interpreter that forks -----------------------------------------------------------------


def serve(requests: socket.socket) -> None:
    """Fork for each request, until there are no more. Returns in the fork, too, as the command."""
    while True:
        data, fds, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not data:
            sys.exit()
        if not os.fork():
            break
        for fd in fds:
            os.close(fd)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out, err, code = fds
    if child := os.fork():
        os.close(out)
        os.close(err)
        _, status = os.waitpid(child, 0)
        os.write(code, str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    os.close(code)
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    args, folder, environment = json.loads(data)
    os.chdir(folder)
    if added := _added(environment, os.environ):
        sys.path[1:1] = added
        for cached in (
            installed.entry_points,
            installed.finery_packages,
            installed.plugin_packages,
        ):
            cached.cache_clear()
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = [str(FINERY), *args]


class Spare:
    """A worker that a command has from the start, and that waits until it is used."""

    def __init__(self, others: list[socket.socket]) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reaping = threading.Lock()
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            for other in (self.socket, *others):
                other.close()
            _be_worker(theirs)
        theirs.close()
        with contextlib.suppress(OSError):  # it may have done that itself
            os.setpgid(self.pid, self.pid)

    def poll(self) -> int | None:
        """Its exit code, if it has ended."""
        with self._reaping:
            if self.returncode is None:
                ended, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if ended else None
            return self.returncode

    def wait(self, timeout: float = float("inf")) -> int:
        """Its exit code, once it has ended."""
        late = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > late:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.002)
        return code


class Spares:
    """The first workers of a command, in place of the processes that its executor would start."""

    def __init__(self, kind: Kind, count: int) -> None:
        self._kind = kind
        self._unused: list[Spare] = []
        for _ in range(count):
            self._unused.append(Spare([spare.socket for spare in self._unused]))
        self._popen: Any = subprocess.Popen
        self._spawn = local._spawn
        local._spawn = self._spawned
        atexit.register(self._end)

    def _spawned(self, *arguments: Any, **options: Any) -> Any:
        subprocess.Popen = self._start  # type: ignore[misc, assignment]
        try:
            return self._spawn(*arguments, **options)
        finally:
            subprocess.Popen = self._popen  # type: ignore[misc]

    def _start(self, command: list[str], **options: Any) -> Any:
        is_worker = command[1:4] == ["-P", "-m", "finery.execute.worker"]
        if not is_worker or not self._unused or len(options["pass_fds"]) > 1:
            return self._popen(command, **options)
        if _read(options["env"], READ_AT_START) != self._kind:
            return self._popen(command, **options)
        spare = self._unused.pop(0)
        request = json.dumps([command[5:], dict(options["env"])]).encode()
        socket.send_fds(spare.socket, [request], [*options["pass_fds"], options["stdout"].fileno()])
        spare.socket.close()
        return spare

    def _end(self) -> None:
        for spare in reversed(self._unused):
            spare.socket.close()
            os.waitpid(spare.pid, 0)


def _be_worker(requests: socket.socket) -> NoReturn:
    from finery.execute import worker

    os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(null, stream)
    data, fds, _, _ = socket.recv_fds(requests, 1 << 20, 2)
    requests.close()
    if not data:
        os._exit(0)
    connection, log = fds
    os.dup2(log, 1)
    os.dup2(log, 2)
    arguments, environment = json.loads(data)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = [str(worker.__file__), str(connection), *arguments]
    del sys.path[0]  # as `python -P` has it
    end_with(worker.main)


def import_all(more: Iterable[str] = ()) -> None:
    """Import all of finery, and of the plugins what commands import, which is light.

    more: further modules.
    """
    from finery.plugin.discovery import GROUP
    from finery.plugin.manager import Plugins

    for module in pkgutil.walk_packages(finery.__path__, "finery."):
        if not module.name.startswith(("finery.testing", "finery.__main__")):
            importlib.import_module(module.name)
    plugins = Plugins()
    for entry in installed.entry_points(GROUP):
        plugins.add(entry)
    for name in plugins.step_types:
        plugins.step_type(name)
    assert plugins.notes  # imports their modules
    assert plugins.views
    for name in ("rich.table", *more):
        importlib.import_module(name)
    for cached in (installed.distributions, installed.module_owners, installed.search_path):
        cached.cache_clear()
    gc.collect()
    gc.freeze()


def end_with(main: Callable[[], Any]) -> NoReturn:
    """End this process as Python does after its main function, but without freeing all memory.

    That would take longer than most commands, and a worker must not go back to what forked it.
    """
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for thing in gc.get_objects():
            if issubclass(type(thing), sqlite3.Connection):
                thing.close()  # which writes the log of its database into that
            elif issubclass(type(thing), io.TextIOWrapper | io.BufferedWriter):
                with contextlib.suppress(ValueError):  # it is closed
                    thing.flush()
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # as Python where the reader of its output has ended
        code = code or 120
    os._exit(code)


if __name__ == "__main__":
    sys.path[0] = str(FINERY.parent)  # as the command has it
    import_all(sys.argv[2:])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks of `serve` are nobody's to wait for
    at_start = dict(os.environ)
    serve(socket.socket(fileno=int(sys.argv[1])))
    kind = _read(_with_path(at_start, os.environ), READ_AT_START)
    from finery.cli import main

    if sys.argv[1:2] == ["build"] and kind == _read(_of_workers(os.environ), READ_AT_START):
        Spares(kind, SPARES_OF_CONTRACTS if "--keep-going" in sys.argv else SPARES)
    end_with(main)
