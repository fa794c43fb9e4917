"""The base of executors whose machines share no folder with that of the build, such as Ray's.

A job's inputs and outputs travel through the shared store (`finery.execute.parcel`). A thread for
each job sends what it needs, has it submitted, and then feeds its events and its log to the job's
folder, so that all else is as with a shared folder.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from finery.artifact.manifest import Manifest
from finery.errors import FineryError, RemoteError, StepError, UsageError
from finery.execute.detached import JOB_CANCELLED, JOB_RUNS, DetachedExecutor
from finery.execute.executor import Failed, Task
from finery.execute.job import About, JobFolder
from finery.execute.node import report_event as report_event
from finery.execute.parcel import JOB_ADDRESS_VARIABLE as JOB_ADDRESS_VARIABLE
from finery.execute.parcel import (
    NO_ACCESS,
    Chunk,
    Mailbox,
    Parcel,
    fetch_files,
    input_manifests,
    push_files,
    relocate,
)
from finery.execute.parcel import JobAddress as JobAddress
from finery.plugin.manager import load_plugins
from finery.store.blobs import blob_path
from finery.store.layout import BlobsLost
from finery.store.remote import Remote
from finery.util.installed import package_version

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two looks for news of a job at its start, and later."""
LAST_NEWS_SECONDS = 5.0
"""Seconds to wait for the last news of a job that has ended."""
SECRET_FILE = "secret"
"""The file in a job's folder with the secret of its objects in the shared store (mode 0600)."""


class CourierExecutor(DetachedExecutor):
    """Submits steps as jobs to machines without a shared folder.

    remote: the URL of the shared store. folder: where nodes keep their files. Raises `UsageError`
    without a shared store. no_access: in the last words of a job that can't reach it.
    """

    submitted, no_access = "being submitted as", NO_ACCESS

    def __init__(self, jobs: int | None, remote: str | None, folder: str) -> None:
        super().__init__(jobs)
        if not remote:
            raise UsageError(
                f"executor '{self.name}' needs a shared store, through which files reach the nodes",
                fix='set `remote` in finery.toml, e.g. remote = "s3://bucket/prefix"',
            )
        self._url, self._cache = remote, folder
        self._remote: Remote | None = None
        self._couriers: dict[str, _Courier] = {}  # by the id of their job

    # -- what a subclass does ----------------------------------------------------------------------

    def launch(self, task: Task, job_id: str, variables: Mapping[str, str]) -> None:
        """Submit a job that runs `python -m finery.execute.node` with these variables.

        Called in a thread. Raises `FineryError` if the engine refuses it.
        """
        raise NotImplementedError

    def job_id(self, task: Task, token: str) -> str:
        """The id of a task's job in the engine."""
        raise NotImplementedError

    def ask(self, ids: Sequence[str]) -> Mapping[str, str]:
        """The states of jobs, see `states`."""
        raise NotImplementedError

    # -- what the base class asks for --------------------------------------------------------------

    def submit(self, tasks: Sequence[Task], calls: Sequence[tuple[str, str]]) -> list[str]:
        """Start to send and submit the tasks."""
        remote, ids = self._open_remote(), []
        for task, (path, token) in zip(tasks, calls, strict=True):
            folder, secret = JobFolder(Path(path)), os.urandom(32).hex()
            with open(
                os.open(folder.path / SECRET_FILE, os.O_WRONLY | os.O_CREAT, 0o600), "w"
            ) as file:
                file.write(secret)
            box, job_id = Mailbox(remote, token, secret), self.job_id(task, token)
            address = JobAddress(
                url=remote.url, token=token, secret=secret, folder=self._cache,
                finery=package_version("finery"),
            )  # fmt: skip
            send = partial(self._send, task, job_id, folder, box, address)
            self._couriers[job_id] = _Courier(task, folder, remote, box, token, send)
            ids.append(job_id)
        return ids

    def _send(
        self, task: Task, job_id: str, folder: JobFolder, box: Mailbox, address: JobAddress
    ) -> None:
        box.put("task", _make_parcel(task, folder, self._open_remote()))
        self.launch(
            task, job_id, {**task.env, JOB_ADDRESS_VARIABLE: msgspec.json.encode(address).decode()}
        )

    def follow(self, task: Task, folder: JobFolder, about: About) -> None:
        """Read all that a job has sent."""
        if about.id in self._couriers:
            return
        remote = self._open_remote()
        box = Mailbox(remote, about.token, (folder.path / SECRET_FILE).read_text())
        self._couriers[about.id] = _Courier(task, folder, remote, box, about.token, None)

    def states(self, ids: Sequence[str]) -> Mapping[str, str]:
        """The states of jobs. One that has ended runs until its last news are here."""
        couriers = {i: self._couriers[i] for i in ids if i in self._couriers}
        states = {
            i: JOB_RUNS for i, courier in couriers.items() if not courier.is_submitted.is_set()
        }
        submitted_ids = [i for i in ids if i not in states]
        states |= self.ask(submitted_ids) if submitted_ids else {}
        for job_id, courier in couriers.items():
            if states.get(job_id) != JOB_RUNS:
                courier.is_over.set()
                courier.join(LAST_NEWS_SECONDS)
                if courier.is_alive():
                    states[job_id] = JOB_RUNS
        return states

    def is_over(self, folder: JobFolder, about: About) -> bool:
        """Only of a cancelled job that is known, since others may have left a result there."""
        return self.ask([about.id]).get(about.id) == JOB_CANCELLED

    def close(self) -> None:
        """Stop to follow jobs, and forget those that weren't submitted."""
        super().close()
        for courier in self._couriers.values():
            courier.stopped.set()
        if self._remote:
            self._remote.stop()
        for courier in self._couriers.values():
            courier.join()
        for job in [*self._running.values()]:
            if not self._couriers[job.about.id].is_submitted.is_set():
                job.folder.remove()
                del self._running[job.task.key]

    def _open_remote(self) -> Remote:
        if self._remote is None:
            self._remote = Remote(self._url)
        return self._remote


class _Courier(threading.Thread):
    """Follows a job. send: submits it first.

    is_submitted: whether the engine has the job. is_over: whether the job has ended, so
    that nothing comes once all is read. stopped: whether the build ends.
    """

    def __init__(
        self, task: Task, folder: JobFolder, remote: Remote, box: Mailbox, token: str,
        send: Callable[[], None] | None,
    ) -> None:  # fmt: skip
        super().__init__(daemon=True)
        self._task, self._folder, self._remote, self._box = task, folder, remote, box
        self._token, self._submit = token, send
        self.is_submitted, self.is_over, self.stopped = (threading.Event() for _ in range(3))
        for path in (folder.events, folder.path / "log"):
            path.write_bytes(b"")
        self.start()

    def run(self) -> None:
        """Submit the job, and follow it until its last news or until the build ends."""
        try:
            if self._submit is not None:
                self._submit()
            self.is_submitted.set()
            self._follow()
        except FineryError as error:
            self._fail(error)
        except OSError as error:
            self._fail(StepError(f"its files can't be copied: {error}"))

    def _fail(self, error: FineryError) -> None:
        if not self.stopped.is_set():
            self._write([Failed(event="failed", error=error.to_dict())])

    def _write(self, events: Sequence[object]) -> None:
        about = self._folder.about()
        with contextlib.suppress(FileNotFoundError):  # the job was cancelled
            for event in events if about is not None and about.token == self._token else ():
                self._folder.append(event)

    def _follow(self) -> None:
        number, pause = 0, FIRST_PAUSE
        while True:
            try:
                is_over = self.is_over.is_set()  # before the look, since it may end meanwhile
                chunk = self._box.get(f"{number:06}", Chunk)
                if chunk is not None:
                    self._receive(chunk)
                    number += 1
                    if chunk.is_last:
                        return
                    continue
                if is_over:
                    return
            except BlobsLost as error:
                if not error.is_down:
                    raise
                if not self.stopped.is_set():
                    self._remote.down = ""
            except RemoteError as error:  # it may answer again
                self._remote.warn("doesn't answer", error.what)
            if self.stopped.wait(pause):
                return
            pause = min(1.1 * pause, LONGEST_PAUSE)

    def _receive(self, chunk: Chunk) -> None:
        """Add what a job sent to its folder, outputs first."""
        task, store = self._task, Path(self._task.store)
        events = [msgspec.json.decode(line) for line in chunk.events.splitlines() if line]
        if chunk.answers:
            fetch_files(self._remote, self._folder.path, chunk.answers.values(), chunk.packed)
            for digest, _ in chunk.answers.values():
                blob = blob_path(self._folder.path / "objects", digest)
                blob.chmod(0o600)
                blob.replace(self._folder.path / "records.db")
        for event in events:
            if event["event"] == "done":
                outputs = msgspec.convert(event["outputs"], dict[str, Manifest])
                inputs = {output.digest: output for output in input_manifests(task)}
                new_outputs = [output for output in outputs.values() if output.digest not in inputs]
                files = [file for output in new_outputs for file in output.files.values()]
                fetch_files(self._remote, store, files, chunk.packed)
                event["outputs"] = {
                    name: relocate(output, inputs) for name, output in outputs.items()
                }
        with contextlib.suppress(FileNotFoundError), (self._folder.path / "log").open("r+b") as log:
            log.seek(0, os.SEEK_END)
            log.write(chunk.log)
        self._write(events)


def _make_parcel(task: Task, folder: JobFolder, remote: Remote) -> Parcel:
    """What a job needs, after all its files are in the shared store."""
    job_task = msgspec.json.decode((folder.path / "task.json").read_bytes(), type=Task)
    packed = remote.push(Path(task.store), input_manifests(task))
    files, packed_files = push_files(remote, _outside_files(job_task))
    variables = load_plugins(tuple(map(Path, task.plugins)), task.entry_points).worker_environment(
        task.use, alone=True, here=False
    )
    variables = {name: os.environ.get(name, value) for name, value in variables.items()}
    if task.resources.cpus:
        variables.setdefault("OMP_NUM_THREADS", str(task.resources.cpus))
    return Parcel(task=job_task, variables=variables, files=files, packed=packed | packed_files)


def _outside_files(task: Task) -> Iterator[str]:
    """The files that a step reads from anywhere but its store."""
    yield from task.plugins
    yield from (path for paths in task.files.values() for _, path in paths)
    yield from (
        path for artifact in input_manifests(task) for path, *_ in artifact.external.values()
    )
    yield from filter(os.path.isabs, task.expects.code)
