"""Artifacts as plain files: copied out of the store, for people who don't have it."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from finery.artifact.manifest import Manifest
from finery.errors import UsageError
from finery.store.database import Store
from finery.util.files import copy_file
from finery.util.paths import path_in

Progress = Callable[[int, int], None]
"""Takes the bytes that are copied, of how many."""


class Copy(NamedTuple):
    """A file to copy: where it is, its name in the target, its bytes, whether it can be run."""

    source: Path
    name: str
    size: int
    is_executable: bool = False


def files_of(store: Store, manifest: Manifest, *, references: bool) -> list[Copy]:
    """The files of an artifact.

    references: also those of the artifacts that it refers to, in a folder that is named after what
    they are to it (`base`).
    """
    store.shared.bring([manifest])
    return list(_files(store, manifest, references, ""))


def _files(store: Store, manifest: Manifest, references: bool, prefix: str) -> Iterator[Copy]:
    for name, (digest, size) in manifest.files.items():
        yield Copy(store.blob(digest), f"{prefix}{name}", size, name in manifest.executable)
    for name, (path, size, _) in manifest.external.items():
        yield Copy(Path(path), f"{prefix}{name}", size)
    if references:
        for role, ref in manifest.refs.items():
            yield from _files(store, ref, references, f"{prefix}{role}/")


def check_target(store: Store, folder: Path, *, force: bool) -> None:
    """Raise `UsageError` where a copy can't be put into a folder, or would replace something."""
    if folder.is_relative_to(os.path.realpath(store.root)):
        raise UsageError(
            "this folder belongs to finery's store", where=str(folder), fix="name another folder"
        )
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError("is a file", where=str(folder), fix="name a folder")
    if any(folder.iterdir()) and not force:
        raise UsageError(
            "the folder isn't empty",
            where=str(folder),
            fix="name another folder, or add --force to replace files of the same name",
        )


def copy_files(files: Sequence[Copy], folder: Path, progress: Progress) -> None:
    """Copy files into a new folder. Where the file system can share their blocks, it does."""
    total, done = sum(file.size for file in files), 0

    def count(copied: int) -> None:
        nonlocal done
        done += copied
        progress(done, total)

    folder.mkdir(parents=True)
    for file in files:
        target = path_in(folder, file.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(file.source, target, count)
        if file.is_executable:
            mode = target.stat().st_mode
            target.chmod(mode | (mode & 0o444) >> 2)  # for those who may read it


def put_in_place(staged: Path, folder: Path) -> None:
    """Move a complete copy to its destination, replacing files of the same name.

    An existing folder is kept, because it may be a mount point or a shell's working directory.
    """
    if not folder.exists():
        staged.rename(folder)
        return
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    moves = [(path, folder / path.relative_to(staged)) for path in files]
    for _, target in moves:
        _check_replaceable(target, folder)
    for path, target in moves:
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(staged)


def _check_replaceable(target: Path, folder: Path) -> None:
    """Raise `UsageError` where a folder is in a file's way, or a link leads somewhere else."""
    if target.is_dir():
        raise UsageError("a folder is in the way", where=str(target), fix="remove it")
    for parent in target.parents:
        if parent == folder:
            return
        if parent.is_symlink() or parent.is_file():
            raise UsageError("a file or a link is in the way", where=str(parent), fix="remove it")
