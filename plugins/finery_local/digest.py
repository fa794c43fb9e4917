"""Identifies files that aren't copied by the BLAKE3 digest of their content and their size."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blake3 import blake3

from finery import DataError, Job

BUFFER_BYTES = (
    4 * 1024 * 1024
)  # the fastest of 1, 4, 16 and 64 MiB; read, since access to a mapping can raise SIGBUS


def identities(files: Mapping[str, Path], job: Job) -> dict[str, dict[str, Any]]:
    """{name: {"blake3": hex digest, "size": bytes}} for `files`, in order of names."""
    total, done = sum(path.stat().st_size for path in files.values()), 0
    identities: dict[str, dict[str, Any]] = {}
    for name, path in sorted(files.items()):
        digest, size = blake3(max_threads=blake3.AUTO), 0
        for block in _blocks(path):
            digest.update(block)
            size += len(block)
            job.progress(done + size, total, f"hashing {name}")
        done += size
        identities[name] = {"blake3": digest.hexdigest(), "size": size}
    return identities


def _blocks(path: Path) -> Iterator[memoryview]:
    """The file's content, in one buffer that is reused."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                yield buffer[:count]
    except OSError as error:
        raise DataError(f"can't read the file: {error.strerror}", where=str(path)) from error
