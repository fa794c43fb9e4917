"""Records of answered requests: their storage and their keys."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
from blake3 import blake3

from finery.artifact.kinds import Model
from finery.errors import FineryError, StepError
from finery.inference.engine import Batch, Identity, Sampling
from finery.store.connection import PATIENT_SECONDS, Database
from finery.util.locks import KeyLocks


class Records(Protocol):
    """A mapping from 32-byte keys to bytes that outlives the process."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The existing records, by key."""

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Store records. They are durable when it returns."""

    def claim(self, key: bytes) -> bool:
        """Claim the right to make a record; False while another process has it.

        Claims end with the process.
        """

    def release(self, key: bytes) -> None:
        """Release a claim, once the record is stored or can't be made."""


class MemoryRecords(dict[bytes, bytes]):
    """Records that end with the process, for tests of a single step."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:  # type: ignore[override]
        """The existing records, by key."""
        return {k: self[k] for k in keys if k in self}

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Store records."""
        self.update(records)

    def claim(self, key: bytes) -> bool:
        """Always succeeds: nobody shares these records."""
        return True

    def release(self, key: bytes) -> None:
        """Does nothing: claims aren't recorded."""


class UncachedRecords:
    """Records that are neither read nor stored while `is_uncached()`."""

    def __init__(self, records: Records, is_uncached: Callable[[], bool]) -> None:
        self._records = records
        self._is_uncached = is_uncached

    def __getattr__(self, name: str) -> Any:
        return getattr(self._records, name)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The existing records, by key."""
        return {} if self._is_uncached() else self._records.get(keys)

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Store records."""
        if not self._is_uncached():
            self._records.put(records)


class SqliteRecords:
    """Records in the project's database, opened when first used."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _db(self) -> Database:
        return Database(self._path, seconds=PATIENT_SECONDS)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The existing records, by key."""
        records = dict[bytes, bytes]()
        for start in range(0, len(keys), 500):
            chunk = keys[start : start + 500]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT key, value FROM records WHERE key IN ({marks})"
            records.update(dict(self._db.rows(query, chunk)))
        return records

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Store records in one transaction. `StepError` if they can't be written."""
        try:
            self._db.write(("INSERT OR REPLACE INTO records VALUES (?, ?)", records.items()))
        except FineryError as error:
            raise StepError(
                f"an answer can't be stored: {error.what}",
                fix=f"{error.fix}; earlier answers are stored",
            ) from error

    def claim(self, key: bytes) -> bool:
        """Claim the right to make a record, with a lock of the operating system."""
        return _claims(self._path.with_name("claims")).acquire(key)

    def release(self, key: bytes) -> None:
        """Release a claim."""
        _claims(self._path.with_name("claims")).release(key)


@cache
def _claims(path: Path) -> KeyLocks:
    """The claims of a store. Never closed: closing the file would release all of them."""
    return KeyLocks(path)


def make_sampling(
    *, stop: Sequence[str] = (), schema: Mapping[str, Any] | None = None, **options: Any
) -> Sampling:
    """The sampling of `CachedEngine.stream` with these arguments."""
    return Sampling(
        stop=tuple(stop), schema=dict(schema) if schema is not None else None, **options
    )


def record_key(identity: Identity, batch: Batch, sampling: Sampling) -> bytes:
    """The key of a record: the model, the requests, the sampling, and the attempt."""
    messages = [
        r.messages if r.tools is None else {"messages": r.messages, "tools": _ordered_json(r.tools)}
        for r in batch
    ]
    fields: dict[str, Any] = msgspec.to_builtins(sampling)
    # Unset fields are left out, so that new fields don't invalidate records.
    schema, strict = fields.pop("schema"), fields.pop("strict")
    if schema is not None:
        fields["schema"] = _ordered_json(schema)
    if strict:
        fields["strict"] = True
    content = [identity.of(sampling), messages, fields, batch[0].attempt]
    return blake3(msgspec.json.encode(content, order="deterministic")).digest()


def identity_of(model: Model, engines: Mapping[str, Identity]) -> Identity:
    """The model in the keys of records: its content, and the engines of its formats.

    engines: model format → the engine's identity.
    """
    format_identities = sorted((name, engines[name]) for name in model.formats)

    def identity(versions: Iterable[tuple[str, str]]) -> str:
        return blake3(msgspec.json.encode([model.digest, [*versions]])).hexdigest()

    constrained = [
        (name, engine.held) for name, engine in format_identities if engine.held is not None
    ]
    return Identity(
        identity((name, engine.free) for name, engine in format_identities),
        identity(constrained) if len(constrained) == len(format_identities) else None,
    )


def _ordered_json(value: Any) -> str:
    """JSON text that keeps the order of keys, since answers follow a schema's order of fields."""
    return msgspec.json.encode(value).decode()
