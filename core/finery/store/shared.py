"""What a store knows about blobs that are in a shared store, and how they come here.

A result that was found in a shared store is one of this store, too. Its blobs come when they are
needed: `Store.artifact` brings them, and a build brings the inputs of each step before it starts.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

import msgspec

from finery.artifact.manifest import Manifest, Parts, referring, with_references
from finery.errors import UsageError
from finery.store.layout import Blob, BlobsLost, ByteCounter, Record, blob_places
from finery.store.objects import public_url

if TYPE_CHECKING:
    from finery.store.database import Store
    from finery.store.remote import Remote

T = TypeVar("T")
Missing = dict[str, list[Blob]]
"""Address of a shared store, without secrets → the blobs that must come from there."""


class SharedBlobs:
    """The blobs that are in shared stores, by the table `remote`. For use by one thread.

    remotes: by address. configured: gives the URL of the settings in force. No other store is
    asked, since a database may be a stranger's, and has no passwords.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store
        self.remotes: dict[str, Remote] = {}
        self.configured: Callable[[], str | None] = lambda: None
        self.lost: set[str] = set()  # blobs that can't be had
        self.losses = 0  # how often blobs were lost
        self._adopted: set[str] = set()  # blobs of adopted results
        self._is_used: bool | None = None  # whether the table has rows

    def __bool__(self) -> bool:
        """Whether there are any. Without, nothing else here is ever asked."""
        if self._is_used is None:
            self._is_used = not self._store.read_only and bool(
                self._store.rows("SELECT 1 FROM remote LIMIT 1")
            )
        return self._is_used

    def use(self, remote: "Remote") -> None:
        """Copy from a shared store what it has."""
        address = public_url(remote.url)
        self.remotes[address] = remote
        if address != remote.url:  # earlier versions wrote passwords
            self._store.rename_remote(remote.url, address)

    def has(self, digest: str) -> bool:
        """Whether a blob is in a shared store, as far as is known here."""
        return bool(self) and digest not in self.lost and self._place(digest) is not None

    def _place(self, digest: str) -> tuple[str, Blob] | None:
        query = "SELECT url, digest, size, pack, offset FROM remote WHERE digest = ?"
        row = next(iter(self._store.rows(query, [digest])), None)
        return (public_url(row[0]), Blob(*row[1:])) if row else None

    def adopt(
        self, address: str, records: Mapping[str, Record], parts: Mapping[str, Parts],
        inputs: Mapping[str, Collection[Manifest]], run: str,
    ) -> None:  # fmt: skip
        """Keep results that a shared store has, under the keys of their records.

        parts, inputs: those of the steps that asked for them. An output that refers to something
        else than its inputs, or that is in other places, isn't kept.
        """
        results, places = [], []
        for key, record in records.items():
            manifests_by_digest = {
                m.digest: m for artifact in inputs[key] for m in with_references(artifact)
            }
            outputs = {
                name: referring(m, manifests_by_digest) for name, m in record.outputs.items()
            }
            refs = [ref for m in outputs.values() for ref in m.refs.values()]
            if all(ref.digest in manifests_by_digest for ref in refs):
                results.append((key, msgspec.json.encode(outputs), record.seconds))
                blobs = blob_places(record.outputs.values(), record.packed)
                places += [(*blob, address) for blob in blobs]
        digests = {digest for digest, *_ in places}
        self.lost -= digests - self._adopted  # where they are lost again, they stay lost
        self._adopted |= digests
        self._store.adopt(results, parts, places, run)
        self._is_used = self._is_used or bool(places)

    def is_here(self, manifests: Iterable[Manifest]) -> bool:
        """Whether all files of artifacts are here, or at least aren't in a shared store only."""
        return not self or not self.missing(manifests)

    def missing(self, manifests: Iterable[Manifest], *, must_exist: bool = False) -> Missing:
        """The blobs of artifacts and their references that aren't here, but in a shared store.

        must_exist: raise `BlobsLost` if a blob is in neither, since the database was replaced.
        """
        missing: Missing = {}
        if not self:
            return missing
        artifacts = (each for m in manifests for each in with_references(m))
        for digest, size in {f for m in artifacts for f in m.files.values()}:
            if self._store.is_intact(digest, size):
                continue
            place = self._place(digest)
            if place is not None:
                missing.setdefault(place[0], []).append(place[1])
            elif must_exist:
                raise BlobsLost(
                    f"the file {self._store.blob(digest)} is gone", [digest], is_down=False
                )
        return missing

    def bring(self, manifests: Iterable[Manifest], count: ByteCounter = lambda size: None) -> None:
        """Copy the missing blobs of artifacts from shared stores. Raises `BlobsLost`."""
        try:
            missing = self.missing(manifests, must_exist=True)
            if missing:
                self.prepare_copy(missing, count)()
                self.arrived(missing)
        except BlobsLost as error:
            self.lose(error)
            raise

    def reach(self, manifests: Iterable[Manifest]) -> bool:
        """Copy the missing blobs of artifacts; False if they can't be had, with a warning."""
        try:
            self.bring(manifests)
        except BlobsLost:
            self.warn()
            return False
        return True

    def retry_without_lost(self, action: Callable[[bool], T]) -> T:
        """What an action returns that plans and opens artifacts.

        If files can't be had, it is called again, with True: their results now count as not built.
        """
        is_again = False
        while True:
            losses_before = self.losses
            try:
                result = action(is_again)
            except BlobsLost:
                if self.losses == losses_before:
                    raise
            else:
                if self.losses == losses_before:  # otherwise a plugin caught the error
                    return result
            self.warn()
            is_again = True

    def warn(self) -> None:
        """Report shared stores that can't be used, each once."""
        for remote in self.remotes.values():
            if remote.down:
                remote.warn("can't be used", remote.down)

    def prepare_copy(
        self, missing: Missing, count: ByteCounter = lambda size: None
    ) -> Callable[[], None]:
        """A function that copies missing blobs, in any thread. Both raise `BlobsLost`.

        If it raises nothing, call `arrived` afterwards, in the store's thread.
        """
        from finery.store.remote import Remote  # imports much, and few commands need it

        for address in missing.keys() - self.remotes.keys():
            digests = [blob.digest for blob in missing[address]]
            url = self.configured()
            if not url or public_url(url) != address:
                problem = (
                    f"the shared store {address} has the files, but the settings don't name it"
                )
                raise BlobsLost(problem, digests, is_down=True, fix=f"set FINERY_REMOTE={address}")
            try:
                self.use(Remote(url))
            except UsageError as error:  # it can't be used any more
                raise BlobsLost(error.what, digests, is_down=True) from error
        root, remotes = self._store.root, dict(self.remotes)

        def copy() -> None:
            errors = []
            for address, blobs in missing.items():
                try:
                    remotes[address].bring(root, blobs, count)
                except BlobsLost as error:
                    errors.append(error)
            if errors:
                raise errors[0]

        return copy

    def arrived(self, missing: Missing) -> None:
        """Record that blobs match their digests, all of which were copied.

        After a failure nothing is recorded: a damaged file may still be in the place of a blob that
        can't be had. Those that were copied are verified when they are used.
        """
        self._store.verified([blob.digest for blobs in missing.values() for blob in blobs])

    def lose(self, error: BlobsLost) -> None:
        """Forget that blobs are in a shared store: for good, or as long as it can't be reached.

        Results with these blobs then count as not built.
        """
        self.losses += 1
        self.lost |= error.digests
        if not error.is_down:
            self._store.forget_remote(error.digests)
