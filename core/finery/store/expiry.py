"""Removes what was pushed to a shared store long ago: nobody knows who else needs what is there.

A result is removed by the age of its record. A file is removed if no remaining record needs it and
it is as old, so that one which is being pushed stays. Who needs a file that is gone after all, for
example since its record was being written, runs the step again. Objects with other names than
finery's stay.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import msgspec

from finery.artifact.manifest import with_references
from finery.errors import RemoteError
from finery.store.layout import OBJECT_NAME, Record, object_name
from finery.store.objects import Objects, StoredObject

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
    """Remove what was pushed more than `days` ago. Answers of models stay.

    dry_run: only say what would be removed. Raises `RemoteError`; repeat it then.
    """
    cutoff = time.time() - DAY_SECONDS * days
    progress("listing results")
    records = [
        stored for stored in objects.list_objects("records") if OBJECT_NAME.fullmatch(stored.name)
    ]
    expired = [record for record in records if record.written < cutoff]
    recent = [record for record in records if record.written >= cutoff]
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
    # What results of a step read is written again with each of them.
    unneeded += [stored for stored in objects.list_objects("reads") if stored.written < cutoff]
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
