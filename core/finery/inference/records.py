"""Records of answered requests: where they are kept, and their keys."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec
from blake3 import blake3

from finery.artifact.kinds import Artifact, Model
from finery.errors import FineryError, StepError
from finery.inference.types import Batch, Request, Sampling
from finery.store.connection import PATIENT_SECONDS, Database
from finery.util.locks import KeyLocks


class Records(Protocol):
    """A mapping from 32-byte keys to bytes that outlives the process."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The records there are, by key."""

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records; durable when it returns."""

    def claim(self, key: bytes) -> bool:
        """Take it on to make a record; False while another process does. Ends with this process."""

    def release(self, key: bytes) -> None:
        """Give up a claim: the record is kept by now, or can't be made."""


class MemoryRecords(dict[bytes, bytes]):
    """Records that end with the process, for tests of a single step."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:  # type: ignore[override]
        """The records there are, by key."""
        return {k: self[k] for k in keys if k in self}

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records."""
        self.update(records)

    def claim(self, key: bytes) -> bool:
        """Nobody else makes these."""
        return True

    def release(self, key: bytes) -> None:
        """Nothing is held."""


class SqliteRecords:
    """Records in the project's database, opened when first used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened: Database | None = None

    @property
    def _db(self) -> Database:
        if self._opened is None:
            self._opened = Database(self._path, seconds=PATIENT_SECONDS)
        return self._opened

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The records there are, by key."""
        found = dict[bytes, bytes]()
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT key, value FROM records WHERE key IN ({marks})"
            found.update(dict(self._db.rows(query, part)))
        return found

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records in one transaction. `StepError` when they can't be written."""
        try:
            self._db.write(("INSERT OR REPLACE INTO records VALUES (?, ?)", records.items()))
        except FineryError as error:
            raise StepError(
                f"can't keep an answer: {error.what}",
                fix=f"{error.fix}; the answers before this one are kept",
            ) from error

    def claim(self, key: bytes) -> bool:
        """Take it on to make a record: a lock of the operating system."""
        return _claims(self._path.with_name("claims")).acquire(key)

    def release(self, key: bytes) -> None:
        """Give up a claim."""
        _claims(self._path.with_name("claims")).release(key)


@cache
def _claims(path: Path) -> KeyLocks:
    """The claims of a store, open as long as this process: closing would give up all of them."""
    return KeyLocks(path)


def sampling_of(
    *,
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
    schema: Mapping[str, Any] | None = None,
) -> Sampling:
    """The sampling of `CachedEngine.stream` with these arguments."""
    return Sampling(
        max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=tuple(stop),
        schema=dict(schema) if schema is not None else None,
    )  # fmt: skip


def record_key(identity: str, batch: Batch, sampling: Sampling) -> bytes:
    """The key of a record: who answers, what is asked, how, and the attempt."""
    content = [
        identity,
        [_asked_content(request) for request in batch],
        _sampling_content(sampling),
        batch[0].attempt,
    ]
    return blake3(msgspec.json.encode(content, order="deterministic")).digest()


def identity_of(model: Model, engines: Mapping[str, str]) -> str:
    """Who answers, in the keys of records: a model's content, and the engines of its formats.

    engines: model format → what stands for its engine.
    """
    under = sorted((name, engines[name]) for name in formats_of(model))
    return blake3(msgspec.json.encode([model.digest, under])).hexdigest()


def formats_of(model: Artifact) -> set[str]:
    """The formats of a model and of all models under it: who else a step asks is no matter."""
    own = {model.format} if isinstance(model, Model) else set()
    return own.union(*map(formats_of, model.refs.values()))


def _asked_content(request: Request) -> Any:
    if request.tools is None:
        return request.messages
    return {"messages": request.messages, "tools": _ordered(request.tools)}


def _sampling_content(sampling: Sampling) -> dict[str, Any]:
    """The sampling; without what isn't set, so that records outlive new fields."""
    content: dict[str, Any] = msgspec.to_builtins(sampling)
    schema = content.pop("schema")
    return content if schema is None else {**content, "schema": _ordered(schema)}


def _ordered(value: Any) -> str:
    """As text, in its own order: that in which a schema names fields is that of the answer."""
    return msgspec.json.encode(value).decode()
