"""A step as a job in another environment: the job's folder, and the process that runs it there.

`python -m finery.execute.job FOLDER TOKEN PARENT` is the entry for every engine; `supervise` starts
it and survives it. Before the step starts, the entry compares this environment with `Task.expects`.
It looks nothing up, since the build computed the key.

A job's folder contains `task.json` (without the values of secrets), `job.json` (`About`), `log`,
`records.db` if the job runs on another machine, and `events.jsonl`, to which the job appends each
event as a line. So a build can end and another can read them all. Secrets come through the
environment, or in the file `secrets` (mode 0600), which the job removes when it starts.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from finery.errors import FineryError, StepError
from finery.execute import venv
from finery.execute.executor import Died, Done, Expects, Failed, Task
from finery.store.uses import JOB
from finery.util.files import FileState, file_state, hash_file
from finery.util.installed import package_version
from finery.util.paths import shown
from finery.util.text import some_of

CLOSING_EVENTS = ("done", "failed", "died")
BEGAN, INTERRUPTED = "began", "interrupted"
"""Events of a job's attempts, which aren't events of the step."""
SECRETS_FILE = "secrets"
END_SECONDS = 10.0
"""Seconds that a step gets to end by itself."""
_IGNORE_USR2 = 'trap "" USR2; exec "$@"'
"""Slurm announces the end of a job by this signal to all of its processes."""


class About(msgspec.Struct, kw_only=True):
    """What the next build must know about a job.

    executor: its name. id: of the engine, empty until it is submitted. token: differs for each
    submission; a job with another one doesn't start. host: the machine of the build. files: the
    state of each outside file before the job began.
    """

    executor: str
    token: str
    id: str = ""
    host: str = ""
    files: dict[str, FileState] = {}


class JobFolder:
    """The folder of a job, `work/KEY.job` in the store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events = path / "events.jsonl"
        self._read = 0

    @classmethod
    def of_task(cls, task: Task) -> "JobFolder":
        """The folder for a task's key."""
        return cls(Path(task.store, "work", f"{task.key}{JOB}"))

    def create(self, task: Task, executor: str) -> About:
        """Write the task, for a new job."""
        self.remove()
        self.path.mkdir()
        code = {_portable_path(path, task): hash_file(Path(path)) for path in task.code}
        job_task = msgspec.structs.replace(
            task, log=str(self.path / "log"), env=dict.fromkeys(task.env, ""), answers={},
            expects=msgspec.structs.replace(task.expects, code=code),
        )  # fmt: skip
        (self.path / "task.json").write_bytes(msgspec.json.encode(job_task))
        self.events.touch()
        about = About(
            executor=executor, token=os.urandom(8).hex(), host=socket.gethostname(),
            files={p: file_state(p) for paths in task.files.values() for _, p in paths},
        )  # fmt: skip
        self.write(about)
        return about

    def write(self, about: About) -> None:
        """Replace what is known about the job."""
        new_file = self.path / "job.json.new"
        new_file.write_bytes(msgspec.json.encode(about))
        new_file.replace(self.path / "job.json")

    def about(self) -> About | None:
        """What is known about the job; None if there is none."""
        try:
            return msgspec.json.decode((self.path / "job.json").read_bytes(), type=About)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def task(self) -> Task:
        """The task, with its secrets. The job calls it once."""
        task = msgspec.json.decode((self.path / "task.json").read_bytes(), type=Task)
        secrets, values = self.path / SECRETS_FILE, dict(os.environ)
        if secrets.exists():
            values |= msgspec.json.decode(secrets.read_bytes(), type=dict[str, str])
            secrets.unlink()
        task.env = {name: values[name] for name in task.env}
        return task

    def read(self) -> Iterator[Any]:
        """The events since the last call."""
        try:
            with self.events.open("rb") as file:
                file.seek(self._read)
                content = file.read()
        except FileNotFoundError:
            return
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            self._read += len(line)
            with contextlib.suppress(msgspec.DecodeError):  # cut off by the end of an attempt
                yield msgspec.json.decode(line)

    def closing(self) -> str:
        """The job's closing event, empty while there is none."""
        events = JobFolder(self.path).read()
        return next((e["event"] for e in events if e["event"] in CLOSING_EVENTS), "")

    def outdated(self, about: About) -> str:
        """Why the job can't give the result of its key any more; empty if it can.

        The code matters until the job begins, see `environment_differences`.
        """
        if any(file_state(path) != state for path, state in about.files.items()):
            return "files that it reads changed"
        if any(event["event"] == BEGAN for event in JobFolder(self.path).read()):
            return ""
        task = msgspec.json.decode((self.path / "task.json").read_bytes(), type=Task)
        code = task.expects.code.items()
        changed = [shown(Path(name)) for name, digest in code if _digest(name) != digest]
        return f"{some_of(changed, 3)} changed before it began" if changed else ""

    def append(self, event: Any) -> None:
        """Add an event. Closing ones are durable when it returns."""
        file = os.open(self.events, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(file, msgspec.json.encode(event) + b"\n")
            if event["event"] in CLOSING_EVENTS:
                os.fsync(file)
        finally:
            os.close(file)

    def remove(self) -> None:
        """Remove the folder, so that the job no longer counts."""
        shutil.rmtree(self.path, ignore_errors=True)


# -- in the job -----------------------------------------------------------------------------------


def supervise(
    path: str, token: str, python: str | None = None, *, variables: Mapping[str, str] | None = None
) -> None:
    """Run the job of a folder in a new process, and record how that process died, if it did.

    python: the interpreter of a step without an environment; None: that of this process.
    variables: the environment of the step; None: that of this process.

    A process that was told to end (SIGTERM) has no closing event: its job was cancelled, or it was
    preempted and continues later.
    """
    folder = JobFolder(Path(path))
    about = folder.about()
    if about is None or about.token != token:  # a later build has replaced this job
        return
    variables = dict(os.environ if variables is None else variables)
    task = msgspec.json.decode((folder.path / "task.json").read_bytes(), type=Task)
    if task.environment is not None:
        try:
            python = str(venv.ensure(task.environment, Path(task.store), folder.append))
        except FineryError as error:
            folder.append(Failed(event="failed", error=error.to_dict()))
            return
        variables = venv.variables_in(Path(python), variables)
    with (folder.path / "log").open("ab") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _IGNORE_USR2, "sh", python or sys.executable, "-P",
             "-m", "finery.execute.job", path, token, str(os.getpid())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, env=variables,
        )  # fmt: skip
    try:
        code = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGTERM)  # it has ended if it was told to end as well
            process.wait(END_SECONDS)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if folder.about() != about or folder.closing():  # the build removes the folder of a done job
        return
    is_terminated = code in (-signal.SIGTERM, 128 + signal.SIGTERM)
    folder.append({"event": INTERRUPTED} if is_terminated else Died(event="died", code=code))


def main() -> None:
    """Run a job's step in this process."""
    from finery.execute.worker import become_worker, run_task

    path, token, parent = sys.argv[1:]
    become_worker(int(parent))
    folder, lock = JobFolder(Path(path)), threading.Lock()
    about = folder.about()
    if about is None or about.token != token:
        return

    def send(event: Any) -> None:
        with lock:
            folder.append(event)

    with folder.events.open("r+b") as file:  # an earlier attempt may have been cut off
        if file.seek(0, os.SEEK_END):
            file.write(b"\n")
    send({"event": BEGAN, "host": socket.gethostname(), "at": time.time()})
    task = folder.task()
    code = {_file(name): digest for name, digest in task.expects.code.items()}
    mismatches = list(environment_differences(task.expects))
    if mismatches:
        error = StepError(
            f"{socket.gethostname()} doesn't have what the step's key says: {mismatches[0]}",
            details=mismatches[1:],
            fix="install the same versions in the environment of the job as in that of the build",
        )
        send(Failed(event="failed", error=error.to_dict()))
        return
    shutil.rmtree(task.out, ignore_errors=True)  # an earlier attempt may have left something
    os.mkdir(task.out)
    if about.host != socket.gethostname():  # SQLite can't share a database between machines
        task.records = str(folder.path / "records.db")
    closing: Done | Failed = run_task(task, send)
    # The build can't compare the states of files on another machine.
    imported = closing.pop("code", {}) if closing["event"] == "done" else {}
    for path, (_, digest) in imported.items():
        if code.get(path, digest) != digest:
            error = StepError(f"its code was changed as the job began: {path}", fix="build again")
            closing = Failed(event="failed", error=error.to_dict())
    send(closing)


def environment_differences(expects: Expects) -> Iterator[str]:
    """How this environment differs from the one that computed a step's key."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if sys.flags.optimize:
        python += f" -{'O' * sys.flags.optimize}"
    if expects.python and python != expects.python:
        yield f"Python is {python} there and {expects.python} here"
    for name, version in expects.packages.items():
        if (installed := package_version(name)) != version:
            yield f"package {name} is {installed} there and {version} here"
    for name, digest in expects.code.items():
        if (actual := _digest(name)) != digest:
            difference = "is missing there" if actual is None else "differs between there and here"
            yield f"the code in {name} {difference}"


def _file(name: str) -> str:
    """The file of code that a name in `Expects.code` means here; empty if it is missing."""
    paths = (Path(entry or ".", name) for entry in sys.path)  # an absolute name stays as it is
    return next((os.path.realpath(path) for path in paths if path.is_file()), "")


def _digest(name: str) -> str | None:
    """The digest of that file; None if it is missing."""
    return hash_file(Path(file)) if (file := _file(name)) else None


def _portable_path(path: str, task: Task) -> str:
    """A file of code as a path below an entry of `sys.path`; one beside a plugin file, as it is."""
    entries = [e for e in sys.path if e and path.startswith(f"{e.rstrip(os.sep)}{os.sep}")]
    nearest = max(entries, key=len, default="")
    is_beside = nearest in {os.path.dirname(plugin) for plugin in task.plugins}
    return os.path.relpath(path, nearest) if nearest and not is_beside else path


if __name__ == "__main__":
    main()
