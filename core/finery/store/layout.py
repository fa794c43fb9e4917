"""What a shared store contains: the names of its objects, its records, and where blobs are.

    records/ab/KEY      a result: its outputs, and where the small files are; then its signature
    blobs/ab/DIGEST     a large file, or many small ones of a result, one after the other
    answers/ab/KEY      an answer of a model
    reads/ab/KEY        what results of a step read besides its inputs, by the key of the step

Nothing that comes from a shared store is believed. `decode_record` compares a record with what it
is said to be, and `Remote.bring` does so with blobs.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, NamedTuple, TypedDict

import msgspec
from msgspec import Meta

from finery.artifact.kinds import KINDS
from finery.artifact.manifest import MANIFEST, Manifest, is_sound, manifest, with_references
from finery.errors import RemoteError
from finery.rows.answers.jsonvalues import is_deeper
from finery.util.paths import is_inside

FORMAT = 1
MAX_FACT_DEPTH, MAX_REFERENCE_DEPTH = 32, 16
"""How deep facts of an artifact, and references of one to another, may be nested."""
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
OBJECT_NAME = re.compile(r"(?:records|blobs|reads)/([0-9a-f]{2})/\1[0-9a-f]{62}")
"""The name of a record or a blob. Whatever else is in a store isn't finery's."""
Bytes = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""A number of bytes that SQLite can keep."""
PackedFiles = dict[Digest, tuple[Digest, Bytes]]
"""Digest of a small file → (digest of the object that contains it, its first byte there)."""
ByteCounter = Callable[[int], object]
"""Takes the number of bytes as they arrive."""


class Record(msgspec.Struct, frozen=True):
    """A result in a shared store. It has no parts: they are known to whoever has the key."""

    format: int
    key: str
    outputs: dict[str, Manifest]
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    packed: PackedFiles


class _Facts(TypedDict, total=False):
    """Facts about artifacts that finery itself reads."""

    rows: Annotated[int, Meta(ge=0)]
    columns: list[str]
    format: str
    run: str
    env: list[str]
    concurrency: int
    file: str
    messages: list[dict[str, Any]]
    dropped: dict[str, int]
    findings: dict[str, int]


_REQUIRED_FACTS = {"Dataset": {"rows", "columns"}, "Metrics": {"rows"}, "Model": {"format"}}
"""Kind → the facts that each artifact of it has."""


class _ForeignManifest(msgspec.Struct):
    """What a manifest from elsewhere must be like."""

    meta: _Facts
    runtime: _Facts
    files: dict[str, tuple[Digest, Bytes]]


class Blob(NamedTuple):
    """A file by its digest, and where it is: in the object `pack` from the byte `offset` on."""

    digest: str
    size: int
    pack: str
    offset: int


class BlobsLost(RemoteError):
    """Blobs can't be had. is_down: because the store can't be reached, so they may be there.

    A build runs the steps that made them. Code that has to go on catches it before `FineryError`.
    """

    def __init__(
        self, problem: str, digests: Iterable[str], *,
        is_down: bool, fix: str = "connect to the shared store and try again",
    ) -> None:  # fmt: skip
        super().__init__(problem, fix=f"{fix}; or make the files here: finery build --force STEP")
        self.digests, self.is_down = frozenset(digests), is_down


def object_name(folder: str, digest: str) -> str:
    """The name of a record or a blob."""
    return f"{folder}/{digest[:2]}/{digest}"


def blob_places(manifests: Iterable[Manifest], packed: PackedFiles) -> list[Blob]:
    """Where the files of artifacts are. Those of their references aren't included."""
    files = {file for output in manifests for file in output.files.values()}
    return [Blob(digest, size, *packed.get(digest, (digest, 0))) for digest, size in files]


def decode_record(key: str, body: bytes) -> Record | None:
    """The record of a key; None if it isn't one, or if it contains anything wrong."""
    try:
        record = msgspec.json.decode(body, type=Record)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    if record.format != FORMAT or record.key != key or not are_valid_outputs(record.outputs):
        return None
    outputs = record.outputs.values()
    external = [f for m in outputs for each in with_references(m) for f in each.external.values()]
    is_local = any(m.external for m in outputs) or any(path for path, *_ in external)
    return None if is_local else record


def are_valid_outputs(outputs: Mapping[str, Manifest]) -> bool:
    """Whether a result from elsewhere has the digests of its content, and is safe to use."""
    return all(
        (not name or _is_name(name)) and _is_safe(output) and is_sound(output)
        for name, output in outputs.items()
    )


def portable_manifest(output: Manifest) -> Manifest:
    """The artifact without paths of this machine: whoever takes it has the same references."""
    if not (output.refs or output.external):
        return output
    refs = {role: portable_manifest(ref) for role, ref in output.refs.items()}
    external = {name: ("", size, 0) for name, (_, size, _) in output.external.items()}
    facts = output.kind, output.meta, output.files, refs, external, output.runtime
    return manifest(*facts, output.executable)


def _is_safe(output: Manifest, references: int = MAX_REFERENCE_DEPTH) -> bool:
    """Whether an artifact from elsewhere is of a known kind, with files that fit in its folder."""
    names = [MANIFEST, *output.files, *output.external]
    folders = {name[:index] for name in names for index, letter in enumerate(name) if letter == "/"}
    try:
        msgspec.convert(output, _ForeignManifest, from_attributes=True)
    except msgspec.ValidationError:
        return False
    return (
        references > 0
        and output.kind in KINDS
        and _REQUIRED_FACTS.get(output.kind, set()) <= output.meta.keys()
        and all(map(is_inside, names))
        and len({*names, *folders}) == len(names) + len(folders)
        and all(map(_is_name, output.refs))
        and not is_deeper([output.meta, output.runtime], MAX_FACT_DEPTH)
        and all(_is_safe(ref, references - 1) for ref in output.refs.values())
    )


def _is_name(text: str) -> bool:
    return is_inside(text) and "/" not in text
