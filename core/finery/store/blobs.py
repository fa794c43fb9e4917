"""Blobs: files by digest, and how a step's files become blobs."""

import fcntl
import os
import shutil
import signal
from itertools import chain
from pathlib import Path

from finery.artifact.kinds import Artifact, Bundle
from finery.artifact.manifest import MANIFEST, Manifest, manifest
from finery.errors import StepError
from finery.store.repairs import clear_path, make_folder
from finery.store.uses import gate
from finery.util.files import copy_file, fsync, hash_file

FLUSHED_BYTES = 1 << 20
"""Size in bytes from which the worker fsyncs its files itself."""


def ingest(artifact: Artifact, out: Path, objects: Path) -> Manifest:
    """Move a step's files into `objects/` and return their manifest. Runs in the worker.

    Large files are fsynced here. `Store.commit` fsyncs small ones in groups. Empty folders are
    dropped. Raises `StepError` for an output that can't be stored.
    """
    if artifact.digest:  # an input, returned unchanged
        return _manifest_of(artifact)
    if not artifact.path.is_relative_to(out):
        raise StepError(
            f"the step wrote its output to {artifact.path}, not to job.out",
            fix="write it to job.out, or return an input unchanged",
        )
    names = [
        (path.relative_to(artifact.path).as_posix(), path) for path in _output_files(artifact.path)
    ]
    if any(name == MANIFEST for name, _ in names):
        raise StepError(
            f"the step wrote a file named {MANIFEST}, a name that finery uses itself",
            fix="rename the file, or write it to a subfolder",
        )
    is_bundle = isinstance(artifact, Bundle)  # models and rows are the same with any mode
    executable = [name for name, path in names if is_bundle and path.stat().st_mode & 0o100]
    files = {name: _store_file(path, objects, name in executable) for name, path in names}
    refs = {role: _manifest_of(ref) for role, ref in artifact.refs.items()}
    stats = {name: (path.absolute(), path.stat()) for name, path in artifact.external.items()}
    external = {n: (str(path), stat.st_size, stat.st_mtime_ns) for n, (path, stat) in stats.items()}
    facts = artifact.kind, artifact.meta, files, refs, external, artifact.runtime
    return manifest(*facts, executable)


def _manifest_of(ref: Artifact) -> Manifest:
    """The manifest of an input artifact.

    It is passed in memory. The file in the artifact's folder is for people, who may edit it.
    """
    if ref.manifest is None:
        raise StepError("a step may refer only to artifacts that are its inputs")
    return ref.manifest


def _output_files(folder: Path) -> list[Path]:
    """The files of a step's output, sorted. Links are replaced by copies of their targets."""
    paths = []
    inside = os.walk(folder)  # `rglob` compiles its pattern in each process
    for path in sorted(Path(top, name) for top, *lists in inside for name in chain(*lists)):
        if path.is_symlink():
            _materialise(path)
        elif path.is_dir():
            continue
        elif not path.is_file():
            raise StepError(
                f"the step's output contains {path.name}, which is neither a file nor a folder"
            )
        paths.append(path)
    return paths


def _store_file(path: Path, objects: Path, is_executable: bool) -> tuple[str, int]:
    """Move a file into `objects/`; its digest and size.

    First it gets a name that nobody knows. From then on, only who has it open can write to it.
    """
    private = path.with_name(f".{os.urandom(8).hex()}")
    path.rename(private)
    if may_have_writer(private):
        with gate(objects.parent) as gate_file:
            os.utime(gate_file)  # it may be another name of an input, see `links.guard_inputs`
        shared, private = private, private.with_suffix(".copy")
        _copy(shared, private, path.name)
        shared.unlink()
    private.chmod(0o444)
    digest, size = hash_file(private), private.stat().st_size
    if size >= FLUSHED_BYTES:
        fsync(private)
    # Another artifact may have the same content as an executable file.
    if is_executable or os.access(blob_path(objects, digest), os.X_OK):
        private.chmod(0o555)
    put_blob(private, objects, digest)
    return digest, size


def may_have_writer(path: Path) -> bool:
    """Whether something may have a file open for writing or mapped, or knows another name of it.

    The kernel gives no read lease for such a file: that of a thread, a child process, or a mapping
    whose file is closed. Without leases (macOS, NFS, files of other users), nobody knows.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(file).st_nlink > 1:
            return True
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)  # not SIGIO, which would end this process
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)  # until it is closed
    except (AttributeError, OSError):
        return True
    finally:
        os.close(file)
    return False


def _copy(source: Path, target: Path, name: str) -> None:
    """Copy a file of a step's output. Raises `StepError` if something writes to it meanwhile."""
    is_written = may_have_writer(source)
    copy_file(source, target)
    if is_written and hash_file(source) != hash_file(target):
        raise StepError(
            f"something still writes to {name}, a file of the step's output",
            fix="close the file, and end what writes to it, before the step returns",
        )


def put_blob(path: Path, objects: Path, digest: str) -> None:
    """Move a complete file to its place, also where such a blob is: only then it is new."""
    target = blob_path(objects, digest)
    with gate(objects.parent):
        try:
            path.rename(target)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            make_folder(target.parent)
            clear_path(target)
            path.rename(target)


def changed_input(ref: str, name: str) -> StepError:
    """The error for a step whose input `ref` has another file `name` than before it ran."""
    return StepError(
        f"its input '{ref}' was changed while it ran: {name}",
        fix="build again. If the step itself writes to its input, or makes a hard link to it and "
        "removes that, let it copy the file first, e.g. to job.scratch",
    )


def is_unchanged(path: str, size: int, mtime: int) -> bool:
    """Whether a file outside the store is unchanged since a step used it."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (size, mtime)


def _materialise(link: Path) -> None:
    """Replace a link in a step's output by a copy, since the store must own its files."""
    target = link.resolve()
    if target.is_dir():
        raise StepError(
            f"the step's output contains a link to a folder: {link.name}", fix="copy the folder"
        )
    if not target.is_file():
        raise StepError(f"the step's output contains a broken link: {link.name}")
    link.unlink()
    _copy(target, link, link.name)
    shutil.copymode(target, link)


def blob_path(objects: Path, digest: str) -> Path:
    """The path of the blob with this digest."""
    return objects / digest[:2] / digest[2:]
