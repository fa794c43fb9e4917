"""What travels through a shared store for a job on a machine that shares no folder with the build.

Files are blobs there. The rest is in objects of the job, sealed with a secret that only the build
and the job have, since others may write to the shared store:

    jobs/TOKEN/task      what to run, and where its files are (`Parcel`)
    jobs/TOKEN/000000    new events and lines of the log (`Chunk`), followed by 000001, …

`finery.execute.courier` is the build's side, `finery.execute.node` the job's.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
from blake3 import blake3

from finery.artifact.manifest import Manifest, manifest, with_references
from finery.errors import RemoteError
from finery.execute.executor import Task
from finery.store.blobs import blob_path
from finery.store.layout import Blob, PackedFiles
from finery.store.remote import Remote
from finery.util.files import hash_file

T = TypeVar("T", bound=msgspec.Struct)
JOB_ADDRESS_VARIABLE = "FINERY_JOB_ADDRESS"
"""The environment variable with which a job gets its `JobAddress`."""
NO_ACCESS = "the node can't open the shared store"
"""What a job prints that can't reach its parcel, before the URL and the reason."""
Contents = dict[str, tuple[str, int]]
"""Path of a file → (digest, bytes)."""
_SEAL_BYTES = 32


class JobAddress(msgspec.Struct, kw_only=True):
    """Where a job finds its parcel. The URL and the secret must not be in a command line.

    folder: of the node, for what later jobs need again. finery: the version that the build has.
    sent: how many chunks the job has sent so far.
    """

    url: str
    token: str
    secret: str
    folder: str
    finery: str
    sent: int = 0


class Parcel(msgspec.Struct, kw_only=True):
    """What a job gets.

    task: with paths of the build's machine, and without the values of secrets. variables: what
    plugins add to the step's environment. files: those at absolute paths of the build's machine.
    packed: where small files are.
    """

    task: Task
    variables: dict[str, str]
    files: Contents
    packed: PackedFiles


class Chunk(msgspec.Struct, kw_only=True):
    """What a job sends: whole lines of events, and bytes of its log, with paths as in its parcel.

    The last one says where the files of the outputs are, and has the database of answers.
    """

    events: bytes
    log: bytes
    packed: PackedFiles = {}
    answers: Contents = {}
    is_last: bool = False


class Mailbox:
    """The objects of a job."""

    def __init__(self, remote: Remote, token: str, secret: str) -> None:
        self._objects = remote.objects
        self._token = token
        self._secret = bytes.fromhex(secret)

    def put(self, name: str, content: msgspec.Struct) -> None:
        """Write an object. Raises `RemoteError`."""
        body = msgspec.msgpack.encode(content)
        self._objects.put(self._path(name), self._seal(name, body) + body)

    def get(self, name: str, kind: type[T]) -> T | None:
        """An object; None if it isn't there yet. Raises `RemoteError`, also for a wrong seal."""
        data = self._objects.read(self._path(name))
        if data is None:
            return None
        body = data[_SEAL_BYTES:]
        if self._seal(name, body) != data[:_SEAL_BYTES]:
            raise RemoteError(f"{self._path(name)} wasn't written by the job or its build")
        return msgspec.msgpack.decode(body, type=kind)

    def _path(self, name: str) -> str:
        return f"jobs/{self._token}/{name}"

    def _seal(self, name: str, body: bytes) -> bytes:
        return blake3(self._path(name).encode() + b"\n" + body, key=self._secret).digest()


def push_files(remote: Remote, paths: Iterable[str]) -> tuple[Contents, PackedFiles]:
    """Copy files at any paths to the shared store, unless they are there."""
    contents: Contents = {}
    with tempfile.TemporaryDirectory(prefix="finery-") as folder:
        for path in dict.fromkeys(paths):
            contents[path] = hash_file(Path(path)), os.stat(path).st_size
            link = blob_path(Path(folder, "objects"), contents[path][0])
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(os.path.abspath(path))
        return contents, remote.push(Path(folder), [Manifest("", {}, contents, "", "")])


def fetch_files(
    remote: Remote, root: Path, files: Iterable[tuple[str, int]], packed: PackedFiles
) -> None:
    """Copy files to the store at `root`, unless they are there. Raises `BlobsLost`."""
    missing = []
    for digest, size in dict.fromkeys(files):
        path = blob_path(root / "objects", digest)
        if not path.exists() or hash_file(path) != digest:
            missing.append(Blob(digest, size, *packed.get(digest, (digest, 0))))
    remote.bring(root, missing)


def input_manifests(task: Task) -> list[Manifest]:
    """The inputs of a task and all artifacts that they refer to."""
    artifacts = (artifact for pairs in task.inputs.values() for _, artifact in pairs)
    return [part for artifact in artifacts for part in with_references(artifact)]


def relocate(
    artifact: Manifest, local: Mapping[str, Manifest], place: Callable[[str], str] = str
) -> Manifest:
    """The artifact on another machine: the known one with its digest, or with other paths.

    place: where an outside file is on this machine.
    """
    if artifact.digest in local or not (artifact.refs or artifact.external):
        return local.get(artifact.digest, artifact)
    refs = {role: relocate(ref, local, place) for role, ref in artifact.refs.items()}
    external = {}
    for name, (path, *_) in artifact.external.items():
        state = os.stat(place(path))
        external[name] = place(path), state.st_size, state.st_mtime_ns
    facts = artifact.kind, artifact.meta, artifact.files, refs, external, artifact.runtime
    return manifest(*facts, artifact.executable)
