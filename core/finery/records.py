"""The per-record cache: one answered request is one record, shared by all recipes of a project.

A record outlives its step: when a step is stopped half way or its rows change, what was answered
before is not asked again.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from blake3 import blake3

from finery.engine import Completion, Engine, Sampling
from finery.rows import Conversation


class Records(Protocol):
    """A mapping from 32-byte keys to bytes that outlives the process."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The records there are, by key."""

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records; durable when it returns."""


class MemoryRecords(dict[bytes, bytes]):
    """Records that end with the process, for tests of a single step."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:  # type: ignore[override]
        """The records there are, by key."""
        return {k: self[k] for k in keys if k in self}

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records."""
        self.update(records)


class SqliteRecords:
    """Records in the project's database, opened when first used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            self._db.execute("PRAGMA synchronous=NORMAL")
        return self._db

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The records there are, by key."""
        db, found = self._open(), dict[bytes, bytes]()
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            found.update(db.execute(f"SELECT key, value FROM records WHERE key IN ({marks})", part))
        return found

    def put(self, records: Mapping[bytes, bytes]) -> None:
        """Keep records in one transaction."""
        db = self._open()
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT OR REPLACE INTO records VALUES (?, ?)", records.items())
        db.execute("COMMIT")


class CachedEngine:
    """An engine with the record cache in front of it: the one way steps answer prompts."""

    def __init__(self, engine: Engine, records: Records, identity: str) -> None:
        self._engine = engine
        self._records = records
        self._identity = identity

    def generate(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        stop: Sequence[str] = (),
        progress: str = "",
    ) -> list[Completion]:
        """Answer each conversation, in order. `progress` names the work in the progress bar.

        Batches that were answered before, by the same model, engine and sampling, come from the
        cache; an empty answer is an answer, an error is not and is never kept.
        """
        sampling = Sampling(
            max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=tuple(stop)
        )  # fmt: skip
        answers: list[Completion | None] = [None] * len(conversations)
        batches = self._engine.batches(conversations)
        keys = [self._key([conversations[i] for i in batch], sampling) for batch in batches]
        known = self._records.get(keys)
        done = 0
        for batch, key in zip(batches, keys, strict=True):
            if key in known:
                found = msgspec.msgpack.decode(known[key], type=list[Completion])
            else:
                found = self._engine.generate([conversations[i] for i in batch], sampling)
                self._records.put({key: msgspec.msgpack.encode(found)})
            for i, answer in zip(batch, found, strict=True):
                answers[i] = answer
            done += len(batch)
            self._engine.job.progress(done, len(conversations), progress)
        return [a for a in answers if a is not None]

    def _key(self, batch: Sequence[Conversation], sampling: Sampling) -> bytes:
        content = msgspec.json.encode([self._identity, batch, sampling], order="deterministic")
        return blake3(content).digest()
