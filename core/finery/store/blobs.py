"""Blobs: files by digest, and how what a step left becomes blobs."""

import os
import shutil
from pathlib import Path

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import MANIFEST, Manifest, manifest
from finery.errors import StepError
from finery.store.repairs import make_folder, make_way
from finery.util.files import fsync, hash_file

FLUSHED_BYTES = 1 << 20
"""Files from this size on are fsynced by the worker that made them."""


def ingest(artifact: Artifact, out: Path, objects: Path) -> Manifest:
    """Move what a step left into `objects/` and describe it. Runs in the worker.

    Large files are fsynced here, in the worker; small ones in groups, by `Store.commit`. Empty
    folders aren't kept. Raises `StepError` where the step left something that can't be.
    """
    if artifact.digest:  # an input, handed on as it is
        return _manifest_of(artifact)
    if not artifact.path.is_relative_to(out):
        raise StepError(
            f"the step's output lies in {artifact.path}, not in job.out",
            fix="write it into job.out, or return an input as it is",
        )
    names = [(path.relative_to(artifact.path).as_posix(), path) for path in _left(artifact.path)]
    if any(name == MANIFEST for name, _ in names):
        raise StepError(
            f"the step left a file named {MANIFEST}, as finery's own is named",
            fix="name it otherwise, or put it into a subfolder",
        )
    files = {name: _keep(path, objects) for name, path in names}
    refs = {role: _manifest_of(ref) for role, ref in artifact.refs.items()}
    external = {name: _outside(path.absolute()) for name, path in artifact.external.items()}
    return manifest(artifact.kind, artifact.meta, files, refs, external, artifact.runtime)


def _manifest_of(ref: Artifact) -> Manifest:
    """The manifest that an input artifact came with.

    It travels in memory. The file in the artifact's folder is for people, who may edit it.
    """
    if ref.manifest is None:
        raise StepError("a step may only refer to artifacts that it was given as inputs")
    return ref.manifest


def _left(folder: Path) -> list[Path]:
    """The files of a step's output, sorted, with links replaced by what they point to."""
    paths = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            _materialise(path)
        elif path.is_dir():
            continue
        elif not path.is_file():
            raise StepError(f"the step left what is neither a file nor a folder: {path.name}")
        paths.append(path)
    return paths


def _keep(path: Path, objects: Path) -> tuple[str, int]:
    digest, size = hash_file(path), path.stat().st_size
    if size >= FLUSHED_BYTES:
        fsync(path)
    path.chmod(0o444)
    target = blob_path(objects, digest)
    try:
        path.rename(target)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        make_folder(target.parent)
        make_way(target)
        path.rename(target)
    return digest, size


def _outside(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def as_it_was(path: str, size: int, mtime: int) -> bool:
    """Whether a file outside the store is still the one that a step saw."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (size, mtime)


def _materialise(link: Path) -> None:
    """Make a link in a step's output a file of its own: the store owns every byte it keeps."""
    target = link.resolve()
    if target.is_dir():
        raise StepError(f"the step left a link to a folder: {link.name}", fix="copy the folder")
    if not target.is_file():
        raise StepError(f"the step left a broken link: {link.name}")
    link.unlink()
    shutil.copyfile(target, link)


def blob_path(objects: Path, digest: str) -> Path:
    """Where the blob of a digest lies."""
    return objects / digest[:2] / digest[2:]
