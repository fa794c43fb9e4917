"""The content-addressed store: blobs by digest, and which key made which artifacts.

Layout under `.finery/`: `finery.db` (SQLite, WAL), `objects/ab/cdef…` (read-only blobs),
`views/ab/cdef…/` (an artifact as a folder of links), `work/<key>/` (staging and scratch),
`runs/<id>/` (events and logs), `locks` (one file; a key's lock is a byte range of it).

A commit is: fill a staging folder, hash, rename into `objects/`, fsync, and one transaction that
records keys. Whatever instant a build dies at, the next one finds whole blobs and whole keys.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3

from finery.artifacts import KINDS, Artifact
from finery.code import Parsed
from finery.errors import DataError, StepError, UsageError
from finery.keys import Parts, encode
from finery.places import STORE
from finery.step import Files

VERSION = 2
"""Of the tables below, but for `records`, whose form is fixed. Bump it when they change."""
_REBUILT = ("results", "latest", "blobs", "files", "code", "stamps", "checked")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
  key TEXT PRIMARY KEY, outputs BLOB NOT NULL, parts BLOB NOT NULL, seconds REAL NOT NULL,
  made REAL NOT NULL, run TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS latest (
  recipe TEXT, step TEXT, key TEXT NOT NULL, previous TEXT,
  PRIMARY KEY (recipe, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blobs (
  digest TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, ctime INTEGER, inode INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
  path TEXT PRIMARY KEY, stat BLOB NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS code (
  path TEXT PRIMARY KEY, stat BLOB NOT NULL, parsed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stamps (name TEXT PRIMARY KEY, content TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS checked (digest TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again within the clock's grain."""


KEY_DIGITS = 64
MANIFEST = "manifest.json"
"""The file in an artifact's folder that describes it."""
_OUTPUT = re.compile(r"/views/[0-9a-f]{64}$")
"""What a link in `build/` says."""
FLUSHED_BYTES = 1 << 20
"""Files from this size on are fsynced by the worker that made them."""


class Manifest(msgspec.Struct, frozen=True):
    """An artifact as the store keeps it: everything but the bytes. Made by `manifest`."""

    kind: str
    meta: dict[str, Any]
    files: dict[str, tuple[str, int]]  # name → (digest, size in bytes)
    digest: str  # the artifact's identity: all but where external files lie
    view: str  # its folder of links; another one when external files lie elsewhere
    refs: "dict[str, Manifest]" = {}
    external: dict[str, tuple[str, int, int]] = {}  # name → (absolute path, bytes, mtime in ns)

    def size(self) -> int:
        """Bytes of its own files in the store."""
        return sum(size for _, size in self.files.values())


def manifest(
    kind: str,
    meta: Mapping[str, Any],
    files: Mapping[str, tuple[str, int]],
    refs: Mapping[str, Manifest] | None = None,
    external: Mapping[str, tuple[str, int, int]] | None = None,
) -> Manifest:
    """A manifest with its digests worked out. `meta` comes back as JSON values, keys sorted."""
    plain = json.loads(json.dumps(meta, sort_keys=True))
    refs, external = dict(refs or {}), dict(sorted((external or {}).items()))
    contents = sorted((name, digest) for name, (digest, _) in files.items())
    under = sorted((role, m.digest) for role, m in refs.items())
    digest = blake3(encode([kind, plain, contents, under, list(external)])).hexdigest()
    lies = [digest, list(external.items()), sorted(m.view for m in refs.values())]
    return Manifest(
        kind, plain, dict(files), digest, blake3(encode(lies)).hexdigest(), refs, external
    )


def _with_references(given: Manifest) -> Iterator[Manifest]:
    yield given
    for ref in given.refs.values():
        yield from _with_references(ref)


def _referring(made: Manifest, known: Mapping[str, Manifest]) -> Manifest:
    """The same artifact, referring to what is in `known` by digest as it is there."""
    if not made.refs:
        return made
    refs = {role: known.get(m.digest) or _referring(m, known) for role, m in made.refs.items()}
    return manifest(made.kind, made.meta, made.files, refs, made.external)


class Result(msgspec.Struct, frozen=True):
    """A finished key: its outputs by name, and how they came about."""

    key: str
    outputs: dict[str, Manifest]
    seconds: float
    parts: Parts


class Store:
    """One project's store, opened by one process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.objects = root / "objects"
        self.database = root / "finery.db"
        try:
            for name in ("objects", "views", "work", "runs"):
                (root / name).mkdir(parents=True, exist_ok=True)
            ignore = root / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            self._db = _connect(self.database)
            self._locks = os.open(root / "locks", os.O_RDWR | os.O_CREAT, 0o644)
        except (OSError, sqlite3.Error) as error:
            raise UsageError(
                f"can't use the store {root}: {error}",
                fix=f"check its permissions, or set {STORE} to another folder",
            ) from error

    def close(self) -> None:
        """Close the database and give up the locks."""
        self._db.close()
        os.close(self._locks)

    # -- results ---------------------------------------------------------------------------------

    def lookup(self, key: str, inputs: Iterable[Manifest] = ()) -> Result | None:
        """The result of a key, None where there is none or a file of it is missing or damaged.

        inputs: what the step takes now. Where an output refers to one of them, that is the one it
            comes back with: files outside the store may have moved since it was made.
        """
        row = self._db.execute(
            "SELECT outputs, seconds, parts FROM results WHERE key = ?", [key]
        ).fetchone()
        if row is None:
            return None
        outputs = msgspec.json.decode(row[0], type=dict[str, Manifest])
        known = {m.digest: m for given in inputs for m in _with_references(given)}
        outputs = {name: _referring(m, known) for name, m in outputs.items()}
        result = Result(key, outputs, row[1], [tuple(p) for p in msgspec.json.decode(row[2])])
        return result if all(self._whole(m) for m in outputs.values()) else None

    def known(self, key: str) -> bool:
        """Whether the key was ever finished, whatever became of its files."""
        return self._db.execute("SELECT 1 FROM results WHERE key = ?", [key]).fetchone() is not None

    def commit(self, results: Sequence[Result], *, run: str) -> None:
        """Record finished keys, durably and all at once; their blobs are in `objects/` already.

        The blobs are fsynced first, side by side, since a disk takes many in the time of one:
        that is why steps that take no time are committed in groups.
        """
        if not results:
            return
        digests = {d for r in results for m in r.outputs.values() for d, _ in m.files.values()}
        self._flush(digests)
        now = time.time()
        rows = [
            [
                r.key,
                msgspec.json.encode(r.outputs),
                msgspec.json.encode(r.parts),
                r.seconds,
                now,
                run,
            ]
            for r in results
        ]
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?)",
                [self._blob_row(d) for d in digests],
            )
            self._db.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _flush(self, digests: Iterable[str]) -> None:
        paths = [p for d in digests if os.stat(p := self.blob(d)).st_size < FLUSHED_BYTES]
        if len(paths) == 1:
            _fsync(paths[0])
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(_fsync, paths))

    def remember(self, recipe: str, keys: Mapping[str, str]) -> None:
        """Keep which key each step of a recipe was last built with, and which before that."""
        known = self.latest(recipe)
        fresh = [
            (recipe, s, k, known.get(s, (None,))[0])
            for s, k in keys.items()
            if known.get(s, (None,))[0] != k
        ]
        if fresh:
            with self._transaction():
                self._db.executemany("INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?)", fresh)

    def latest(self, recipe: str) -> dict[str, tuple[str, str | None]]:
        """Step → (the key it was last built with, the key before that)."""
        rows = self._db.execute("SELECT step, key, previous FROM latest WHERE recipe = ?", [recipe])
        return {step: (key, previous) for step, key, previous in rows}

    def steps_of_others(self, recipe: str) -> set[str]:
        """Steps that the project's other recipes, those that still exist, were built with."""
        found: dict[str, set[str]] = {}
        for other, step in self._db.execute("SELECT recipe, step FROM latest"):
            found.setdefault(other, set()).add(step)
        there = [s for r, s in found.items() if r != recipe and (self.root.parent / r).exists()]
        return set().union(*there)

    def parts_of(self, key: str) -> Parts | None:
        """The parts of a finished key."""
        row = self._db.execute("SELECT parts FROM results WHERE key = ?", [key]).fetchone()
        return [tuple(p) for p in msgspec.json.decode(row[0])] if row else None

    def seconds_of(self, key: str) -> float | None:
        """How long the step of a finished key took."""
        row = self._db.execute("SELECT seconds FROM results WHERE key = ?", [key]).fetchone()
        return row[0] if row else None

    # -- blobs -----------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path:
        """Where the blob of a digest lies."""
        return blob_path(self.objects, digest)

    def _whole(self, manifest: Manifest) -> bool:
        return (
            all(self._intact(digest, size) for digest, size in manifest.files.values())
            and all(_as_it_was(*file) for file in manifest.external.values())
            and all(self._whole(ref) for ref in manifest.refs.values())
        )

    def _intact(self, digest: str, size: int) -> bool:
        """Whether a blob holds what its name says. Its bytes are read only if its stat changed."""
        try:
            return self._holds(digest, size)
        except FileNotFoundError:
            return False

    def _holds(self, digest: str, size: int) -> bool:
        path = self.blob(digest)
        now = os.stat(path)
        row = self._db.execute(
            "SELECT size, mtime, ctime, inode FROM blobs WHERE digest = ?", [digest]
        ).fetchone()
        if row == (now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino):
            return True
        if now.st_size != size or hash_file(path) != digest:
            return False  # the step that is run again puts a good one in its place
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO blobs VALUES (?, ?, ?, ?, ?)", self._blob_row(digest)
            )
        return True

    def _blob_row(self, digest: str) -> list[Any]:
        now = os.stat(self.blob(digest))
        return [digest, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]

    def artifact(self, manifest: Manifest) -> Artifact:
        """The artifact, with its folder of links in place."""
        return open_artifact(self.root, manifest)

    # -- outside files ---------------------------------------------------------------------------

    def digest_files(
        self, found: Mapping[str, list[tuple[str, Path]]]
    ) -> dict[str, list[tuple[str, str]]]:
        """Setting → (name, digest) of each outside file; unchanged files aren't read again."""
        return {
            field: [(name, self.digest_file(path)) for name, path in files]
            for field, files in found.items()
        }

    def digest_file(self, path: Path) -> str:
        """The digest of an outside file, remembered by device, inode, size, mtime and ctime."""
        try:
            stat = _stat_key(path)
            row = self._db.execute(
                "SELECT stat, digest FROM files WHERE path = ?", [str(path)]
            ).fetchone()
            if row and row[0] == stat:
                return str(row[1])
            digest, settled = hash_file(path), _settled(path)
        except OSError as error:
            raise DataError(f"can't read {path}: {error.strerror}") from error
        if settled:
            with self._transaction():
                self._db.execute(
                    "INSERT OR REPLACE INTO files VALUES (?, ?, ?)", [str(path), stat, digest]
                )
        return digest

    def parsed(self, path: Path, module: str) -> Parsed:
        """`parse.parse_file`, remembered."""
        stat = _stat_key(path)
        row = self._db.execute(
            "SELECT stat, parsed FROM code WHERE path = ?", [str(path)]
        ).fetchone()
        if row and row[0] == stat:
            known: Parsed = msgspec.json.decode(row[1], type=Parsed)
            return known
        from finery.parse import parse_file  # needs `ast`: only for files that changed

        parsed = parse_file(path, module)
        if _settled(path):
            with self._transaction():
                self._db.execute(
                    "INSERT OR REPLACE INTO code VALUES (?, ?, ?)",
                    [str(path), stat, msgspec.json.encode(parsed)],
                )
        return parsed

    def was_checked(self, digest: str) -> bool:
        """Whether a recipe (with the code of its step types) passed its check before."""
        return (
            self._db.execute("SELECT 1 FROM checked WHERE digest = ?", [digest]).fetchone()
            is not None
        )

    def mark_checked(self, digest: str) -> None:
        """Remember that a recipe passed its check."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO checked VALUES (?)", [digest])

    def keep_stamp(self, name: str, content: str) -> None:
        """Keep a stamp, see `finery.stamp`."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO stamps VALUES (?, ?)", [name, content])

    # -- work folders and locks ------------------------------------------------------------------

    def work(self, key: str) -> tuple[Path, Path]:
        """(out, scratch) of a key that is being built: `out` empty, `scratch` as it was left."""
        out, scratch = self.root / "work" / key, self.root / "work" / f"{key}.scratch"
        try:
            out.mkdir()
        except FileExistsError:  # an earlier attempt died
            shutil.rmtree(out)
            out.mkdir()
        return out, scratch

    def clear_work(self, key: str) -> None:
        """Remove a finished key's folders."""
        self.clear_output(key)
        scratch = self.root / "work" / f"{key}.scratch"
        if scratch.exists():
            shutil.rmtree(scratch, ignore_errors=True)

    def clear_output(self, key: str) -> None:
        """Remove what is left of a key's output; its scratch folder is for the next attempt."""
        out = self.root / "work" / key
        try:
            out.rmdir()  # most steps leave it empty, their files having moved
        except OSError:
            shutil.rmtree(out, ignore_errors=True)

    def sweep(self) -> None:
        """Remove outputs that builds which died left half done: they may fill the disk."""
        for key in os.listdir(self.root / "work"):
            if len(key) == KEY_DIGITS and self.try_lock(key):
                self.clear_output(key)
                self.unlock(key)

    def try_lock(self, key: str) -> bool:
        """Take the lock of a key; False while another process has it. It dies with this process."""
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _lock_offset(key))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def unlock(self, key: str) -> None:
        """Give up the lock of a key."""
        fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _lock_offset(key))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. `StepError` when the database can't be written, e.g. on a full disk."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StepError(
                f"can't write to {self.database}: {error}",
                fix="free some space, or check its permissions, and build again: nothing is lost",
            ) from error
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=60, isolation_level=None)
    db.execute("PRAGMA synchronous=NORMAL")
    if db.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        db.execute("PRAGMA journal_mode=WAL")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        # What another version of finery kept is rebuilt; paid-for records outlive it.
        drop = "".join(f"DROP TABLE IF EXISTS {t};" for t in _REBUILT) if version else ""
        db.executescript(
            f"BEGIN IMMEDIATE; {drop} {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;"
        )
    return db


def open_artifact(root: Path, manifest: Manifest) -> Artifact:
    """The artifact of a manifest, as a folder of links into the store at `root`."""
    made = KINDS[manifest.kind](
        view(root, manifest),
        meta=manifest.meta,
        refs={role: open_artifact(root, ref) for role, ref in manifest.refs.items()},
        external={name: Path(path) for name, (path, *_) in manifest.external.items()},
    )
    made.digest = manifest.digest
    return made


def view_path(root: Path, manifest: Manifest) -> Path:
    """Where an artifact's folder of links lies."""
    return root / "views" / manifest.view


def view(root: Path, manifest: Manifest) -> Path:
    """A folder with the artifact's files under their names, as links; made or mended here."""
    folder, links = view_path(root, manifest), _links(manifest)
    if not _is_view(folder, links):
        staged = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        for file, text in links.items():
            _link(text, staged / file)
        (staged / MANIFEST).write_bytes(_described(manifest))
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
        try:
            staged.rename(folder)
        except OSError:  # another process made it in the meantime
            shutil.rmtree(staged)
    return folder


def _links(manifest: Manifest) -> dict[str, str]:
    """Name → what the link of that name says, relative for files of the store."""
    links = {
        name: f"{'../' * (2 + name.count('/'))}objects/{digest[:2]}/{digest[2:]}"
        for name, (digest, _) in manifest.files.items()
    }
    return links | {name: path for name, (path, *_) in manifest.external.items()}


def _is_view(folder: Path, links: Mapping[str, str]) -> bool:
    """Whether a folder of links is as it was made.

    It isn't where an editor or a step put a file of its own in the place of a link, or beside
    the links: steps that take the artifact must not see that.
    """
    try:
        if any(os.readlink(f"{folder}/{name}") != text for name, text in links.items()):
            return False
    except OSError:
        return False
    count = 0
    for top, folders, files in os.walk(folder):
        count += len(files) + sum(os.path.islink(f"{top}/{name}") for name in folders)
    return count == len(links) + 1


def ingest(artifact: Artifact, out: Path, objects: Path) -> Manifest:
    """Move what a step left into `objects/` and describe it. Runs in the worker.

    Large files are fsynced here, in the worker; small ones in groups, by `Store.commit`. Empty
    folders aren't kept. Raises `StepError` where the step left something that can't be.
    """
    if artifact.digest:  # an input, handed on as it is
        return _manifest_of(artifact)
    if not artifact.path.is_relative_to(out):
        raise StepError(
            f"the step's output lies in {artifact.path}, not in job.out",
            fix="write it into job.out, or return an input as it is",
        )
    names = [(path.relative_to(artifact.path).as_posix(), path) for path in _left(artifact.path)]
    if any(name == MANIFEST for name, _ in names):
        raise StepError(
            f"the step left a file named {MANIFEST}, as finery's own is named",
            fix="name it otherwise, or put it into a subfolder",
        )
    files = {name: _keep(path, objects) for name, path in names}
    refs = {role: _manifest_of(ref) for role, ref in artifact.refs.items()}
    external = {name: _outside(path.absolute()) for name, path in artifact.external.items()}
    return manifest(artifact.kind, artifact.meta, files, refs, external)


def _manifest_of(ref: Artifact) -> Manifest:
    """The manifest that an input artifact came with."""
    try:
        return msgspec.json.decode((ref.path / MANIFEST).read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise StepError("a step may only refer to artifacts that it was given as inputs") from None


def _left(folder: Path) -> list[Path]:
    """The files of a step's output, sorted, with links replaced by what they point to."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            _materialise(path)
        elif path.is_dir():
            continue
        elif not path.is_file():
            raise StepError(f"the step left what is neither a file nor a folder: {path.name}")
        found.append(path)
    return found


def _keep(path: Path, objects: Path) -> tuple[str, int]:
    digest, size = hash_file(path), path.stat().st_size
    if size >= FLUSHED_BYTES:
        _fsync(path)
    path.chmod(0o444)
    target = blob_path(objects, digest)
    try:
        path.rename(target)
    except FileNotFoundError:
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    return digest, size


def _outside(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path), stat.st_size, stat.st_mtime_ns


def _as_it_was(path: str, size: int, mtime: int) -> bool:
    """Whether a file outside the store is still the one that a step saw."""
    try:
        now = os.stat(path)
    except OSError:
        return False
    return (now.st_size, now.st_mtime_ns) == (size, mtime)


def _fsync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _materialise(link: Path) -> None:
    """Make a link in a step's output a file of its own: the store owns every byte it keeps."""
    target = link.resolve()
    if target.is_dir():
        raise StepError(f"the step left a link to a folder: {link.name}", fix="copy the folder")
    if not target.is_file():
        raise StepError(f"the step left a broken link: {link.name}")
    link.unlink()
    shutil.copyfile(target, link)


def blob_path(objects: Path, digest: str) -> Path:
    """Where the blob of a digest lies."""
    return objects / digest[:2] / digest[2:]


def hash_file(path: Path) -> str:
    """BLAKE3 of a file's bytes, in hex; large files are mapped and hashed on all cores."""
    if os.stat(path).st_size < 1 << 20:
        return blake3(path.read_bytes()).hexdigest()
    hasher = blake3(max_threads=blake3.AUTO)
    hasher.update_mmap(path)
    return hasher.hexdigest()


def find_files(files: Files, folder: Path) -> list[tuple[str, Path]]:
    """(name, path) of each file that a `Files` setting names; `DataError` when there is none."""
    found: dict[str, Path] = {}
    for pattern in files.patterns:
        for path in _matches(pattern, folder):
            found.setdefault(_relative(path, folder), path)
    return list(found.items())


def _matches(pattern: str, folder: Path) -> list[Path]:
    path = folder / Path(pattern).expanduser()
    if path.is_dir():
        matches = sorted(p for p in path.rglob("*") if p.is_file())
        if not matches:
            raise DataError(f"folder {pattern} holds no files", fix="check the path")
        return matches
    if path.exists():
        return [path]
    if any(c in pattern for c in "*?["):
        import glob

        matches = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if matches:
            return matches
        raise DataError(
            f"no file matches {pattern}", fix=f"paths are relative to the recipe's folder, {folder}"
        )
    raise DataError(f"there is no file {pattern}", fix=_near(path, folder))


def _near(path: Path, folder: Path) -> str:
    from finery.errors import did_you_mean

    if path.parent.is_dir():
        guess = did_you_mean(path.name, [p.name for p in path.parent.iterdir()])
        if guess and guess.startswith("did"):
            return guess
    return f"paths are relative to the recipe's folder, {folder}"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _digests(manifest: Manifest) -> Iterator[str]:
    for digest, _ in manifest.files.values():
        yield digest


def _stat_key(path: Path) -> bytes:
    s = os.stat(path)
    return msgspec.msgpack.encode([s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns])


def _settled(path: Path) -> bool:
    s = os.stat(path)
    return time.time_ns() - max(s.st_mtime_ns, s.st_ctime_ns) > _SETTLED_NS


def _link(target: str, link: Path) -> None:
    try:
        os.symlink(target, link)
    except FileNotFoundError:  # the name has folders in it
        link.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, link)


def _described(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def _lock_offset(key: str) -> int:
    return int(key[:15], 16)


def link_outputs(store: Store, folder: Path, outputs: Mapping[str, Manifest]) -> None:
    """Point `build/<recipe>/<step>` at a step's outputs; several outputs each get a folder."""
    if outputs.keys() == {""}:
        _point(store.root, folder, outputs[""])
        return
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        if stale.name not in outputs and stale.is_symlink():
            stale.unlink()
    for name, made in outputs.items():
        if name:
            _point(store.root, folder / name, made)


def _point(root: Path, link: Path, manifest: Manifest) -> None:
    """Make `link` a link to an artifact's folder, replacing what finery put there before."""
    text = os.path.relpath(root, link.parent) + f"/views/{manifest.view}"
    view(root, manifest)
    try:
        if os.readlink(link) == text:
            return
    except FileNotFoundError:
        link.parent.mkdir(parents=True, exist_ok=True)
    except OSError:  # a folder: the step had several outputs before
        _remove_links(link)
    try:
        link.symlink_to(text)
    except FileExistsError:
        staged = link.with_name(f".{link.name}.{os.getpid()}")
        staged.unlink(missing_ok=True)
        staged.symlink_to(text)
        staged.replace(link)


def _remove_links(folder: Path) -> None:
    """Remove a folder of links; anything else in it isn't finery's and stays, with an error."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file that finery didn't put there", fix="move it away")
    others = [p.name for p in folder.iterdir() if not p.is_symlink()]
    if others:
        raise UsageError(
            f"{folder} holds files that finery didn't put there: {', '.join(others)}",
            fix="move them away",
        )
    for link in folder.iterdir():
        link.unlink()
    folder.rmdir()


def prune_links(folder: Path, keep: Collection[str]) -> None:
    """Remove links to outputs of steps that are gone. What finery didn't make stays."""
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.name in keep:
            continue
        if _is_output(entry):
            entry.unlink(missing_ok=True)
        elif entry.is_dir() and not entry.is_symlink() and _holds_outputs(entry):
            _remove_links(entry)


def _is_output(path: Path) -> bool:
    """Whether a path is a link that `link_outputs` made."""
    return path.is_symlink() and _OUTPUT.search(os.readlink(path)) is not None


def _holds_outputs(folder: Path) -> bool:
    entries = list(folder.iterdir())
    return bool(entries) and all(map(_is_output, entries))
