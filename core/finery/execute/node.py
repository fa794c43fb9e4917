"""A job on a machine that shares no folder with the build: the process that its engine starts.

`python -m finery.execute.node` finds its parcel by `FINERY_JOB_ADDRESS`, and rebuilds the task in
a store of the node, which stays for the next jobs: files that are there aren't copied again, and a
step finds the scratch of an attempt that was killed on this node. Then the step runs like any job
(`supervise`), and its events, log and outputs go to the shared store. The step gets the variables
that all steps get, and its own, but not those with which this process reaches the shared store.
"""

import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from finery.artifact.manifest import Manifest
from finery.errors import FineryError, RemoteError, StepError
from finery.execute.environment import inherited_variables
from finery.execute.executor import Failed, Logged, Task
from finery.execute.job import CLOSING_EVENTS, About, JobFolder, supervise
from finery.execute.parcel import (
    JOB_ADDRESS_VARIABLE,
    NO_ACCESS,
    Chunk,
    Contents,
    JobAddress,
    Mailbox,
    Parcel,
    fetch_files,
    input_manifests,
    push_files,
    relocate,
)
from finery.store.blobs import blob_path
from finery.store.database import Store
from finery.store.layout import PackedFiles
from finery.store.objects import public_url
from finery.store.remote import Remote
from finery.store.uses import JOB
from finery.util.installed import package_version

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two chunks at the start of a job, and later."""
MAX_LOG_BYTES = 4 << 20
"""Most bytes of a log in a chunk."""
RETRY_SECONDS = 3600
"""Seconds for which a job that is done tries to reach the shared store."""


def main() -> None:
    """Run the job in this process's environment."""
    address = msgspec.json.decode(os.environ.pop(JOB_ADDRESS_VARIABLE), type=JobAddress)
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if (version := package_version("finery")) != address.finery:
        sys.exit(f"finery is {version} there and {address.finery} here: install the same version")
    try:
        remote = Remote(address.url)
        box = Mailbox(remote, address.token, address.secret)
        parcel = box.get("task", Parcel)
    except FineryError as error:
        sys.exit(f"{NO_ACCESS} {public_url(address.url)}: {error.what}")
    if parcel is None:
        sys.exit(
            f"the shared store {public_url(address.url)} on this node doesn't have the job's task"
        )
    root = Path(address.folder).expanduser() / blake3(address.url.encode()).hexdigest(8)
    Store(root).close()
    with (root / "work" / f"{parcel.task.key}.node").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = "waiting for another job on this node that runs the same step"
            report_event(address, Logged(event="log", message=message))
            fcntl.flock(lock, fcntl.LOCK_EX)
        _Node(remote, box, parcel, root, address.sent).run(address.token)


def report_event(address: JobAddress, event: Mapping[str, Any]) -> None:
    """Send an event of a job whose step doesn't run yet. Nothing follows a closing one."""
    line = msgspec.json.encode(event) + b"\n"
    box = Mailbox(Remote(address.url), address.token, address.secret)
    chunk = Chunk(events=line, log=b"", is_last=_is_closing(line))
    box.put(f"{address.sent:06}", chunk)
    address.sent += 1


def _end_with(parent: int) -> None:
    """End this process when the engine's process that started it ends, and the step with it."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


class _Node:
    """A job in the node's store at `root`."""

    def __init__(self, remote: Remote, box: Mailbox, parcel: Parcel, root: Path, sent: int) -> None:
        self._remote, self._box, self._parcel, self._root = remote, box, parcel, root
        work, key = root / "work", parcel.task.key
        self._tree = work / f"{key}.tree"  # below it, files have the paths of the build's machine
        self._out, self._scratch = work / key, work / f"{key}.scratch"
        self._folder = JobFolder(work / f"{key}{JOB}")
        self._sent = {"events.jsonl": 0, "log": 0}
        self._number = sent
        self._ended = threading.Event()

    def run(self, token: str) -> None:
        """Run the step, and send what comes out of it meanwhile."""
        folder = self._folder
        folder.path.mkdir(exist_ok=True)  # an attempt that was killed may have left answers
        for name in self._sent:
            (folder.path / name).write_bytes(b"")
        sender = threading.Thread(target=self._send_all, daemon=True)
        sender.start()
        try:
            try:
                task = self._fetch_task()
                (folder.path / "task.json").write_bytes(msgspec.json.encode(task))
                folder.write(About(executor="", token=token))
                if task.recipe:
                    Path(task.recipe).mkdir(parents=True, exist_ok=True)
                    os.chdir(task.recipe)
                secrets = {name: os.environ[name] for name in task.env}
                variables = inherited_variables() | self._parcel.variables | secrets
                supervise(str(folder.path), token, variables=variables)
            except OSError as error:
                raise StepError(f"can't write on the node: {error}") from error
        except FineryError as error:
            folder.append(Failed(event="failed", error=error.to_dict()))
        finally:  # also if this process is told to end
            self._ended.set()
            sender.join()
            self._finish()

    def _node_path(self, path: str) -> str:
        return f"{self._tree}{os.path.abspath(path)}"

    def _fetch_task(self) -> Task:
        """Bring what the step needs; its task with paths of this machine."""
        task, parcel = self._parcel.task, self._parcel
        files = [file for manifest in input_manifests(task) for file in manifest.files.values()]
        fetch_files(self._remote, self._root, [*files, *parcel.files.values()], parcel.packed)
        shutil.rmtree(self._tree, ignore_errors=True)
        for path, (digest, _) in parcel.files.items():
            target = Path(self._node_path(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(blob_path(self._root / "objects", digest), target)
        code = {
            self._node_path(name) if os.path.isabs(name) else name: digest
            for name, digest in task.expects.code.items()
        }
        return msgspec.structs.replace(
            task,
            inputs={
                name: [(ref, relocate(m, {}, self._node_path)) for ref, m in pairs]
                for name, pairs in task.inputs.items()
            },
            files={
                setting: [(name, self._node_path(path)) for name, path in pairs]
                for setting, pairs in task.files.items()
            },
            plugins=[*map(self._node_path, task.plugins)],
            project=task.project and self._node_path(task.project),
            recipe=task.recipe and self._node_path(task.recipe),
            code=[*map(self._node_path, task.code)],
            expects=msgspec.structs.replace(task.expects, code=code),
            store=str(self._root), out=str(self._out), scratch=str(self._scratch),
            log=str(self._folder.path / "log"),
        )  # fmt: skip

    # -- from there to here ------------------------------------------------------------------------

    def _send_all(self) -> None:
        pause = FIRST_PAUSE
        while not self._ended.wait(pause):
            with suppress(RemoteError):  # the next attempt sends all of it
                self._send()
            pause = min(1.1 * pause, LONGEST_PAUSE)

    def _send(self, packed: PackedFiles | None = None, answers: Contents | None = None) -> None:
        """Send what is new. The last chunk, with `packed`, has the closing event."""
        is_last = packed is not None
        new_content = {name: self._unsent(name) for name in self._sent}
        lines = new_content["events.jsonl"].splitlines(keepends=True)
        if not is_last:
            lines = [line for line in lines if line.endswith(b"\n")]
            closing = (n for n, line in enumerate(lines) if _is_closing(line))
            lines = lines[: next(closing, len(lines))]
        new_content["events.jsonl"] = b"".join(lines)
        if any(new_content.values()) or is_last:
            events, log = map(self._with_build_paths, new_content.values())
            chunk = Chunk(
                events=events, log=log, packed=packed or {}, answers=answers or {}, is_last=is_last
            )  # fmt: skip
            self._box.put(f"{self._number:06}", chunk)
            self._number += 1
            for name, data in new_content.items():
                self._sent[name] += len(data)

    def _unsent(self, name: str) -> bytes:
        with (self._folder.path / name).open("rb") as file:
            file.seek(self._sent[name])
            return file.read(MAX_LOG_BYTES if name == "log" else -1)

    def _with_build_paths(self, text: bytes) -> bytes:
        """Text with the paths of the build's machine."""
        build_store = self._parcel.task.store.encode()
        return text.replace(bytes(self._tree), b"").replace(bytes(self._root), build_store)

    def _finish(self) -> None:
        """Send the outputs, the answers and the rest, and remove what no other job needs."""
        *_, closing = [{"event": ""}, *JobFolder(self._folder.path).read()]
        answers, task = self._folder.path / "records.db", self._parcel.task
        input_digests = {output.digest for output in input_manifests(task)}
        deadline, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE
        while True:
            try:
                packed: PackedFiles = {}
                if closing["event"] == "done":
                    outputs = msgspec.convert(closing["outputs"], dict[str, Manifest]).values()
                    packed |= self._remote.push(
                        self._root,
                        [output for output in outputs if output.digest not in input_digests],
                    )
                contents, packed_answers = push_files(
                    self._remote, map(str, filter(Path.exists, [answers]))
                )
                while self._unsent("log")[MAX_LOG_BYTES - 1 :]:
                    self._send()
                self._send(packed | packed_answers, contents)
                break
            except RemoteError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, 30.0)
        for path in (self._folder.path, self._tree, self._out):
            shutil.rmtree(path, ignore_errors=True)
        if closing["event"] == "done":
            shutil.rmtree(self._scratch, ignore_errors=True)


def _is_closing(line: bytes) -> bool:
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(line)["event"] in CLOSING_EVENTS
    return False


if __name__ == "__main__":
    main()
