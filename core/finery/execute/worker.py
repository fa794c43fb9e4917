"""A worker process: runs the steps it is sent, one after the other.

Started as `python -m finery.execute.worker FD PARENT [ahead]`; FD is one end of a socket pair, over
which tasks come and events go, as msgpack. It ends when the other side, the process PARENT, does.
"""

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from itertools import combinations
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.kinds import Artifact, Model
from finery.artifact.manifest import Manifest
from finery.errors import DISK_FULL, FineryError, StepError
from finery.execute.log import redirect_to
from finery.execute.task import AHEAD, Closing, Done, Failed, Task, Used
from finery.execute.undeclared import load_files, noted
from finery.fields import Files
from finery.inference.engine import Engine
from finery.inference.records import SqliteRecords, identity_of
from finery.plugin.deprecated import FineryDeprecationWarning
from finery.plugin.hookspecs import hookimpl
from finery.plugin.manager import Plugins, load_plugins
from finery.step.inspect import give_files, inputs_of, nested_fields, slots_of
from finery.step.job import Job
from finery.step.step import Step
from finery.store.blobs import ingest
from finery.store.links import open_artifact
from finery.util.leftovers import scratch_lock
from finery.util.paths import PINNED
from finery.util.text import redacted_data

_is_worker = False
"""Whether this process only runs steps, so that what it is may change for a step's children."""
Send = Callable[[Any], None]
"""Where a running step's reports go, see `finery.execute.task.Report`."""


class Default:
    """The last implementation of `finery_run_step`: just run it."""

    @staticmethod
    @hookimpl(trylast=True)
    def finery_run_step(step: Step, job: Job) -> Any:
        """Run the step here."""
        return step.run(job)


def main() -> None:
    """Serve tasks until the socket closes."""
    global _is_worker
    _is_worker = True
    connection = Connection(int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends us
    signal.signal(signal.SIGTERM, _end)
    _die_with_parent(int(sys.argv[2]))
    warnings.simplefilter("ignore", FineryDeprecationWarning)  # the main process gives them
    lock = threading.Lock()

    def send(event: Any) -> None:
        with lock:
            connection.send_bytes(msgspec.msgpack.encode(event))

    if AHEAD in sys.argv:
        with contextlib.suppress(EOFError):
            os.environ |= msgspec.msgpack.decode(connection.recv_bytes(), type=dict[str, str])
    while True:
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        task = msgspec.msgpack.decode(data, type=Task)
        try:
            send(run_task(task, send))
        except BrokenPipeError:
            return


class Terminated(SystemExit):
    """The build ends this process."""


def _end(signum: int, frame: object) -> None:
    """End as by `sys.exit`, so that `subprocess.run` and the like end their children."""
    raise Terminated(128 + signum)


def run_task(task: Task, send: Send) -> Closing:
    """Run a task in this process, whose output goes to the task's log from then on; how it ended.

    send: is called with each report, from the thread that the step reports from.
    """
    started = time.perf_counter()
    close_log = redirect_to(task.log, task.env)
    before = {name: os.environ.get(name) for name in task.env}
    os.environ.update(task.env)
    try:
        outputs = outputs_of(task, lambda report: send(redacted_data(report, task.env)))
    except FineryError as error:
        return Failed(event="failed", error=redacted_data(error.to_dict(), task.env))
    except Terminated:
        raise
    except BaseException as error:  # sys.exit, too: whatever a step raises is an error of it
        failure = _from_exception(error, task)
        return Failed(event="failed", error=redacted_data(failure.to_dict(), task.env))
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        with contextlib.suppress(OSError):  # no room for the log: what the step made may fit
            sys.stdout.flush()
            sys.stderr.flush()
        close_log()
    return Done(event="done", outputs=outputs, seconds=time.perf_counter() - started)


def outputs_of(task: Task, send: Send) -> dict[str, Manifest]:
    """Run a task's step and move what it made into `objects/`; its outputs' manifests by name."""
    load_files(task)
    plugins = load_plugins(tuple(Path(p) for p in task.plugins))
    if not plugins.manager.has_plugin("finery.default"):
        plugins.manager.register(Default, name="finery.default")
    root = Path(task.store)
    step = _step(task, plugins, root)
    expected = step.outputs()
    with scratch_lock(Path(task.scratch), inherited=_is_worker) as lock_scratch:
        job = Job(
            out=Path(task.out),
            scratch=Path(task.scratch),
            seed=task.seed,
            report=send,
            records=SqliteRecords(root / "finery.db"),
            find_engine=_finder(task, plugins),
            secrets=task.env,
            pinned=task.pinned,
            kept=root / PINNED,
            lock_scratch=lock_scratch,
        )
        try:
            with noted(task, plugins, send):
                returned = plugins.hook.finery_run_step(step=step, job=job)
        finally:  # what a step that failed has spent is spent, too
            if job.usage.dollars:
                send(Used(event="used", dollars=job.usage.dollars))
    artifacts = _by_name(returned, expected, task.use)
    _check_apart(artifacts)
    manifests: dict[int, Manifest] = {}  # one artifact may have two names: its files move once
    for artifact in artifacts.values():
        if id(artifact) not in manifests:
            manifests[id(artifact)] = ingest(artifact, job.out, root / "objects")
    return {name: manifests[id(artifact)] for name, artifact in artifacts.items()}


def _check_apart(artifacts: Mapping[str, Artifact]) -> None:
    """Each output has a folder of its own: a file can't belong to two of them."""
    for (name, one), (other, two) in combinations(artifacts.items(), 2):
        a, b = one.path, two.path
        if one is not two and not one.digest and (a.is_relative_to(b) or b.is_relative_to(a)):
            raise StepError(
                f"the step's outputs '{name}' and '{other}' lie in each other's folder",
                fix=f"write them into job.out / '{name}' and job.out / '{other}'",
            )


def _step(task: Task, plugins: Plugins, root: Path) -> Step:
    cls = plugins.step_type(task.use)
    step = msgspec.convert(task.settings, cls, dec_hook=_placeholder)
    for field, (use, settings) in task.nested.items():
        provided = nested_fields(cls)[field].given
        setattr(step, field, _nested_step(plugins.step_type(use), settings, provided))
    give_files(step, task.files)
    for path, slot in slots_of(step).items():
        inputs = [_opened(root, m, ref, slot.uses_name) for ref, m in task.inputs.get(path, [])]
        many = slot.accepts.many
        setattr(slot.owner, slot.field, inputs if many else inputs[0] if inputs else None)
    return step


def _nested_step(cls: type[Step], settings: dict[str, Any], provided: Mapping[str, str]) -> Step:
    """A step inside another, with placeholders where the outer one provides the inputs."""
    step = msgspec.convert(settings, cls, dec_hook=_placeholder)
    for field, name in provided.items():
        accepts = inputs_of(cls)[field]
        artifact = accepts.kind.placeholder(name)
        setattr(step, field, [artifact] if accepts.many else artifact)
    return step


def _placeholder(kind: Any, value: Any) -> Any:
    return kind(value) if issubclass(kind, Files) else kind.placeholder("")


def _opened(root: Path, manifest: Manifest, ref: str, uses_name: bool) -> Artifact:
    artifact = open_artifact(root, manifest)
    artifact.ref = ref if uses_name else ""
    return artifact


def _finder(task: Task, plugins: Plugins) -> Any:
    def find(model: Model) -> tuple[type[Engine], str]:
        if model.format not in task.engines:
            raise StepError(
                f"step type '{task.use}' answers prompts without saying so",
                fix="declare it: class …(Step, engines=True)",
            )
        return plugins.engine(model.format), identity_of(model, task.engines)

    return find


def _by_name(returned: Any, expected: dict[str, type[Artifact]], use: str) -> dict[str, Artifact]:
    """What `run` returned, by output, held against what the step type declares."""
    if isinstance(returned, Artifact):
        outputs: dict[str, Any] = {"": returned}
    elif isinstance(returned, dict):
        outputs = returned
    else:
        outputs = {name: getattr(returned, name, None) for name in expected}
    if outputs.keys() != expected.keys() or not all(
        isinstance(outputs[name], kind) for name, kind in expected.items()
    ):
        raise StepError(
            f"step type '{use}' returned {_kinds(outputs)}, and declares {_kinds(expected)}",
            fix="return what `run` is annotated with",
        )
    return outputs


def _kinds(outputs: dict[str, Any]) -> str:
    def kind(value: Any) -> str:
        return value.__name__ if isinstance(value, type) else type(value).__name__

    return (
        ", ".join(f"{name}: {kind(v)}" if name else kind(v) for name, v in outputs.items())
        or "nothing"
    )


def _from_exception(error: BaseException, task: Task) -> FineryError:
    """An unexpected exception of a step: its traceback goes to the log, its end to the user."""
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return StepError("the disk is full", fix="free some space and build again: nothing is lost")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return StepError(
            f"out of memory: {str(error)[:200]}",
            fix="smaller batches, a shorter max_length or a smaller model",
        )
    lines = text.strip().splitlines()
    if isinstance(error, SystemExit):
        return StepError(
            f"step type '{task.use}' calls sys.exit({error.code!r})",
            details=lines[-7:-1],
            fix="raise finery.StepError instead",
        )
    return StepError(
        f"step type '{task.use}' failed: {type(error).__name__}: {error}", details=lines[-7:-1]
    )


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the main process is killed; elsewhere a thread looks.

    parent: the main process, which may be gone by now, with a task left in the socket.
    """
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
