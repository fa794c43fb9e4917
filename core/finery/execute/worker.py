"""A worker process, which runs one step after another.

Started as `python -m finery.execute.worker FD PARENT [ahead]`; FD is one end of a socket pair that
carries tasks and events as msgpack. The worker ends with the process PARENT at the other end.
"""

import contextlib
import gc
import json
import mmap
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import combinations
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from finery.artifact.kinds import Artifact, Model
from finery.artifact.manifest import Manifest
from finery.errors import FineryError, StepError, disk_full, raised_at
from finery.execute.entries import package_folders
from finery.execute.executor import PREPARE_AHEAD, Done, Failed, Noted, Task, Used
from finery.execute.log import redirect_to
from finery.execute.observed import collect_reads, has_read, is_clean, observe
from finery.fields import Files
from finery.inference.engine import Engine, Identity
from finery.inference.records import UncachedRecords, identity_of
from finery.inference.shared import SharedRecords, answer_secrets, open_records
from finery.plugin.discovery import COMPILED, leave_out, read_from_source
from finery.plugin.hookspecs import hookimpl
from finery.plugin.manager import Plugins, load_plugins
from finery.step import inspect
from finery.step.inspect import add_nested, give_files, inputs_of, nested_fields, slots_of
from finery.step.job import Job
from finery.step.look import Promise, promises_of
from finery.step.step import Step, examine_opened
from finery.store.blobs import ingest
from finery.store.links import guard_inputs, open_artifact
from finery.util.installed import ENTRY_POINTS_VARIABLE, STANDARD_LIBRARY
from finery.util.leftovers import earlier_seconds, scratch_lock
from finery.util.paths import PINNED_FOLDER, is_inside, shown
from finery.util.text import duration, redacted_data, some_of

_is_worker = False
"""Whether this process only runs steps, and may change its environment for their children."""
_preloaded_plugins: Plugins | None = None
"""The plugins that this process has imported before it is copied."""
_is_waiting = False
"""Whether this process waits for its copy, which gets the same signals, and time to end."""
COLLECTION_THRESHOLD = 50_000
"""New objects between two garbage collections, as long as modules are imported."""
SendReport = Callable[[Any], None]
"""Takes a running step's reports, see `finery.execute.executor.Report`."""


class DefaultRunner:
    """The innermost implementation of `finery_run_step`.

    is_called: whether it ran the step. returned: what the step returned. rehearse: what runs in
    place of the step's `run`.
    """

    is_called = False
    returned: Any = None
    rehearse: Callable[[Job], Any] | None = None

    @staticmethod
    @hookimpl(trylast=True)
    def finery_run_step(step: Step, job: Job) -> Any:
        """Run the step in this process."""
        DefaultRunner.is_called, DefaultRunner.returned = True, None
        umask = os.umask(0o022)  # a step that packs files may read their modes
        try:
            DefaultRunner.returned = (DefaultRunner.rehearse or step.run)(job)
            return DefaultRunner.returned
        finally:
            os.umask(umask)


def main() -> None:
    """Serve tasks until the socket closes."""
    connection = Connection(int(sys.argv[1]))
    become_worker(int(sys.argv[2]))
    lock = threading.Lock()

    def send(event: Any) -> None:
        with lock:
            connection.send_bytes(msgspec.msgpack.encode(event))

    if PREPARE_AHEAD in sys.argv:
        with contextlib.suppress(EOFError):
            os.environ |= msgspec.msgpack.decode(connection.recv_bytes(), type=dict[str, str])
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            data = connection.recv_bytes()
            task = msgspec.msgpack.decode(data, type=Task)
            is_shared = not task.isolated and (task.plugins or task.entry_points)
            if is_shared and _import_plugins(task):
                _run_in_copies(connection, data, send)
            closing = run_task(task, send)
            closing["ends"] = closing.get("ends") or bool(is_shared)
            send(closing)
            if closing["ends"]:
                return


def _import_plugins(task: Task) -> bool:
    """Import the plugins of a task, with output to its log and with its variables.

    They may read these, so tasks with others have other processes. False if this process can't be
    copied: it has threads, or isn't on Linux.
    """
    global _preloaded_plugins
    secrets = task.env | answer_secrets(task.answers)
    os.environ.update(task.env)
    with contextlib.suppress(OSError):
        close_log = redirect_to(task.log, secrets)
        _preloaded_plugins = _plugins(task)
        with observe(task):
            _examine_types(_preloaded_plugins)
        sys.stdout.flush()
        sys.stderr.flush()
        close_log()
    gc.freeze()
    return sys.platform == "linux" and len(os.listdir("/proc/self/task")) == 1


def _examine_types(plugins: Plugins) -> None:
    """Examine the step types of others before this process is copied, since it takes a while.

    Only those that plugins have defined by now, and all of them, whichever step comes first.
    """
    for use, (reference, plugin) in plugins.step_types.items():
        if isinstance(reference, type) and not plugin.is_own:
            with contextlib.suppress(Exception):  # a step of this type raises it again
                msgspec.msgpack.Decoder(plugins.step_type(use))


def _run_in_copies(connection: Connection, data: bytes, send: SendReport) -> NoReturn:
    """Run tasks, each in a copy of this process, which has imported the plugins of such tasks.

    So nothing of a step survives it: what it imported, cached, patched or seeded. Raises `EOFError`
    when the socket closes. data: the first task.

    Each step needs a copy of its own, so what takes time is done while others work: the next copy
    is made while a step runs, and a copy sends its closing event itself, so that the build goes on
    while the copy ends. Memory that a copy writes to is copied page by page, and Python writes to
    each object that it uses. So this process does once what every copy needs, and doesn't decode
    tasks.
    """
    global _is_waiting
    this, has_ended = os.getpid(), mmap.mmap(-1, 1)  # shared with the copies
    child, giving = _fork_worker(send, has_ended)
    while True:
        try:
            giving.send_bytes(data)
        except BrokenPipeError:  # it was killed while it waited, and nothing is lost
            os.waitpid(child, 0)
            child, giving = _fork_worker(send, has_ended)
            continue
        giving.close()
        _is_waiting = True
        spare = _fork_worker(send, has_ended)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        _is_waiting = False
        if not has_ended[0]:  # as if the step had run here
            if code < 0:
                with contextlib.suppress(OSError):  # SIGKILL
                    signal.signal(-code, signal.SIG_DFL)
                os.kill(this, -code)
            os._exit(code)
        has_ended[0], (child, giving) = 0, spare
        data = connection.recv_bytes()


def _fork_worker(send: SendReport, has_ended: mmap.mmap) -> tuple[int, Connection]:
    """Make a copy of this process, which runs one task: its pid, and the pipe for the task.

    has_ended: its byte becomes 1 when the closing event is sent.
    """
    reader, writer = Pipe(duplex=False)
    worker_pid = os.getpid()
    if child := os.fork():
        reader.close()
        return child, writer
    global _is_waiting
    code, own_pid, _is_waiting = 1, os.getpid(), False
    try:
        _die_with_parent(worker_pid)
        writer.close()
        task = msgspec.msgpack.decode(reader.recv_bytes(), type=Task)
        reader.close()
        closing = run_task(task, send)
        closing["ends"] = False
        if os.getpid() == own_pid:  # and not a process that the step has forked
            send(closing)
            has_ended[0] = 1
        code = 0
    except Terminated as terminated:
        code = int(str(terminated.code))
    except (EOFError, BrokenPipeError):  # the worker or the build has ended
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def become_worker(parent: int) -> None:
    """Make this process one that only runs steps, and that ends with the process `parent`."""
    global _is_worker
    _is_worker = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # `parent` handles Ctrl-C and ends this process
    signal.signal(signal.SIGTERM, _end)
    _die_with_parent(parent)
    own_folders = {os.path.dirname(package[:-1]) for package in package_folders(is_own=True)}
    for folder in filter(os.path.isdir, sys.path):  # code that users edit
        is_installed = folder.endswith(("site-packages", "dist-packages", "lib-dynload"))
        if not (is_installed or folder in own_folders or folder == STANDARD_LIBRARY):
            read_from_source(Path(folder))
    _collect_rarely_while_importing()


class Terminated(SystemExit):
    """The build ends this process."""


def _end(signum: int, frame: object) -> None:
    """End as with `sys.exit`, so that `subprocess.run` and others end their children."""
    if not _is_waiting:
        raise Terminated(128 + signum)


def _collect_rarely_while_importing() -> None:
    """Have few garbage collections until no more modules are imported.

    A training imports modules with a million objects, none of them garbage. With Python's default,
    collections take a fifth of that time. Afterwards, garbage may hold much memory of a GPU, so it
    is collected as often as ever.
    """
    default, module_count = gc.get_threshold(), 0

    def settle(phase: str, info: dict[str, int]) -> None:
        nonlocal module_count
        if phase == "start":
            if module_count == len(sys.modules):
                gc.callbacks.remove(settle)
                gc.set_threshold(*default)
            module_count = len(sys.modules)

    gc.callbacks.append(settle)
    gc.set_threshold(COLLECTION_THRESHOLD)


def run_task(task: Task, send: SendReport) -> Done | Failed:
    """Run a task in this process, with output to the task's log; its closing event.

    send: called with each report, in the thread that reports.
    """
    started, earlier = time.perf_counter(), earlier_seconds(Path(task.scratch))
    secrets = task.env | answer_secrets(task.answers)
    if earlier >= 1:
        message = f"earlier attempts took {duration(earlier)}, which its time includes"
        send({"event": "log", "message": message})
    try:
        close_log = redirect_to(task.log, secrets)
    except OSError as error:
        log_error = disk_full(error) or StepError(
            f"can't write its log {task.log}: {error.strerror}"
        )
        return Failed(event="failed", error=log_error.to_dict())
    saved_variables = {name: os.environ.get(name) for name in task.env}
    os.environ.update(task.env)
    try:
        outputs = outputs_of(task, lambda report: send(redacted_data(report, secrets)))
        reads, changing, rewritten = collect_reads(task)
    except Terminated:
        raise
    except BaseException as error:  # also SystemExit: anything that a step raises is an error
        expected = error if isinstance(error, FineryError) else _from_exception(error, task)
        expected.details += getattr(error, "__notes__", [])
        failed = redacted_data(expected.to_dict(), secrets)
        return Failed(event="failed", error=failed, ends=not is_clean())
    finally:
        for name, value in saved_variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        with contextlib.suppress(OSError):  # no space for the log, but perhaps for the output
            sys.stdout.flush()
            sys.stderr.flush()
        close_log()
    seconds = earlier + time.perf_counter() - started
    closing = Done(event="done", outputs=outputs, seconds=seconds, code=COMPILED, reads=reads)
    closing["ends"] = not is_clean()
    if changing:
        closing["changing"] = changing
    if changing or rewritten:
        reason = changing or f"reads {some_of(rewritten, 3)}, and then changes it"
        fix = "let it write to job.scratch, or declare what it reads as a setting of type Files"
        text = f"{reason}: the next build runs the step again"
        send(Noted(event="note", name="not-reusable", text=text, fix=fix))
    return closing


def outputs_of(task: Task, send: SendReport) -> dict[str, Manifest]:
    """Run a task's step and move its output into `objects/`; the manifests by name."""
    if task.environment is not None:
        from finery.execute.venv import is_running_in

        if not is_running_in(task.environment):
            raise StepError(
                f"the executor can't run steps in environments such as '{task.environment.name}'",
                fix="build with --executor local",
            )
    plugins = _plugins(task)
    with observe(task, plugins):
        return _outputs_of(task, plugins, send)


def _outputs_of(task: Task, plugins: Plugins, send: SendReport) -> dict[str, Manifest]:
    root = Path(task.store)
    step, find_engine = _step(task, plugins, root), _finder(task, plugins)
    promises = promises_of(step)
    if task.rehearsal is not None:
        from finery.execute.rehearse import limit_requests, rehearsed

        rehearsal = step.rehearsal()
        find_engine = limit_requests(find_engine, rehearsal, task)
    records = open_records(Path(task.records or root / "finery.db"), task.answers)
    # Keys of records don't have what other engines read.
    has_own_engines = all(plugins.engines[name][1].is_own for name in task.engines)
    with scratch_lock(Path(task.scratch), inherited=_is_worker) as lock_scratch:
        job = Job(
            out=Path(task.out),
            scratch=Path(task.scratch),
            seed=task.seed,
            report=send,
            records=records if has_own_engines else UncachedRecords(records, has_read),
            find_engine=find_engine,
            secrets=task.env,
            pinned=task.pinned,
            kept=root / PINNED_FOLDER,
            provenance=task.provenance,
            lock_scratch=lock_scratch,
        )
        try:
            _check(_step(task, plugins, root, keep_names=True), task.seed)  # it might change `step`
            inputs = [pair for pairs in task.inputs.values() for pair in pairs]
            with guard_inputs(root, inputs):
                DefaultRunner.is_called, DefaultRunner.rehearse = False, None
                if task.rehearsal is not None:
                    whole = _step(task, plugins, root)
                    DefaultRunner.rehearse = rehearsed(step, rehearsal, whole, task, send)
                returned = plugins.hook.finery_run_step(step=step, job=job)
                if not DefaultRunner.is_called:
                    raise _replaced_step_error(plugins)
                if returned is None and DefaultRunner.returned is not None:
                    raise StepError(
                        f"finery_run_step of {_run_step_plugins(plugins, is_wrapper=True)} returns "
                        "nothing, though the step did",
                        fix="return what `yield` returns: return (yield)",
                    )
        finally:  # failed steps cost money, too
            if isinstance(records, SharedRecords):
                records.close()
            if job.usage.worth:
                send(Used(event="used", dollars=job.usage.dollars, worth=job.usage.worth))
    artifacts = check_outputs(returned, promises, task.use)
    for artifact in artifacts.values():
        _check_facts(artifact, task.use)
    _check_separate_folders(artifacts)
    manifests: dict[int, Manifest] = {}  # an artifact with two names is moved once
    for artifact in artifacts.values():
        if id(artifact) not in manifests:
            manifests[id(artifact)] = ingest(artifact, job.out, root / "objects")
    return {name: manifests[id(artifact)] for name, artifact in artifacts.items()}


def _check(step: Step, seed: int | None) -> None:
    """Raise the errors of settings and inputs with which a step can't run."""
    step.check()
    inspect.check_columns(step, inspect.columns_of_inputs(step))
    examine_opened(step, seed)


def _plugins(task: Task) -> Plugins:
    """The plugins of a task: finery's own, and those that are in its key."""
    if _is_worker:
        os.environ[ENTRY_POINTS_VARIABLE] = " ".join(task.entry_points)
        if task.recipe:
            os.chdir(task.recipe)  # wherever the build was started
    if _preloaded_plugins is not None:
        return _preloaded_plugins
    leave_out(task.left_out)
    with observe(task):
        plugins = load_plugins(tuple(Path(path) for path in task.plugins), task.entry_points)
    if not plugins.manager.has_plugin("finery.default"):
        plugins.manager.register(DefaultRunner, name="finery.default")
    return plugins


def _replaced_step_error(plugins: Plugins) -> StepError:
    """The error for a hook that isn't a wrapper, and returned a value in place of the step."""
    return StepError(
        f"finery_run_step of {_run_step_plugins(plugins, is_wrapper=False)} returned a value, so "
        "the step didn't run",
        fix="return None in it, or make it a wrapper: @hookimpl(wrapper=True)",
    )


def _run_step_plugins(plugins: Plugins, *, is_wrapper: bool) -> str:
    """The plugins whose `finery_run_step` is a wrapper, or isn't."""
    return " or ".join(
        plugin.title
        for hook in plugins.hook.finery_run_step.get_hookimpls()
        for plugin in plugins.plugins
        if plugin.module is hook.plugin
        and not plugin.is_own
        and (hook.wrapper or hook.hookwrapper) == is_wrapper
    )


def _in_short(value: Any) -> str:
    """A value in a message: its type, and what it is if that is short."""
    text = repr(value)
    return text if value is None else f"a {type(value).__name__}, {text:.60}"


def _check_facts(artifact: Artifact, use: str) -> None:
    """Raise `StepError` for facts that aren't JSON, or without which the artifact can't be read."""
    returned = f"step type '{use}' returned a {type(artifact).__name__}"
    for name in ("meta", "runtime"):
        try:
            json.dumps(getattr(artifact, name))
        except (TypeError, ValueError) as error:
            raise StepError(
                f"{returned} whose {name} isn't JSON: {error}",
                fix="store texts, numbers, lists and mappings in it: str(path), [*names]",
            ) from error
    for role, ref in artifact.refs.items():
        is_role = isinstance(role, str) and is_inside(role) and "/" not in role
        if not is_role or not isinstance(ref, Artifact):
            raise StepError(
                f"{returned} with {role!r:.30}: {ref!r:.60} in its refs, which must map names "
                "without slashes to artifacts",
                fix=f'return {artifact.kind}(job.out, …, refs={{"base": self.model}})',
            )
    nouns = {str: "a text", int: "a number", list: "a list"}
    for name, kind in {"format": str, "run": str, **artifact.needed_facts}.items():
        value = artifact.meta.get(name)
        is_needed = value is not None or name in artifact.needed_facts
        if is_needed and not isinstance(value, kind):
            raise StepError(
                f"{returned} with {value!r:.60} as '{name}' of its meta, which must be "
                f"{nouns[kind]}",
                fix=f"return {artifact.kind}(job.out, meta={{{name!r}: …}})",
            )


def _check_separate_folders(artifacts: Mapping[str, Artifact]) -> None:
    """Raise `StepError` if one output is inside the folder of another."""
    for (name, first), (second_name, second) in combinations(artifacts.items(), 2):
        a, b = first.path, second.path
        if (
            first is not second
            and not first.digest
            and (a.is_relative_to(b) or b.is_relative_to(a))
        ):
            raise StepError(
                f"one of the step's outputs '{name}' and '{second_name}' is inside the other's "
                "folder",
                fix=f"write them to job.out / '{name}' and job.out / '{second_name}'",
            )


def _step(task: Task, plugins: Plugins, root: Path, *, keep_names: bool = False) -> Step:
    """The step of a task. keep_names: its inputs keep them even if it doesn't declare that."""
    cls = plugins.step_type(task.use)
    step = msgspec.convert(task.settings, cls, dec_hook=_placeholder)
    steps = {"": step}
    for path, (use, settings) in task.nested.items():
        keys = path.split(".")
        start = -2 if keys[-1].isdigit() else -1  # `reward.0` is in the field `reward`
        owner = steps[".".join(keys[:start])]
        provided = nested_fields(type(owner))[keys[start]].given
        steps[path] = _nested_step(plugins.step_type(use), settings, provided)
        add_nested(owner, ".".join(keys[start:]), steps[path])
    give_files(step, task.files)
    for path, slot in slots_of(step).items():
        uses_name = keep_names or slot.uses_name
        inputs = []
        for ref, manifest in task.inputs.get(path, []):
            artifact = open_artifact(root, manifest)
            artifact.ref = ref if uses_name else ""
            inputs.append(artifact)
        many = slot.accepts.many
        setattr(slot.owner, slot.field, inputs if many else inputs[0] if inputs else None)
    return step


def _nested_step(cls: type[Step], settings: dict[str, Any], provided: Mapping[str, str]) -> Step:
    """A step inside another, with placeholders for inputs from the outer one."""
    step = msgspec.convert(settings, cls, dec_hook=_placeholder)
    for field, name in provided.items():
        accepts = inputs_of(cls)[field]
        artifact = accepts.kind.placeholder(name)
        setattr(step, field, [artifact] if accepts.many else artifact)
    return step


def _placeholder(kind: Any, value: Any) -> Any:
    return kind(value) if issubclass(kind, Files) else kind.placeholder("")


def _finder(task: Task, plugins: Plugins) -> Any:
    def find(model: Model) -> tuple[type[Engine], Identity]:
        if model.format not in task.engines:
            raise StepError(
                f"step type '{task.use}' uses a model, but doesn't declare that",
                fix="declare it: class …(Step, engines=True)",
            )
        return plugins.engine(model.format), identity_of(model, task.engines)

    return find


def check_outputs(returned: Any, promises: Mapping[str, Promise], use: str) -> dict[str, Artifact]:
    """The return value of `run` by output; `StepError` if it doesn't match the declaration."""
    expected = {name: promise.kind for name, promise in promises.items()}
    if isinstance(returned, Artifact):
        outputs: dict[str, Any] = {"": returned}
    elif isinstance(returned, dict):
        outputs = returned
    else:
        outputs = {n: getattr(returned, n) for n in expected if hasattr(returned, n)}
        if not outputs:
            raise StepError(
                f"step type '{use}' returned {_in_short(returned)}, but "
                f"declares {_kinds(expected)}",
                fix="return the type that `run` is annotated with",
            )
    if outputs.keys() != expected.keys() or not all(
        isinstance(outputs[name], kind) for name, kind in expected.items()
    ):
        raise StepError(
            f"step type '{use}' returned {_kinds(outputs)}, but declares {_kinds(expected)}",
            fix="return the type that `run` is annotated with",
        )
    for name, promise in promises.items():
        meta = outputs[name].meta
        for fact, value in promise.meta.items():
            if meta.get(fact, value) != value:
                raise StepError(
                    f"step type '{use}' promises {fact}: {value!r} of its output, but the output's "
                    f"`meta` has {meta[fact]!r}",
                    fix="correct `outputs` or `run`",
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
    """The error for an unexpected exception of a step. Its traceback goes to the log."""
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
    if isinstance(error, OSError) and (space_error := disk_full(error)):
        return space_error
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return StepError(
            f"out of memory: {str(error)[:200]}",
            fix="use smaller batches, a shorter max_length or a smaller model",
        )
    lines = text.strip().splitlines()
    lines = lines[: len(lines) - len(getattr(error, "__notes__", []))]
    if isinstance(error, SystemExit):
        return StepError(
            f"step type '{task.use}' calls sys.exit({error.code!r})",
            details=lines[-7:-1],
            fix="raise finery.StepError instead",
        )
    problem = f"step type '{task.use}' failed: {type(error).__name__}: {error}"
    details = lines[-7:-1]
    frames = traceback.extract_tb(error.__traceback__)
    # The frame below `DefaultRunner` is that of the step type's `run`.
    started = [i for i, frame in enumerate(frames[:-1]) if frame.name == "finery_run_step"]
    runs = [frames[i + 1].filename for i in started if frames[i].filename == __file__]
    place = raised_at(error, runs[-1]) if runs else None
    if place and not any(f'"{place.filename}", line {place.lineno},' in line for line in details):
        whole = details[1:] if not details[0].strip("^~ ") else details  # not the end of a frame
        details = [f"{place.filename}:{place.lineno}: {place.line}", *whole]
    is_missing = isinstance(error, NameError | KeyError | AttributeError | ImportError)
    fix = _missing_type_fix(str(error), task) if is_missing else ""
    return StepError(problem, fix=fix, details=details)


def _missing_type_fix(message: str, task: Task) -> str:
    """What to do if an error is about a step type that this process doesn't define."""
    words = {*re.findall(r"[\w.]+", message)}
    for path, names in task.left_out.items():
        text = Path(path).read_text("utf-8", "replace")
        for name in names:
            uses = re.findall(rf"""["']([\w.]+)["']: *{name}\b""", text)
            if not words.isdisjoint({name, *uses}):
                return (
                    f"name {name} in {shown(Path(path))} where the step uses it: this process "
                    "doesn't define it, since nothing in the code of the step names it"
                )
    return ""


def _die_with_parent(parent: int) -> None:
    """Have Linux kill this process with the main process. On other systems, a thread does it.

    parent: the main process, which may already be dead.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        _libc().prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1)
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)


if __name__ == "__main__":
    main()
