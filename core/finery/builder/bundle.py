"""A build as one file, for machines without a network: its results and their blobs.

A bundle is a tar file. The first member is `finery-bundle.json` with the results, and each other
one is a blob under its path in a store. Nothing that the results don't name is taken out of it,
all digests and names of files are checked, and nothing is recorded before all is there. Whether the
outputs are those of the keys, only who made the bundle knows.
"""

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import msgspec

from finery.artifact.manifest import Result, reads_in
from finery.builder.garbage import blob_sizes
from finery.builder.reads import is_list
from finery.errors import UsageError
from finery.store.blobs import put_blob
from finery.store.database import HEX, KEY_DIGITS, Store
from finery.store.layout import are_valid_outputs
from finery.store.uses import held_folder
from finery.util.events import new_run_id
from finery.util.files import fsync, hash_file
from finery.util.paths import is_inside

HEAD_NAME, FORMAT = "finery-bundle.json", 1
MAX_HEAD_BYTES = 256 << 20
"""Bytes: room for the results of some 50,000 steps."""
BLOCK_BYTES = 1 << 20
Progress = Callable[[int, int], None]
"""Takes the bytes that are copied, of how many."""


class Bundle(msgspec.Struct, forbid_unknown_fields=True):
    """The head of a bundle. recipe: its name. path: from the project's folder. steps: their keys.

    dollars: of keys whose answers cost something.
    """

    format: int
    finery: str
    recipe: str
    path: str
    steps: dict[str, str]
    results: list[Result]
    dollars: dict[str, float]

    def blobs(self) -> dict[str, int]:
        """Digest → bytes of all blobs, sorted."""
        sizes = {d: n for result in self.results for d, n in blob_sizes(result.outputs).items()}
        return dict(sorted(sizes.items()))


def is_portable(result: Result) -> bool:
    """Whether a result has no files outside the store. Its step is quick where it has."""
    return not any(manifest.external for manifest in result.outputs.values())


def write_bundle(bundle: Bundle, store: Store, file: IO[bytes], progress: Progress) -> None:
    """Write a bundle. The same results give the same bytes."""
    store.shared.bring(m for result in bundle.results for m in result.outputs.values())
    blobs, done = bundle.blobs(), 0
    total = sum(blobs.values())
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        head = msgspec.json.encode(bundle)
        tar.addfile(_member(HEAD_NAME, len(head)), io.BytesIO(head))
        for digest, size in blobs.items():
            with store.blob(digest).open("rb") as source:
                tar.addfile(_member(f"objects/{digest[:2]}/{digest[2:]}", size), source)
            done += size
            progress(done, total)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o444
    return member


def read_bundle(file: Path, store: Store, progress: Progress) -> Bundle:
    """Put the results of a bundle into a store. Raises `UsageError` for one that isn't right."""
    store.check_writable()
    store.hold(new_run_id())
    try:
        with tarfile.open(file, mode="r|") as tar, held_folder(store.root) as folder:
            bundle = _read_head(tar, file)
            _read_blobs(tar, bundle, store, folder, progress, file)
    except tarfile.TarError as error:
        raise _invalid_bundle(file, f"it isn't a whole bundle ({error})") from error
    except EOFError as error:
        raise _invalid_bundle(file, "it ends too early") from error
    store.commit(bundle.results, run="")
    store.remember(bundle.path, bundle.steps)
    for key, dollars in bundle.dollars.items():
        store.keep_spending(key, 0.0, dollars)
    store.release()
    return bundle


def _read_head(tar: tarfile.TarFile, file: Path) -> Bundle:
    member = tar.next()
    if member is None or member.name != HEAD_NAME or not _is_plain(member):
        raise _invalid_bundle(file, "it isn't a bundle of finery")
    if member.size > MAX_HEAD_BYTES:
        raise _invalid_bundle(file, "its list of results is too large")
    try:
        bundle = msgspec.json.decode(_read_content(tar, member).read(), type=Bundle)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _invalid_bundle(file, f"its list of results can't be read ({error})") from error
    if bundle.format != FORMAT:
        raise _invalid_bundle(file, f"another version of finery wrote it ({bundle.finery})")
    keys = {result.key for result in bundle.results}
    is_complete = keys.issuperset(bundle.steps.values()) and keys.issuperset(bundle.dollars)
    if not is_complete or not is_inside(bundle.path) or not all(
        len(result.key) == KEY_DIGITS and HEX.issuperset(result.key)
        and is_portable(result) and are_valid_outputs(result.outputs)
        and (not (reads := reads_in(result.parts)) or is_list([name for name, _ in reads]))
        for result in bundle.results
    ):  # fmt: skip
        raise _invalid_bundle(file, "its list of results was changed")
    return bundle


def _read_blobs(
    tar: tarfile.TarFile, bundle: Bundle, store: Store, folder: Path, progress: Progress, file: Path
) -> None:
    expected = bundle.blobs()
    done, total = 0, sum(expected.values())
    names = {f"objects/{digest[:2]}/{digest[2:]}": digest for digest in expected}
    while member := tar.next():
        digest = names.pop(member.name, None)
        if digest is None or not _is_plain(member) or member.size != expected[digest]:
            raise _invalid_bundle(
                file, f"it has a member that isn't one of its blobs: {member.name[:80]!r}"
            )
        staged, source = folder / "blob", _read_content(tar, member)
        with staged.open("wb") as out:
            while block := source.read(BLOCK_BYTES):
                out.write(block)
                done += len(block)
                progress(done, total)
        if hash_file(staged) != digest:
            raise _invalid_bundle(file, f"the blob {digest[:12]} in it is damaged")
        fsync(staged)
        staged.chmod(0o444)
        put_blob(staged, store.objects, digest)
    if names:
        raise _invalid_bundle(file, f"{len(names)} of its {len(expected)} blobs are missing")


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file whose content is written as it is: no link, no sparse file."""
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and member.sparse is None


def _read_content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None  # it is plain
    return content


def _invalid_bundle(file: Path, why: str) -> UsageError:
    return UsageError(
        f"can't import this file: {why}; nothing was recorded",
        where=str(file),
        fix="copy it again, or write it again: finery export --bundle FILE",
    )


def make_bundle(
    recipe: str, path: str, results: Mapping[str, Result], store: Store, version: str
) -> Bundle:
    """The head of a bundle of results. path: of the recipe, from the project's folder."""
    portable = {step: result for step, result in results.items() if is_portable(result)}
    by_key = {result.key: result for result in portable.values()}
    costs = {key: store.dollars_spent([key]) for key in by_key}
    return Bundle(
        format=FORMAT, finery=version, recipe=recipe, path=path,
        steps={step: result.key for step, result in portable.items()},
        results=[*by_key.values()], dollars={key: cost for key, cost in costs.items() if cost},
    )  # fmt: skip
