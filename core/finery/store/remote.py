"""A shared store: results by key and blobs by digest, at a URL.

A record is written after all that it needs, so a result that is half written doesn't exist.

`Remote` knows no database and may be used where there is none. `root` is a folder like `.finery`:

    packed = remote.push(root, manifests)                    # from here to there
    remote.bring(root, places_of(manifests, packed))         # from there to here
    remote.objects.put(name, data); remote.objects.read(name)  # other small objects
"""

import fcntl
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import msgspec
from blake3 import blake3

from finery.artifact.manifest import Manifest, Result, with_references
from finery.errors import RemoteError, disk_full
from finery.store.blobs import blob_path, put_blob
from finery.store.layout import (
    FORMAT,
    OBJECT_NAME,
    Blob,
    BlobsLost,
    ByteCounter,
    PackedFiles,
    Record,
    decode_record,
    object_name,
    portable_manifest,
)
from finery.store.objects import Objects, StoredObject, open_objects, public_url
from finery.store.repairs import make_folder, warn
from finery.store.signing import Signer, Trust
from finery.util.files import fsync, hash_file

PACKED_BELOW = 64 << 10
"""Size in bytes below which a file is packed with others."""
PACK_BYTES = 8 << 20
"""Largest size of a pack in bytes, and how much of a large file is read at once."""
LOOKUPS, TRANSFERS, READ_AHEAD = 32, 8, 4
"""Concurrent look-ups, concurrent files, and ranges of a file that are read at the same time."""
INTERRUPTED = "interrupted"
KEPT = "released"
"""The folder of empty objects with the names of results that don't expire."""
DIGEST_BYTES = 32
"""Bytes of a digest."""
LOOKUP_SECONDS = 20.0
"""Seconds that the look-up of many keys may take."""


class Remote:
    """A shared store.

    down: why it isn't asked any more; empty while it works. fetched, pushed: bytes so far.
    """

    def __init__(self, url: str, signer: Signer | None = None, trust: Trust | None = None) -> None:
        self.objects = open_objects(url)
        self.url = url
        self.down = ""
        self.fetched = self.pushed = 0
        self._signer, self._trust = signer, trust
        self._lock = threading.Lock()
        self._uploads: dict[str, Future[None]] = {}
        self._damaged: set[str] = set()  # objects that must be written again
        self._warnings: set[str] = set()

    def fail(self, error: RemoteError) -> None:
        """Ask nothing more of the store, and say why, once."""
        if not self.down:
            self.down = error.what
            self.warn("can't be used", error.what)

    def warn(self, problem: str, reason: str) -> None:
        """Report what doesn't work, once."""
        if self.down in ("", reason) and reason != INTERRUPTED:
            self._say_once(f"the shared store {public_url(self.url)} {problem}: {reason}")

    def stop(self) -> None:
        """End transfers soon, with an error."""
        self.down = INTERRUPTED
        self.objects.is_stopped = True

    def _say_once(self, text: str) -> None:
        with self._lock:
            is_new = text not in self._warnings
            self._warnings.add(text)
        if is_new:
            warn(text)

    def count(self, fetched: int = 0, pushed: int = 0) -> None:
        with self._lock:
            self.fetched += fetched
            self.pushed += pushed

    # -- records ---------------------------------------------------------------------------------

    def records(self, keys: Collection[str]) -> dict[str, Record]:
        """The records of those of the keys that have a valid one."""
        records: dict[str, Record] = {}
        for key, data in self._read("records", keys, LOOKUP_SECONDS).items():
            self.count(fetched=len(data))
            record = self._verify_record(key, data)
            if record is not None:
                records[key] = record
        return records

    def _read(self, folder: str, names: Collection[str], seconds: float) -> dict[str, bytes]:
        """The content of those of the objects that are there. seconds: how long that may take."""
        deadline = time.monotonic() + seconds

        def look_up(name: str) -> bytes | None:
            if self.down:
                return None
            try:
                if time.monotonic() > deadline:
                    raise RemoteError("it answers too slowly")
                return self.objects.read(object_name(folder, name))
            except RemoteError as error:
                self.fail(error)
                return None

        if self.down or not names:
            return {}
        with ThreadPoolExecutor(min(LOOKUPS, len(names))) as threads:
            contents = zip(names, threads.map(look_up, names), strict=True)
            return {name: data for name, data in contents if data is not None}

    def _verify_record(self, key: str, data: bytes) -> Record | None:
        """The record in an object; None if it is wrong."""
        body, _, signature = data.partition(b"\n")
        if self._trust is not None and not self._trust.signed(body, signature):
            problem = "no signature" if not signature else "a signature that isn't trusted"
            self._say_once(
                f"the shared store {public_url(self.url)} has results with {problem}, which aren't "
                "used"
            )
            return None
        record = decode_record(key, body)
        if record is None:
            self.refuse()
        return record

    def refuse(self) -> None:
        """Report, once, that it has results which aren't used."""
        self._say_once(
            f"the shared store {public_url(self.url)} has results that aren't valid here, which "
            "aren't used: their steps run"
        )

    # -- small values: answers of models, what steps read ----------------------------------------

    def values(self, folder: str, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """The values in a folder that are there, by key; wrong ones aren't."""
        values: dict[bytes, bytes] = {}
        for name, data in self._read(folder, [key.hex() for key in keys], math.inf).items():
            body, _, signature = data.rpartition(b"\n")
            key, value = bytes.fromhex(name), body[DIGEST_BYTES:]
            is_right = blake3(key + value).digest() == body[:DIGEST_BYTES]
            if is_right and (self._trust is None or self._trust.signed(body, signature)):
                values[key] = value
        return values

    def put_value(self, folder: str, key: bytes, value: bytes) -> None:
        """Add a value to a folder. Raises `RemoteError`."""
        body = blake3(key + value).digest() + value
        signature = self._signer.sign(body) if self._signer else b""
        self.objects.put(object_name(folder, key.hex()), body + b"\n" + signature)

    # -- from here to there ----------------------------------------------------------------------

    def push_result(self, root: Path, result: Result) -> None:
        """Copy a result from the store at `root`: its blobs, and then its record.

        One with files outside the store is left out, since it costs nothing to make. Raises
        `RemoteError`, and `OSError` if a file is gone.
        """
        manifests = [*result.outputs.values()]
        if any(m.external for m in manifests):
            return
        packed = self.push(root, manifests)
        outputs = {name: portable_manifest(m) for name, m in result.outputs.items()}
        body = msgspec.json.encode(Record(FORMAT, result.key, outputs, result.seconds, packed))
        signature = b"\n" + self._signer.sign(body) if self._signer else b""
        self.objects.put(object_name("records", result.key), body + signature)
        self.count(pushed=len(body))

    def keep(self, key: str) -> None:
        """Have `expire` leave a result, whatever its age. Raises `RemoteError`."""
        self.objects.put(object_name(KEPT, key), b"")

    def push(self, root: Path, manifests: Iterable[Manifest]) -> PackedFiles:
        """Copy the files of artifacts from the store at `root`; where the small ones are.

        Large files that are already there aren't sent again.
        """
        objects, packed, pack = root / "objects", PackedFiles(), bytearray()
        members: dict[str, int] = {}

        def send() -> None:
            if members:
                digest = blake3(pack).hexdigest()
                self._upload(digest, bytes(pack))
                packed.update({member: (digest, offset) for member, offset in members.items()})
                pack.clear()
                members.clear()

        for digest, size in dict.fromkeys(f for m in manifests for f in m.files.values()):
            if size >= PACKED_BELOW:
                self._upload(digest, blob_path(objects, digest))
                continue
            if len(pack) + size > PACK_BYTES:
                send()
            members[digest] = len(pack)
            pack += blob_path(objects, digest).read_bytes()
        send()
        return packed

    def _upload(self, digest: str, content: bytes | Path) -> None:
        """Write an object once, even if several threads need it at the same time."""
        with self._lock:
            upload = self._uploads.get(digest)
            is_ours = upload is None or (upload.done() and upload.exception() is not None)
            if is_ours or upload is None:
                upload = self._uploads[digest] = Future()
        if not is_ours:
            upload.result()
            return
        try:
            name = object_name("blobs", digest)
            if digest in self._damaged or isinstance(content, bytes) or not self.objects.has(name):
                self.objects.put(name, content)
                size = len(content) if isinstance(content, bytes) else content.stat().st_size
                self.count(pushed=size)
        except BaseException as error:
            upload.set_exception(error)
            raise
        upload.set_result(None)

    # -- from there to here ----------------------------------------------------------------------

    def bring(
        self, root: Path, blobs: Iterable[Blob], count: ByteCounter = lambda size: None
    ) -> None:
        """Copy blobs to the store at `root`, each checked against its digest.

        Raises `BlobsLost` with all that can't be had, after the others have arrived.
        """
        packs: dict[str, list[Blob]] = {}
        for blob in dict.fromkeys(blobs):
            packs.setdefault(blob.pack, []).append(blob)
        lost: dict[str, str] = {}

        def bring_pack(pack: str, members: Sequence[Blob]) -> None:
            try:
                if self.down:
                    raise RemoteError(self.down)
                only = members[0]
                if len(members) == 1 and only.pack == only.digest and only.size > PACK_BYTES:
                    damaged = self._fetch_large(root, only, count)
                else:
                    damaged = self._fetch_packed(root, pack, members, count)
            except RemoteError as error:
                self.down = self.down or error.what
                lost.update((blob.digest, self.down) for blob in members)
            else:
                if damaged:
                    self._damaged.add(pack)
                    lost.update(damaged)

        try:
            with ThreadPoolExecutor(max(1, min(TRANSFERS, len(packs)))) as threads:
                list(threads.map(bring_pack, packs, packs.values()))
        except OSError as error:
            error.filename = error.filename or str(root)
            full = disk_full(error)
            for digest in packs if full else ():  # they would keep the disk full
                _part_path(root, digest).unlink(missing_ok=True)
            raise full or RemoteError(
                f"can't write what comes from the shared store: {error}"
            ) from error
        if lost:
            reason = self.down or next(iter(lost.values()))
            problem = (
                "the shared store can't be used" if self.down else "the shared store is damaged"
            )
            raise BlobsLost(
                f"{problem}: {reason} ({public_url(self.url)})", lost, is_down=bool(self.down)
            )

    def _fetch_packed(
        self, root: Path, pack: str, members: Sequence[Blob], count: ByteCounter
    ) -> dict[str, str]:
        """Copy files from one object; why, by digest, of those that are wrong."""
        start = min(blob.offset for blob in members)
        end = max(blob.offset + blob.size for blob in members)
        data: bytes | None = b""
        for attempt in (1, 2):  # a wrong byte on the way shouldn't cost a step
            if end > start:
                data = self.objects.read(object_name("blobs", pack), start, end)
            if data is None:
                return dict.fromkeys((blob.digest for blob in members), "a file is missing")
            self.count(fetched=len(data))
            contents = {b: data[b.offset - start : b.offset - start + b.size] for b in members}
            valid = {
                b: content
                for b, content in contents.items()
                if blake3(content).hexdigest() == b.digest
            }
            if len(valid) == len(members) or attempt == 2:
                break
        for blob, content in valid.items():
            staged = _part_path(root, blob.digest, f".{os.getpid()}.{threading.get_ident()}")
            staged.write_bytes(content)
            _install_blob(staged, root, blob.digest)
            count(blob.size)
        return dict.fromkeys((b.digest for b in members if b not in valid), "a file is damaged")

    def _fetch_large(self, root: Path, blob: Blob, count: ByteCounter) -> dict[str, str]:
        """Copy a large file in ranges. What an interrupted copy left is kept."""
        target, name = blob_path(root / "objects", blob.digest), object_name("blobs", blob.pack)
        staged = _part_path(root, blob.digest)
        with _open_exclusively(staged) as file, ThreadPoolExecutor(READ_AHEAD) as threads:
            if target.exists() and hash_file(target) == blob.digest:
                staged.unlink(missing_ok=True)
                return {}
            for attempt in (1, 2):  # the rest of an earlier copy may be wrong
                if attempt == 2:
                    file.truncate(0)
                starts = range(os.fstat(file.fileno()).st_size, blob.size, PACK_BYTES)
                if attempt == 1:
                    count(starts.start)

                def read(start: int) -> bytes | None:
                    if self.down:
                        raise RemoteError(self.down)
                    return self.objects.read(name, start, min(start + PACK_BYTES, blob.size))

                for start in range(0, len(starts), READ_AHEAD):
                    for data in threads.map(read, starts[start : start + READ_AHEAD]):
                        if not data:  # it is gone, or shorter than its record says
                            return {blob.digest: "a file is missing or cut short"}
                        file.write(data)
                        self.count(fetched=len(data))
                        count(len(data) if attempt == 1 else 0)
                file.flush()
                if hash_file(staged) == blob.digest:
                    _install_blob(staged, root, blob.digest)
                    return {}
            staged.unlink()
            return {blob.digest: "a file is damaged"}


def _part_path(root: Path, digest: str, end: str = "") -> Path:
    """The file that a blob is copied to."""
    make_folder(root / "work")
    return root / "work" / f"{digest}{end}.part"


def _open_exclusively(staged: Path) -> BinaryIO:
    """Open a file for appending as soon as no other process is copying to it."""
    while True:
        file = staged.open("ab")
        fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # the other one moved it to its place, or gave up
            if os.path.samestat(os.fstat(file.fileno()), os.stat(staged)):
                return file
        file.close()


def _install_blob(staged: Path, root: Path, digest: str) -> None:
    """Move a checked file to its place."""
    fsync(staged)
    staged.chmod(0o444)
    put_blob(staged, root / "objects", digest)


# -- removal by age -------------------------------------------------------------------------------


CONCURRENT_READS = 32
"""Records that are read at the same time."""
REMOVAL_BATCH = 1000
"""Objects that are removed with one request, where a bucket can."""
DAY_SECONDS = 86_400.0


class Expired(NamedTuple):
    """What was removed: number of results and bytes in all. kept: number of results that stay."""

    results: int
    bytes: int
    kept: int


def expire(
    objects: Objects, days: float, *, dry_run: bool,
    progress: Callable[[str], None] = lambda text: None,
) -> Expired:  # fmt: skip
    """Remove what was pushed more than `days` ago: nobody knows who else needs what is there.

    A result is removed by the age of its record, unless it is released. A file is removed if no
    remaining record needs it and it is as old, so that one which is being pushed stays. Who needs a
    file that is gone after all, for example since its record was being written, runs the step
    again. Answers of models stay, and so do objects with other names than finery's.

    dry_run: only say what would be removed. Raises `RemoteError`; repeat it then.
    """
    cutoff = time.time() - DAY_SECONDS * days
    progress("listing results")
    records = [
        stored for stored in objects.list_objects("records") if OBJECT_NAME.fullmatch(stored.name)
    ]
    kept = {PurePosixPath(stored.name).name for stored in objects.list_objects(KEPT)}
    recent = [r for r in records if r.written >= cutoff or PurePosixPath(r.name).name in kept]
    stay = {record.name for record in recent}
    expired = [record for record in records if record.name not in stay]
    needed = set[str]()
    progress(f"reading {len(recent):,} results")
    with ThreadPoolExecutor(CONCURRENT_READS) as threads:
        for names in threads.map(lambda record: _objects_of(objects, record.name), recent):
            needed.update(names)
    progress("listing files")
    unneeded = [
        blob for blob in objects.list_objects("blobs")
        if blob.written < cutoff and blob.name not in needed and OBJECT_NAME.fullmatch(blob.name)
    ]  # fmt: skip
    # What results of a step read, and were made with, is written again with each of them.
    unneeded += [
        stored for folder in ("reads", "versions")
        for stored in objects.list_objects(folder) if stored.written < cutoff
    ]  # fmt: skip
    if not dry_run:
        _remove(objects, expired, progress)  # first, so that no result lacks a file
        _remove(objects, unneeded, progress)
    return Expired(len(expired), sum(stored.size for stored in (*expired, *unneeded)), len(recent))


def _objects_of(objects: Objects, name: str) -> Iterator[str]:
    """The names of the objects with a result's files."""
    body = objects.read(name)
    if body is None:  # someone else has just removed it
        return
    try:
        record = msgspec.json.decode(body.partition(b"\n")[0], type=Record)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise RemoteError(f"{name} isn't a result of this version of finery") from error
    for output in (each for m in record.outputs.values() for each in with_references(m)):
        for digest, _ in output.files.values():
            yield object_name("blobs", record.packed.get(digest, (digest, 0))[0])


def _remove(
    objects: Objects, expired: Sequence[StoredObject], progress: Callable[[str], None]
) -> None:
    for start in range(0, len(expired), REMOVAL_BATCH):
        progress(f"removing objects, {start:,} of {len(expired):,}")
        objects.remove([stored.name for stored in expired[start : start + REMOVAL_BATCH]])
