"""The content-addressed store: blobs by digest, and the artifacts of each key.

Layout under `.finery/`: `finery.db` (SQLite, WAL), `objects/ab/cdef…` (read-only blobs),
`views/<digest>/` (an artifact as a folder of links), `work/<key>` (the output folder of a running
step), `work/<key>.scratch` (kept for its next attempt) with a `….lock` and the `….seconds` of
earlier attempts, `work/<key>.job` (a job that outlives a build, see `finery.execute.job`),
`pinned/` (data that steps store for their pins), `runs/<id>/` (events and logs), `run-order`,
`locks` and `claims` (`KeyLocks` of steps and of records), `mending` (locked while a damaged
database is replaced, which stays as `finery.db.damaged-…`), `gate` and `uses/` (what running builds
use, see `finery.store.uses`), `linking` (locked while links in `build/` change).

A commit fills a staging folder, hashes the files, renames them into `objects/`, calls fsync, and
records the keys in one transaction. A build killed at any moment leaves only complete blobs and
keys.
"""

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from finery.artifact.kinds import Artifact
from finery.artifact.manifest import (
    CHANGING,
    Manifest,
    Parts,
    Result,
    is_sound,
    key_of,
    reads_in,
    referring,
    with_references,
)
from finery.errors import DataError, UsageError
from finery.store.blobs import FLUSHED_BYTES, changed_input, is_unchanged
from finery.store.connection import Database
from finery.store.links import open_artifact
from finery.store.repairs import clear_path, make_folder, warn
from finery.store.shared import SharedBlobs
from finery.store.uses import JOB, Uses, gate, remove_unheld
from finery.util.files import check_plain, fsync, hash_file, settled_state, size_of
from finery.util.leftovers import (
    is_in_use,
    kill_scratch_users,
    last_change,
    lock_path,
    reads_path,
    seconds_path,
)
from finery.util.locks import KeyLocks, holder_of
from finery.util.paths import STORE_VARIABLE
from finery.util.text import counted

KEY_DIGITS = 64
HEX = frozenset("0123456789abcdef")
SCRATCH = ".scratch"
ABANDONED_DAYS = 30
"""Days after which the scratch folder of a step that was never finished is removed."""
READS_PREFIX, MAX_READS_LISTS = "reads of ", 16
"""Beginning of the names of facts that lead from the key of a step to those of its results, which
also cover what it read; how many of them are looked at."""
VERSIONS_PREFIX = "versions of "
"""Beginning of the names of facts that lead from what a recipe asks of a step to its results."""
_FACT = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
_BLOB = "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?)"
_HAS_TEXTS = "typeof(recipe) || typeof(step) || typeof(key) = 'texttexttext'"
"""Leaves out rows in which a damaged byte made something else of a text."""
SELECTED = 500
"""Maximum number of rows that one query selects by key."""


class Store:
    """The store of a project, as one process uses it."""

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        """read_only: write nothing, although the folder may be writable."""
        self.root = root
        self.objects = root / "objects"
        self._objects = str(self.objects)
        self._results: dict[str, tuple[dict[str, Manifest], float]] = {}  # read ahead
        self._steps_with_reads: set[str] = set()  # keys of steps with results that read something
        self._blobs: dict[str, tuple[int, ...]] = {}  # digest → stat, incomplete
        self.database = root / "finery.db"
        self._locks: KeyLocks | None = None
        self._uses: Uses | None = None
        # First, since a newer finery's store must stay as it is.
        existing = Database(self.database, read_only=read_only) if self.database.is_file() else None
        try:
            self.read_only = read_only or not _create_folders(root)
            if not self.read_only:
                self._locks = KeyLocks(root / "locks")
        except OSError as error:
            raise UsageError(
                f"can't use the store {root}: {error.strerror}",
                fix="free disk space, check the permissions, or set "
                f"{STORE_VARIABLE} to another folder",
            ) from error
        self._db = existing or Database(self.database, read_only=read_only)
        self.read_only = self.read_only or self._db.read_only
        self.shared = SharedBlobs(self)

    def close(self) -> None:
        """Close the database and release the locks."""
        self.release()
        self._db.close()
        if self._locks is not None:
            self._locks.close()

    def check_writable(self) -> None:
        """Raise `UsageError` if the store isn't writable."""
        if self.read_only:
            raise UsageError(
                f"the store {self.root} can't be written",
                fix=f"check the permissions of the folder and of {self.database.name} in it, or "
                f"set {STORE_VARIABLE} to another folder",
            )

    # -- results ---------------------------------------------------------------------------------

    def hold(self, run: str) -> None:
        """From now on, keep what is looked up or recorded here from being collected as garbage."""
        self.release()
        self._uses = Uses(self.root, run)

    def release(self) -> None:
        """End that, when a build ends."""
        if self._uses is not None:
            self._uses.close()
            self._uses = None

    def read_ahead(self, keys: Iterable[str]) -> None:
        """Read many results and the stats of their blobs at once, for `lookup`."""
        keys = [*keys]
        if self._uses is not None:
            self._uses.add(keys)
        for key, encoded, seconds in self._select("key, outputs, seconds", "results", "key", keys):
            outputs = self._decode_outputs(encoded)
            if outputs is not None:
                self._results[key] = outputs, seconds
        listed = (m for by_name, _ in self._results.values() for m in by_name.values())
        manifests = (manifest for m in listed for manifest in with_references(m))
        digests = {digest for m in manifests for digest, _ in m.files.values()}
        for digest, *stat in self._select("*", "blobs", "digest", digests):
            self._blobs[digest] = tuple(stat)
        query = "SELECT DISTINCT substr(name, ?, ?) FROM facts WHERE name BETWEEN ? AND ?"
        names = len(READS_PREFIX) + 1, KEY_DIGITS, READS_PREFIX, f"{READS_PREFIX}~"
        self._steps_with_reads = {key for (key,) in self._db.rows(query, names)}

    def _select(
        self, columns: str, table: str, column: str, values: Iterable[str]
    ) -> Iterator[tuple[Any, ...]]:
        """The rows in which a column has one of the values, in any order."""
        remaining = [*values]
        for start in range(0, len(remaining), SELECTED):
            chunk = remaining[start : start + SELECTED]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT {columns} FROM {table} WHERE {column} IN ({marks})"
            yield from self._db.rows(query, chunk)

    @property
    def opened(self) -> int:
        """How often the database was opened, see `Database`."""
        return self._db.opened

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self._db.rows(query, values)

    def _first_row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a query, or None."""
        return next(iter(self._db.rows(query, values)), None)

    def _decode(self, content: bytes, kind: Any) -> Any:
        """A decoded value. If it is damaged, replace the database and return None."""
        try:
            return msgspec.json.decode(content, type=kind)
        except (msgspec.DecodeError, UnicodeError, TypeError, RecursionError) as error:
            self._db.damaged(str(error))
            return None

    def _decode_outputs(self, encoded: bytes) -> dict[str, Manifest] | None:
        """The decoded outputs of a result, like `_decode`. Changed bytes count as damage."""
        outputs: dict[str, Manifest] | None = self._decode(encoded, dict[str, Manifest])
        if outputs is None or all(map(is_sound, outputs.values())):
            return outputs
        self._db.damaged("the outputs of a step don't have their digest")
        return None

    def lookup(
        self, key: str, inputs: Iterable[Manifest] = (), parts: Parts | None = None
    ) -> Result | None:
        """The result of a key; None if it isn't finished, or if a file is missing or damaged.

        A file that is in a shared store isn't missing.

        inputs: the current inputs of the step. Outputs that refer to one of them are returned with
            the current one, since files outside the store may have moved.
        parts: the parts of the key, if the caller has them.
        """
        if self._uses is not None:
            self._uses.add([key])
        row = self._results.get(key) or self._read_result(key)
        if row is None:
            return None
        outputs, seconds = row
        if any(m.refs for m in outputs.values()):
            current = {m.digest: m for artifact in inputs for m in with_references(artifact)}
            outputs = {name: referring(m, current) for name, m in outputs.items()}
        if not all(map(self._is_complete, outputs.values())):
            return None
        return Result(key, outputs, seconds, self.parts_of(key) or [] if parts is None else parts)

    def reads_of(self, key: str) -> list[list[str]]:
        """Names of what the results of a step read, by the key of the step, the newest first.

        One that read nothing has no names.
        """
        if key in self._results and key not in self._steps_with_reads:
            return [[]]
        query = (
            "SELECT made, parts FROM facts JOIN results ON results.key = substr(name, -64) "
            "JOIN parts USING (key) WHERE name BETWEEN ? AND ? UNION ALL "
            "SELECT made, '[]' FROM results WHERE key = ? ORDER BY made DESC LIMIT ?"
        )
        names = f"{READS_PREFIX}{key} ", f"{READS_PREFIX}{key}!"
        rows = self._db.rows(query, [*names, key, MAX_READS_LISTS])
        part_lists = (self._decode(parts, Parts) for _, parts in rows)
        return [[*n] for n in {tuple(p for p, _ in reads_in(each or [])): 0 for each in part_lists}]

    def _reads_facts(self, key: str, parts: Parts) -> Iterator[str]:
        """The name of the fact for a result that others may reuse if they read the same."""
        if (reads := reads_in(parts)) and not reads[-1][0].startswith(CHANGING):
            self._steps_with_reads.add(step := key_of(parts[: -len(reads)]))
            yield f"{READS_PREFIX}{step} {key}"

    def versions_of(self, request: str) -> Iterator[tuple[str, dict[str, str]]]:
        """(key, versions) of the results that a step has had with other code, the newest first."""
        query = (
            "SELECT key, content FROM facts JOIN results ON key = substr(name, -64) "
            "WHERE name BETWEEN ? AND ? ORDER BY made DESC"
        )
        names = f"{VERSIONS_PREFIX}{request} ", f"{VERSIONS_PREFIX}{request}!"
        for key, content in self._db.rows(query, names):
            with suppress(msgspec.DecodeError, UnicodeError, TypeError, RecursionError):
                if self.lookup(key):
                    yield key, msgspec.json.decode(content, type=dict[str, str])

    def _read_result(self, key: str) -> tuple[dict[str, Manifest], float] | None:
        row = self._first_row("SELECT outputs, seconds FROM results WHERE key = ?", key)
        if row is None:
            return None
        outputs = self._decode_outputs(row[0])
        return None if outputs is None else (outputs, row[1])

    def commit(self, results: Sequence[Result], *, run: str) -> None:
        """Record finished keys durably in one transaction. Their blobs are already in `objects/`.

        Blobs are fsynced first, in parallel, since a disk handles many in the time of one. That is
        why quick steps are committed in groups.
        """
        if not results:
            return
        if self._uses is not None:
            self._uses.add(result.key for result in results)
        digests = {d for r in results for m in r.outputs.values() for d, _ in m.files.values()}
        self._flush(digests)
        now = time.time()
        rows = [[r.key, msgspec.json.encode(r.outputs), r.seconds, now, run] for r in results]
        parts = [[r.key, msgspec.json.encode(r.parts)] for r in results]
        facts = [(name, b"") for r in results for name in self._reads_facts(r.key, r.parts)]
        facts += [
            (f"{VERSIONS_PREFIX}{r.request} {r.key}", msgspec.json.encode(r.made_with))
            for r in results if r.request
        ]  # fmt: skip
        self._db.write(
            (_BLOB, [(d, *(self._blobs.get(d) or _blob_stat(self.blob_path(d)))) for d in digests]),
            ("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows),
            ("INSERT OR REPLACE INTO parts VALUES (?, ?)", parts),
            (_FACT, facts),
            patient=True,
        )
        for result in results:
            self._results.pop(result.key, None)

    def adopt(
        self, results: Sequence[tuple[str, bytes, float]], parts: Mapping[str, Parts],
        places: Sequence[Sequence[Any]], run: str,
    ) -> None:  # fmt: skip
        """Record results of a shared store: (key, encoded outputs, seconds) of each.

        places: rows of the table `remote`.
        """
        if self._uses is not None:
            self._uses.add(key for key, *_ in results)
        with gate(self.root) as gate_file:  # some may be here without a result, and are new now
            os.utime(gate_file)  # so that a running step knows that nobody edits its inputs
            for digest, *_ in places:
                with suppress(OSError):
                    path = self.blob_path(digest)
                    os.chmod(path, os.stat(path).st_mode & 0o777)
        now = time.time()
        encoded = [(key, msgspec.json.encode(parts[key])) for key, *_ in results]
        lists = [(name, b"") for key, *_ in results for name in self._reads_facts(key, parts[key])]
        self._db.write(
            ("INSERT OR REPLACE INTO remote VALUES (?, ?, ?, ?, ?)", places),
            ("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)",
             [(*result, now, run) for result in results]),
            ("INSERT OR REPLACE INTO parts VALUES (?, ?)", encoded),
            (_FACT, lists),
        )  # fmt: skip
        for key, *_ in results:
            self._results.pop(key, None)

    def rename_remote(self, old_url: str, new_url: str) -> None:
        """Change the address of a shared store."""
        self._db.write(
            ("UPDATE remote SET url = ? WHERE url = ?", [(new_url, old_url)]), is_cache=True
        )

    def forget_remote(self, digests: Iterable[str]) -> None:
        """Forget that blobs are in a shared store."""
        self._db.write(("DELETE FROM remote WHERE digest = ?", [(d,) for d in digests]))

    def _flush(self, digests: Iterable[str]) -> None:
        paths = [p for d in digests if os.stat(p := self.blob(d)).st_size < FLUSHED_BYTES]
        if len(paths) == 1:
            fsync(paths[0])
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(fsync, paths))

    def remember(self, recipe: str, keys: Mapping[str, str]) -> None:
        """Record the last key of each step of a recipe, and the one before."""
        previous = self.latest(recipe, keys)
        fresh = [
            (recipe, step, key, previous.get(step, (None,))[0])
            for step, key in keys.items()
            if previous.get(step, (None,))[0] != key
        ]
        if fresh:
            self._db.write(("INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?)", fresh))

    def latest(
        self, recipe: str, steps: Collection[str] | None = None
    ) -> dict[str, tuple[str, str | None]]:
        """Step → (the key of its last build, the key before that). steps: only these."""
        query, values = f"recipe = ? AND {_HAS_TEXTS}", [recipe]
        if steps is not None:
            query += " AND step IN (SELECT value FROM json_each(?))"
            values.append(msgspec.json.encode([*steps]).decode())
        rows = self._db.rows(f"SELECT step, key, previous FROM latest WHERE {query}", values)
        return {step: (key, previous) for step, key, previous in rows}

    def recipes(self) -> dict[str, Path]:
        """The recipes that were built in this project, and their files, which may be gone."""
        rows = self._db.rows(f"SELECT DISTINCT recipe FROM latest WHERE {_HAS_TEXTS}")
        return {recipe: self.root.parent / recipe for (recipe,) in rows}

    def parts_of(self, key: str) -> Parts | None:
        """The parts of a finished key."""
        row = self._first_row("SELECT parts FROM parts WHERE key = ?", key)
        return self._decode(row[0], Parts) if row else None

    def seconds_of(self, key: str) -> float | None:
        """How long the step of a finished key took, even if its files are gone; else None."""
        row = self._first_row("SELECT seconds FROM results WHERE key = ?", key)
        return row[0] if row else None

    def finished(self, key: str) -> Result | None:
        """The result of a finished key, even if its files are gone."""
        return next(self._finished_results("key = ?", key), None)

    def history(self, use: str) -> list[Result]:
        """All finished keys of a step type, newest first, even if their files are gone."""
        part = msgspec.json.encode(["step type", use])
        return list(self._finished_results("instr(parts, ?) ORDER BY made DESC", part))

    def _finished_results(self, where: str, value: str | bytes) -> Iterator[Result]:
        columns, tables = "key, outputs, seconds, parts", "results JOIN parts USING (key)"
        query = f"SELECT {columns} FROM {tables} WHERE {where}"
        for key, outputs, seconds, encoded in self._db.rows(query, [value]):
            manifests = self._decode_outputs(outputs)
            parts = self._decode(encoded, Parts)
            if manifests is not None and parts is not None:
                yield Result(key, manifests, seconds, parts)

    # -- blobs -----------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path:
        """The path of the blob with this digest."""
        return Path(self.blob_path(digest))

    def _is_complete(self, manifest: Manifest) -> bool:
        return (
            all(
                self.is_intact(d, size) or self.shared.has(d) for d, size in manifest.files.values()
            )
            and all(is_unchanged(*file) for file in manifest.external.values())
            and all(map(self._is_complete, manifest.refs.values()))
        )

    def is_intact(self, digest: str, size: int) -> bool:
        """Whether a blob matches its digest. Its bytes are read only if its stat has changed."""
        path = self.blob_path(digest)
        try:
            now = _blob_stat(path)
            # When its bytes were last verified.
            query = "SELECT size, mtime, ctime, inode FROM blobs WHERE digest = ?"
            if (self._blobs.get(digest) or self._first_row(query, digest)) == now:
                return True
            if now[0] != size or hash_file(Path(path)) != digest:
                return False  # the rerun step replaces it
        except OSError:  # missing, or not a file
            return False
        self.verified([digest])
        return True

    def arrived(self, outputs: Iterable[Manifest]) -> None:
        """Note the states of new blobs, for `commit`: a later step may damage one before that."""
        for digest in {digest for output in outputs for digest, _ in output.files.values()}:
            with suppress(OSError):
                self._blobs[digest] = _blob_stat(self.blob_path(digest))

    def check_inputs(self, inputs: Iterable[tuple[str, Manifest]]) -> None:
        """Raise `StepError` if a file of a step's inputs isn't what it was before the step ran."""
        for ref, manifest in inputs:
            for part in with_references(manifest):
                for name, (digest, size) in part.files.items():
                    if not self.is_intact(digest, size):
                        raise changed_input(ref, name)
                for name, file in part.external.items():
                    if not is_unchanged(*file):
                        raise changed_input(ref, name)

    def verified(self, digests: Iterable[str]) -> None:
        """Record that blobs match their digests as they are now."""
        stats = {digest: _blob_stat(self.blob_path(digest)) for digest in digests}
        self._blobs |= stats
        self._db.write((_BLOB, [(d, *stat) for d, stat in stats.items()]), is_cache=True)

    def blob_path(self, digest: str) -> str:
        """`blob` as text, which is faster."""
        return f"{self._objects}/{digest[:2]}/{digest[2:]}"

    def artifact(self, manifest: Manifest) -> Artifact:
        """The artifact, with its folder of links. Copies files that only a shared store has."""
        self.shared.bring([manifest])
        return open_artifact(self.root, manifest)

    # -- outside files ---------------------------------------------------------------------------

    def digest_files(
        self, paths_by_setting: Mapping[str, list[tuple[str, Path]]]
    ) -> dict[str, list[tuple[str, str]]]:
        """Setting → (name, digest) of each outside file; unchanged files aren't read again."""
        return {
            field: [(name, self.digest_file(path)) for name, path in files]
            for field, files in paths_by_setting.items()
        }

    def digest_file(self, path: Path) -> str:
        """The digest of an outside file, remembered by device, inode, size, mtime and ctime."""
        try:
            stat = _stat_key(path)
            row = self._first_row("SELECT stat, digest FROM files WHERE path = ?", str(path))
            if row and row[0] == stat:
                return str(row[1])
            check_plain(path)
            digest = hash_file(path)
        except OSError as error:
            raise DataError(f"can't read {path}: {error.strerror}") from error
        if settled_state(str(path)) is not None:
            row = (str(path), stat, digest)
            self._db.write(("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", [row]), is_cache=True)
        return digest

    # -- cached values ----------------------------------------------------------------------

    def remembered(self, kind: str, path: Path, compute: Callable[[Path], bytes]) -> bytes:
        """`compute(path)`, cached until the file changes.

        kind: name and version of the computation.
        """
        stat = _stat_key(path)
        query = "SELECT stat, content FROM remembered WHERE kind = ? AND path = ?"
        row = self._first_row(query, kind, str(path))
        if row and row[0] == stat and isinstance(row[1], bytes):
            return row[1]
        content = compute(path)
        if settled_state(str(path)) is not None:
            new_row = (kind, str(path), stat, content)
            query = "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?, ?)"
            self._db.write((query, [new_row]), is_cache=True)
        return content

    def fact(self, name: str) -> bytes | None:
        """The content stored under a name, or None."""
        row = self._first_row("SELECT content FROM facts WHERE name = ?", name)
        return row[0] if row and isinstance(row[0], bytes) else None

    def keep_facts(self, facts: Mapping[str, bytes]) -> None:
        """Store contents under names that the caller chooses."""
        self._db.write((_FACT, facts.items()), is_cache=True)

    def keep_spending(self, key: str, dollars: float, worth: float) -> None:
        """Add what an attempt at a step's key spent. worth: the cost of all answers that it used.

        A cost is the sum over all attempts, including failed ones. Answers from the cache count
        with their original cost, so a step that reruns keeps its cost. If two steps use the same
        answers, both count them.
        """
        total = max(worth, dollars + self.dollars_spent([key]))
        self.keep_facts({f"dollars of {key}": repr(total).encode()})

    def dollars_spent(self, keys: Iterable[str]) -> float:
        """The cost of the answers that the steps of some keys use, each counted once."""
        total = 0.0
        names = [f"dollars of {key}" for key in {*keys}]
        for (content,) in self._select("content", "facts", "name", names):
            with suppress(ValueError):  # a damaged database
                total += float(content)
        return total

    # -- work folders and locks ------------------------------------------------------------------

    def work(self, key: str) -> tuple[Path, Path]:
        """(out, scratch) of a key to build. `out` is empty, `scratch` is unchanged.

        Ends processes of an earlier attempt that still use `scratch`, or raises `StepError`. If
        the key has a job, which may be running, both are unchanged: its executor decides.
        """
        out, scratch = self.root / "work" / key, self.root / "work" / f"{key}{SCRATCH}"
        if (self.root / "work" / f"{key}{JOB}").exists():
            out.mkdir(exist_ok=True)
            return out, scratch
        if lock_path(scratch).exists():
            kill_scratch_users(scratch)
        try:
            out.mkdir()
        except FileExistsError:  # an earlier attempt died
            shutil.rmtree(out)
            out.mkdir()
        return out, scratch

    def clear_work(self, key: str) -> None:
        """Remove a finished key's folders."""
        self.clear_output(key)
        scratch = self.root / "work" / f"{key}{SCRATCH}"
        if scratch.exists():
            shutil.rmtree(scratch, ignore_errors=True)
        for path in (lock_path(scratch), seconds_path(scratch), reads_path(scratch)):
            path.unlink(missing_ok=True)

    def clear_output(self, key: str) -> None:
        """Remove a key's output folder and job. Its scratch folder stays for the next attempt."""
        out = self.root / "work" / key
        shutil.rmtree(self.root / "work" / f"{key}{JOB}", ignore_errors=True)
        try:
            out.rmdir()  # usually empty, since the files have moved
        except OSError:
            shutil.rmtree(out, ignore_errors=True)

    def clear_incomplete(self, key: str) -> None:
        """Remove the output of a key whose step was ended, unless it has a job, which may run."""
        if not (self.root / "work" / f"{key}{JOB}").exists():
            self.clear_output(key)

    def sweep(self) -> None:
        """Remove incomplete outputs and scratch of finished keys that killed builds left."""
        for key, name in self._unused_work():
            if name == key:
                self.clear_output(key)
            elif self.lookup(key) is not None:
                self.clear_work(key)

    def sweep_abandoned(self) -> None:
        """Remove scratch folders that are unused for `ABANDONED_DAYS`, and report it.

        The process must hold no locks of keys, since this releases them.
        """
        cutoff = time.time() - ABANDONED_DAYS * 86_400
        removed = 0
        for key, name in self._unused_work():
            if name != key and last_change(self.root / "work" / name) < cutoff:
                self.clear_work(key)
                removed += 1
        if removed:
            warn(
                f"removed the scratch of {counted(removed, 'unfinished step')}, unused for "
                f"{ABANDONED_DAYS} days"
            )

    def sweep_scratch(self, needed: Collection[str], *, remove: bool = True) -> tuple[int, int]:
        """Remove outputs and scratch of unfinished steps; (number of steps, bytes).

        needed: keys whose scratch stays. The process must hold no locks of keys.
        """
        steps, total = set[str](), 0
        for key, name in self._unused_work():
            if name == key or key not in needed:
                total += size_of(self.root / "work" / name)
                steps.add(key)
                if remove and name == key:
                    self.clear_output(key)
                elif remove:
                    self.clear_work(key)
        with gate(self.root, alone=True):
            total += remove_unheld(self.root, remove=remove)
        return len(steps), total

    def _unused_work(self) -> Iterator[tuple[str, str]]:
        """(key, name) of unused output and scratch folders, each with its key locked.

        Those of a job, which may be running, are in use until it is `ABANDONED_DAYS` old.
        """
        cutoff = time.time() - ABANDONED_DAYS * 86_400
        for name in os.listdir(self.root / "work"):
            key = name.removesuffix(SCRATCH)
            if len(key) != KEY_DIGITS or not HEX.issuperset(key) or not self.try_lock(key):
                continue
            try:
                job = self.root / "work" / f"{key}{JOB}"
                if job.exists() and last_change(job) > cutoff:
                    continue
                if not is_in_use(self.root / "work" / f"{key}{SCRATCH}"):
                    yield key, name
            finally:
                self.unlock(key)

    def try_lock(self, key: str) -> bool:
        """Acquire the lock of a key, or return False. The lock ends with this process."""
        return self._locks is not None and self._locks.acquire(bytes.fromhex(key))

    def holder(self, key: str) -> str:
        """The process that has the lock of a key, see `finery.util.locks.holder_of`."""
        return holder_of(self.root / "locks", key=bytes.fromhex(key))

    def unlock(self, key: str) -> None:
        """Release the lock of a key."""
        if self._locks is not None:
            self._locks.release(bytes.fromhex(key))


def _create_folders(root: Path) -> bool:
    """Create the folders of a store; False if it isn't writable."""
    if root.exists() and not root.is_dir():
        raise UsageError(
            f"the store {root} is not a folder",
            fix=f"move it away, or set {STORE_VARIABLE} to a folder",
        )
    nearest = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        return False
    for name in ("objects", "views", "work", "runs"):
        make_folder(root / name)
    for name in ("finery.db", "locks", "claims", "mending", "gate", "linking"):
        clear_path(root / name)
    ignore = root / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    return True


def _blob_stat(path: str) -> tuple[int, ...]:
    s = os.stat(path)
    return s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino


def _stat_key(path: Path) -> bytes:
    s = os.stat(path)
    return msgspec.msgpack.encode([s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns])
