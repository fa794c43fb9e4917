"""What a shared store contains: the names of its objects, its records, and where blobs are.

    records/ab/KEY      a result: its outputs, and where the small files are; then its signature
    blobs/ab/DIGEST     a large file, or many small ones of a result, one after the other

Nothing that comes from a shared store is believed. `decoded` compares a record with what it is said
to be, and `Remote.bring` does so with blobs.
"""

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

import msgspec

from finery.artifact.kinds import KINDS
from finery.artifact.manifest import MANIFEST, Manifest, is_sound, manifest, with_references
from finery.errors import RemoteError

FORMAT = 1
Packed = dict[str, tuple[str, int]]
"""Digest of a small file → (digest of the object that contains it, its first byte there)."""
Count = Callable[[int], object]
"""Takes the number of bytes as they arrive."""


class Record(msgspec.Struct, frozen=True):
    """A result in a shared store. It has no parts: they are known to whoever has the key."""

    format: int
    key: str
    outputs: dict[str, Manifest]
    seconds: float
    packed: Packed


class Blob(NamedTuple):
    """A file by its digest, and where it is: in the object `pack` from the byte `offset` on."""

    digest: str
    size: int
    pack: str
    offset: int


class Lost(RemoteError):
    """Blobs can't be had. is_down: because the store can't be reached, so they may be there.

    A build runs the steps that made them. Code that has to go on catches it before `FineryError`.
    """

    def __init__(self, what: str, digests: Iterable[str], *, is_down: bool) -> None:
        super().__init__(
            what,
            fix="connect to the shared store and try again; or make the files here: finery build "
            "--force STEP",
        )
        self.digests, self.is_down = frozenset(digests), is_down


def object_name(folder: str, digest: str) -> str:
    """The name of a record or a blob."""
    return f"{folder}/{digest[:2]}/{digest}"


def places_of(manifests: Iterable[Manifest], packed: Packed) -> list[Blob]:
    """Where the files of artifacts are. Those of their references aren't included."""
    files = {file for made in manifests for file in made.files.values()}
    return [Blob(digest, size, *packed.get(digest, (digest, 0))) for digest, size in files]


def decoded(key: str, body: bytes) -> Record | None:
    """The record of a key; None if it isn't one, or if it contains anything wrong."""
    try:
        record = msgspec.json.decode(body, type=Record)
    except (msgspec.DecodeError, UnicodeError):
        return None
    is_right = (
        record.format == FORMAT
        and record.key == key
        and all(
            not m.external and is_named_well(m) and is_sound(m) for m in record.outputs.values()
        )
        and not any(
            path
            for m in record.outputs.values()
            for each in with_references(m)
            for path, *_ in each.external.values()
        )
        and all(_is_digest(pack) and offset >= 0 for pack, offset in record.packed.values())
    )
    return record if is_right else None


def portable(made: Manifest) -> Manifest:
    """The artifact without paths of this machine: whoever takes it has the same references."""
    if not (made.refs or made.external):
        return made
    refs = {role: portable(ref) for role, ref in made.refs.items()}
    external = {name: ("", size, 0) for name, (_, size, _) in made.external.items()}
    return manifest(made.kind, made.meta, made.files, refs, external, made.runtime)


def is_named_well(made: Manifest) -> bool:
    """Whether a foreign artifact is of a known kind, and its files can't be put anywhere else."""
    names = [*made.files, *made.external]
    return (
        made.kind in KINDS
        and all(_is_digest(digest) and size >= 0 for digest, size in made.files.values())
        and all(
            name == PurePosixPath(name).as_posix()
            and name != MANIFEST
            and not {"..", "/", "."} & {*PurePosixPath(name).parts}
            and "\0" not in name
            for name in names
        )
        and all(map(is_named_well, made.refs.values()))
    )


def _is_digest(text: str) -> bool:
    return len(text) == 64 and set("0123456789abcdef").issuperset(text)
