"""Views: artifacts as folders of links into the store, and the links to them under `build/`."""

import os
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path

import msgspec

from finery.artifact.kinds import KINDS, Artifact
from finery.artifact.manifest import MANIFEST, Manifest, with_references
from finery.errors import StepError, UsageError, disk_full
from finery.store.blobs import blob_path, changed_input
from finery.store.repairs import set_aside, warn
from finery.store.uses import GATE
from finery.util.files import ABSENT, file_state, hash_file
from finery.util.locks import file_locked
from finery.util.paths import path_in

REMOTE_SUFFIX = ".remote.txt"
"""The end of the name of a text in place of a link: the output is only in a shared store."""
MAX_HELD_FILES = 200
"""Files of inputs that are held open while a step runs; a process may often open 1,024."""
_VIEW_TARGET = re.compile(r"/views/[0-9a-f]{64}$")
"""The target of a link in `build/`."""


def open_artifact(root: Path, manifest: Manifest) -> Artifact:
    """The artifact of a manifest, as a folder of links into the store at `root`."""
    artifact = KINDS[manifest.kind](
        open_view(root, manifest),
        meta=manifest.meta,
        refs={role: open_artifact(root, ref) for role, ref in manifest.refs.items()},
        external={name: Path(path) for name, (path, *_) in manifest.external.items()},
        runtime=manifest.runtime,
    )
    artifact.digest = manifest.digest
    artifact.manifest = manifest
    return artifact


def is_whole_view(root: Path, manifest: Manifest) -> bool:
    """Whether the artifact's folder of links exists and is unchanged."""
    folder = root / "views" / manifest.view
    return _is_view(folder, _links(manifest), _description(manifest))


@contextmanager
def guard_inputs(root: Path, inputs: Iterable[tuple[str, Manifest]]) -> Iterator[None]:
    """Raise `StepError` after the block if a file of these inputs isn't what it was before.

    An exception of the block gets a note instead, since that may be why. inputs: name → artifact. A
    link that was replaced counts, too, e.g. by an editor; a file that was added to the folder of
    links doesn't.
    """
    files = [
        (ref, name, f"{root}/views/{part.view}/{name}", target, part.files.get(name, ("", 0))[0])
        for ref, manifest in inputs
        for part in with_references(manifest)
        for name, target in _links(part).items()
    ]
    held = _hold_files(link for _, _, link, _, _ in files)
    states_before = [_full_state(link) for _, _, link, _, _ in files]
    adoption_time = file_state(f"{root}/{GATE}")[3]

    def changes() -> Iterator[StepError]:
        states_after = [_full_state(link) for _, _, link, _, _ in files]
        is_adopting = file_state(f"{root}/{GATE}")[3] != adoption_time
        for (ref, name, link, target, digest), state, state_now in zip(
            files, states_before, states_after, strict=True
        ):
            # Another step may have put the same content there. One that wrote to the file and
            # restored it may have been seen in between: then its ctime differs, perhaps nothing
            # else. That also differs with another mode, another name, or a build that takes over
            # results.
            is_touched = state_now[4] != state[4] and state_now[5:] == state[5:] and not is_adopting
            is_written = state_now[1] == state[1] and (state_now[3] != state[3] or is_touched)
            try:
                is_same = os.readlink(link) == target and (
                    state_now == state or (not is_written and hash_file(Path(link)) == digest)
                )
            except OSError:
                is_same = False
            if not is_same:
                yield changed_input(ref, name)

    try:
        yield
    except Exception as error:
        for change in changes():
            error.add_note(change.what)
            break
        raise
    else:
        for change in changes():
            raise change
    finally:
        for number in held:
            os.close(number)


def _hold_files(paths: Iterable[str]) -> list[int]:
    """Open files without reading them, the first of many, so that no other gets their inodes.

    Otherwise, a blob that two steps put there again would look like one that was written to: the
    second may have the inode of the one that the first replaced.
    """
    held: list[int] = []
    for path in islice(paths, MAX_HELD_FILES):
        with suppress(OSError):  # missing, which the states show
            held.append(os.open(path, getattr(os, "O_PATH", os.O_RDONLY)))
    return held


def _full_state(path: str) -> tuple[int, ...]:
    """The state of a file with its mode and its number of names."""
    try:
        s = os.stat(path)
    except OSError:
        return ABSENT
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_mode, s.st_nlink


def _description(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def open_view(root: Path, manifest: Manifest) -> Path:
    """A folder with links to the artifact's files, which is created or repaired here.

    The folder stays writable, since `rm -rf build .finery` would otherwise fail for all users but
    root.
    """
    folder, links = root / "views" / manifest.view, _links(manifest)
    description = _description(manifest)
    for name in manifest.executable:  # blobs from elsewhere aren't, and some may not be here yet
        blob = blob_path(root / "objects", manifest.files[name][0])
        with suppress(OSError):
            if not blob.stat().st_mode & 0o100:
                blob.chmod(0o555)
    if not _is_view(folder, links, description):
        staged = f"{folder}.{os.getpid()}.tmp"
        try:
            _make_view(staged, links, description)
            if not _is_view(folder, links, description):  # still: another build may use it
                _clear(folder)
            os.rename(staged, folder)
        except OSError as error:  # another process created it meanwhile, or it isn't possible
            shutil.rmtree(staged, ignore_errors=True)
            if not _is_view(folder, links, description):
                raise disk_full(error) or UsageError(
                    f"can't create the links to an artifact in {folder}: {error.strerror}",
                    fix="check the permissions, or remove that folder and build again: no data "
                    "is lost",
                ) from error
    return folder


def _make_view(folder: str, links: Mapping[str, str], description: bytes) -> None:
    try:
        os.mkdir(folder)
    except FileExistsError:  # left by a killed process with the same pid
        shutil.rmtree(folder)
        os.mkdir(folder)
    for name, text in links.items():
        _make_symlink(text, str(path_in(Path(folder), name)))
    path = f"{folder}/{MANIFEST}"
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o444)) as file:
        file.write(description)


def _clear(folder: Path) -> None:
    """Remove a folder of links that was changed. What isn't a folder is set aside."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    elif os.path.lexists(folder):
        warn(f"{folder} wasn't a folder, and was renamed to {set_aside(folder).name}")


def _links(manifest: Manifest) -> dict[str, str]:
    """Name → target of the link, relative for files of the store."""
    links = {
        name: f"{'../' * (2 + name.count('/'))}objects/{digest[:2]}/{digest[2:]}"
        for name, (digest, _) in manifest.files.items()
    }
    return links | {name: path for name, (path, *_) in manifest.external.items()}


def _is_view(folder: Path, links: Mapping[str, str], description: bytes) -> bool:
    """Whether a folder of links is unchanged.

    An editor or a step may have replaced a link, added a file or changed the manifest. Steps that
    take the artifact must not see that.
    """
    try:
        if any(os.readlink(f"{folder}/{name}") != text for name, text in links.items()):
            return False
        with open(f"{folder}/{MANIFEST}", "rb") as file:
            if file.read() != description:
                return False
    except OSError:
        return False
    return _count_entries(folder, links) == len(links) + 1


def _count_entries(folder: Path, links: Mapping[str, str]) -> int:
    """The number of files and links in a folder of links."""
    if not any("/" in name for name in links):
        return len(os.listdir(folder))
    count = 0
    for top, folders, files in os.walk(folder):
        count += len(files) + sum(os.path.islink(f"{top}/{name}") for name in folders)
    return count


def _make_symlink(target: str, link: str) -> None:
    try:
        os.symlink(target, link)
    except FileNotFoundError:  # the name has folders in it
        os.makedirs(os.path.dirname(link), exist_ok=True)
        os.symlink(target, link)


def link_outputs(
    root: Path, folder: Path, outputs: Mapping[str, Manifest], notes: Mapping[str, str] = {}
) -> None:
    """Point `build/<recipe>/<step>` at a step's outputs; several outputs each get a folder.

    notes: link → text to put in its place, of the outputs that aren't on this machine.
    """
    with file_locked(root / "linking", is_needed=False):
        if outputs.keys() == {""}:
            _put_output(root, folder, outputs[""], notes)
            return
        if folder.is_symlink():
            folder.unlink()
        Path(f"{folder}{REMOTE_SUFFIX}").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.iterdir():
            if stale.name.removesuffix(REMOTE_SUFFIX) not in outputs and _is_link_or_note(stale):
                stale.unlink()
        for name, manifest in outputs.items():
            if name:
                _put_output(root, path_in(folder, name), manifest, notes)


def _put_output(root: Path, link: Path, manifest: Manifest, notes: Mapping[str, str]) -> None:
    """Put a link or a text in its place, and remove the other."""
    text = Path(f"{link}{REMOTE_SUFFIX}")
    if str(link) not in notes:
        _put_link(root, link, manifest)
        text.unlink(missing_ok=True)
        return
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        _remove_links(link)
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(notes[str(link)], encoding="utf-8")


def check_outputs_folder(folder: Path) -> None:
    """Raise `UsageError` if a file of the user is in place of `build/` or `folder`."""
    for path in (folder.parent, folder):
        # In this order, since another build may be making the folder.
        if not os.path.lexists(path) or path.is_dir():
            continue
        if path.is_file() and not path.stat().st_size:  # nothing is lost
            path.unlink(missing_ok=True)
            warn(f"{path} was an empty file, and was replaced by a folder")
        elif os.path.lexists(path):
            raise UsageError(
                f"{path} is not a folder, but finery puts links to outputs there",
                fix=f"rename it: mv {path} {path}.old",
            )


def _put_link(root: Path, link: Path, manifest: Manifest) -> None:
    """Point `link` at an artifact's folder, replacing an earlier link of finery."""
    text = f"{os.path.relpath(root, link.parent)}/views/{manifest.view}"
    open_view(root, manifest)
    try:
        if os.readlink(link) == text:
            return
    except FileNotFoundError:
        link.parent.mkdir(parents=True, exist_ok=True)
    except OSError:  # a folder: the step used to have several outputs
        _remove_links(link)
    try:
        link.symlink_to(text)
    except FileExistsError:
        staged = link.with_name(f".{link.name}.{os.getpid()}")
        staged.unlink(missing_ok=True)
        staged.symlink_to(text)
        staged.replace(link)


@lru_cache(maxsize=64)
def _remove_links(folder: Path) -> None:
    """Remove a folder of links. Raises `UsageError` if it contains anything else."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file that finery didn't create", fix="move it away")
    foreign_names = [p.name for p in folder.iterdir() if not _is_link_or_note(p)]
    if foreign_names:
        raise UsageError(
            f"{folder} contains files that finery didn't create: {', '.join(foreign_names)}",
            fix="move them away",
        )
    for link in folder.iterdir():
        link.unlink()
    folder.rmdir()


def _is_link_or_note(path: Path) -> bool:
    """Whether a path in a folder of outputs is a link or a text."""
    return path.is_symlink() or path.name.endswith(REMOTE_SUFFIX)


def prune_links(root: Path, folder: Path, keep: Collection[str]) -> None:
    """Remove links to outputs of deleted steps. Files that finery didn't create stay."""
    if not folder.is_dir():
        return
    with file_locked(root / "linking", is_needed=False):
        for entry in folder.iterdir():
            if entry.name.removesuffix(REMOTE_SUFFIX) in keep:
                continue
            if _is_output(entry):
                entry.unlink(missing_ok=True)
            elif entry.is_dir() and not entry.is_symlink():
                entries = list(entry.iterdir())
                if entries and all(map(_is_output, entries)):
                    _remove_links(entry)


def _is_output(path: Path) -> bool:
    """Whether a path is a link or a text that `link_outputs` made."""
    if path.name.endswith(REMOTE_SUFFIX):
        return path.is_file()
    return path.is_symlink() and _VIEW_TARGET.search(os.readlink(path)) is not None
