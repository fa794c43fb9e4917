"""Clones of a project for `test_store_machine`: their recipe, what it must make, and commands.

Each command runs in a process of its own, which may be killed or find a full disk at any change of
the disk. The shared store is a real one, with faults on the way to it.
"""

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from blake3 import blake3
from in_process import InProcess

from finery import FineryError
from finery.artifact.manifest import Manifest, Parts, is_sound, with_references
from finery.builder import uptodate as stamp
from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.cli import main
from finery.config import Config
from finery.errors import DISK_FULL, RemoteError
from finery.store import layout, objects, remote
from finery.store.blobs import blob_path
from finery.store.connection import Database
from finery.util import files as clock

STEPS = """
import hashlib
from finery import Bundle, Files, Job, Model, Step, hookimpl, setting, takes

def fill(folder, seed, sizes):
    folder.mkdir(exist_ok=True)
    (folder / "seed").write_text(seed)
    for number, size in enumerate(sizes):
        path = folder / ("sub" if number % 2 else "") / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((seed * (size // 64 + 1))[:size].encode())

class Make(Step, seeded=False):
    "Files that follow from the inputs and the tag."
    inputs: list[Bundle] = takes([], help="What comes before.")
    path: Files = setting([], help="A text.")
    tag: int = setting(0, help="Changes the output.")
    sizes: list[int] = setting([], help="Bytes of each file.")
    def seed(self, *more):
        texts = [p.read_text() for p in self.path.paths] if self.path else []
        seeds = [(i.path / "seed").read_text() for i in [*more, *self.inputs]]
        return hashlib.sha256(" ".join([*texts, *seeds, str(self.tag)]).encode()).hexdigest()
    def run(self, job: Job) -> Bundle:
        fill(job.out, self.seed(), self.sizes)
        return Bundle(job.out)

class Halves:
    "Two outputs."
    first: Bundle
    second: Bundle

class Halve(Make, seeded=False):
    "Two outputs."
    def run(self, job: Job) -> Halves:
        made = Halves()
        for name in ("first", "second"):
            fill(job.out / name, self.seed() if name == "first" else "2", self.sizes)
            setattr(made, name, Bundle(job.out / name))
        return made

class Base(Make, seeded=False):
    "A model."
    def run(self, job: Job) -> Model:
        fill(job.out, self.seed(), self.sizes)
        return Model(job.out, meta={"format": "light"})

class Tuned(Make, seeded=False):
    "A model that refers to its input."
    model: Model = takes(help="The base.")
    def run(self, job: Job) -> Model:
        fill(job.out, self.seed(self.model), self.sizes)
        return Model(job.out, meta={"format": "light"}, refs={"base": self.model})

@hookimpl
def finery_steps(): return {"t.make": Make, "t.halve": Halve, "t.base": Base, "t.tuned": Tuned}
"""
PLAN: dict[str, dict[str, Any]] = {
    "words": {"use": "t.make", "path": "words.txt", "sizes": [0, 100]},
    "small": {"use": "t.make", "inputs": ["words"], "sizes": [300, 50, 200]},
    "halves": {"use": "t.halve", "inputs": ["small"], "sizes": [20]},
    "large": {"use": "t.make", "inputs": ["halves.first"], "sizes": [7000, 10]},
    "base": {"use": "t.base", "inputs": ["words"], "sizes": [2500]},
    "tuned": {"use": "t.tuned", "model": "base", "inputs": ["small"], "sizes": [700]},
    "final": {"use": "t.make", "inputs": ["large", "halves.second"], "sizes": [50]},
    "alone": {"use": "t.make", "sizes": [10]},
}
SMALL, PACK = 256, 2048
"""In place of 64 KiB and 8 MiB."""
State = tuple[int, int, int]
"""What is in `words.txt`, and the tags of `small` and `final`."""
Spec = dict[str, Any]
"""Of a build: state, faults, push, fetch, force, seed."""


def recipe_of(state: State) -> dict[str, Any]:
    tags = {"small": state[1], "final": state[2]}
    steps = {name: {**step, "tag": tags.get(name, 0)} for name, step in PLAN.items()}
    models = {name: steps.pop(name) for name in ("base", "tuned")}
    return {"finery": 1, "name": "t", "plugins": ["./steps.py"], "export": steps, "models": models}


def expected(state: State) -> dict[str, dict[str, bytes]]:
    """Output → name of a file → its bytes."""
    seeds = dict[str, str]()
    for name, step in PLAN.items():
        given = [f"words {state[0]}"] if "path" in step else []
        sources = [*filter(None, [step.get("model")]), *step.get("inputs", [])]
        given += [seeds[source] for source in sources]
        given.append(str({"small": state[1], "final": state[2]}.get(name, 0)))
        seed = hashlib.sha256(" ".join(given).encode()).hexdigest()
        seeds |= {"halves.first": seed, "halves.second": "2"} if name == "halves" else {name: seed}
    return {
        output: {"seed": seed.encode()} | {
            f"{'sub/' if n % 2 else ''}{n}.bin": (seed * (size // 64 + 1))[:size].encode()
            for n, size in enumerate(PLAN[output.split(".")[0]]["sizes"])
        }
        for output, seed in seeds.items()
    }  # fmt: skip


# -- in a process of its own ----------------------------------------------------------------------


def start(action: Callable[[], Any]) -> tuple[int, int]:
    """Run an action in a process of its own: (its id, a file with the answer)."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    try:
        signal.alarm(300)
        answer = action()
    except FineryError as error:
        answer = {"error": error.what, "code": error.exit_code}
    except KeyboardInterrupt:
        answer = {"error": "interrupted"}
    except BaseException as error:
        is_full = isinstance(error, OSError) and error.errno in DISK_FULL
        answer = {"error": "full"} if is_full else {"crash": traceback.format_exc()}
    try:
        os.write(write, json.dumps(answer).encode())
    finally:
        os._exit(0)


def finish(started: tuple[int, int]) -> Any:
    """Its answer; None if it was killed."""
    with os.fdopen(started[1], "rb") as file:
        text = file.read()
    _, status = os.waitpid(started[0], 0)
    assert not os.WIFSIGNALED(status), f"ended by signal {os.WTERMSIG(status)}"
    answer = json.loads(text) if text else None
    assert answer is None or "crash" not in answer, answer["crash"]
    return answer


class Faulty:
    """Real objects in a folder, with faults on the way to them."""

    def __init__(self, url: str, fault: str, seed: int) -> None:
        self.real, self.fault, self.random = OPEN(url), fault, random.Random(seed)
        self.url, self.is_stopped = url, False

    def _is(self, *faults: str) -> bool:
        return self.fault in faults and (self.fault == "forbid" or self.random.random() < 0.25)

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes | None:
        if self._is("cut", "forbid"):
            raise RemoteError("cut")
        data = None if self._is("lose") else self.real.read(name, start, end)
        if data and self._is("corrupt"):
            place = self.random.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        return data

    def has(self, name: str) -> bool:
        if self._is("cut", "forbid"):
            raise RemoteError("cut")
        return self.real.has(name)

    def put(self, name: str, content: bytes | Path) -> None:
        if self._is("cut", "forbid"):
            raise RemoteError("cut")
        self.real.put(name, content)
        if self._is("late"):
            raise RemoteError("no answer")

    def list_objects(self, folder: str) -> Iterator[objects.StoredObject]:
        return self.real.list_objects(folder)

    def remove(self, names: Sequence[str]) -> None:
        self.real.remove(names)


OPEN = objects.open_objects


def ends(how: str, after: int) -> None:
    """Have this process end at a change of the disk, before it or after it."""
    count, lock, interrupted = itertools.count(), threading.Lock(), list[int]()
    number_of_end, is_late = divmod(after, 2)

    def before(action: Callable[..., Any]) -> Callable[..., Any]:
        def act(*args: Any, **options: Any) -> Any:
            with lock:
                number = next(count)
            is_main = threading.current_thread() is threading.main_thread()
            is_end = number == number_of_end
            if how == "kill" and is_end and not is_late:
                os._exit(9)
            if how == "full" and number >= number_of_end and action not in removing:
                raise OSError(errno.ENOSPC, "No space left on device", str(args[0]))
            if how == "interrupt" and is_main and number >= number_of_end and not interrupted:
                interrupted.append(number)
                raise KeyboardInterrupt
            made = action(*args, **options)
            if how == "kill" and is_end:
                os._exit(9)
            return made

        return act

    removing = os.unlink, os.rmdir
    for name in ("rename", "replace", "symlink", "unlink", "mkdir", "rmdir", "fsync", "chmod"):
        setattr(os, name, before(getattr(os, name)))
    if how != "full":  # SQLite has its own ways to notice that
        Database.write = before(Database.write)  # type: ignore[method-assign]


def settle(fault: str, seed: int, offset: float) -> None:
    """Set this process up: sizes, faults and the clock."""
    remote.PACKED_BELOW, remote.PACK_BYTES, clock.FINE_NS = SMALL, PACK, 20_000_000
    stamp._PATH = tuple(sys.path)
    remote.open_objects = lambda url: Faulty(url, fault, seed)  # type: ignore[attr-defined]
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + offset
    time.time_ns = lambda: now_ns() + int(offset * 1e9)


def build(folder: Path, shared: Path, spec: Spec) -> dict[str, Any]:
    recipe = folder / "recipe.yaml"
    store = open_store(recipe)
    url = None if spec["faults"] == "unused" else f"file://{shared}"
    config = Config(remote=url, push=spec["push"] and bool(url), fetch=spec["fetch"])
    force = [spec["force"]] if spec["force"] else []
    before = stamp.states_before(store, recipe, (), ())
    graph = open_graph(recipe, (), store)
    made = Build(graph, store, InProcess(), config=config, force=force, states=before)
    outcome = made.run()
    errors = {name: str(error) for name, error in outcome.errors.items()}
    if not errors and made.sharing.is_complete:
        stamp.write_stamp(made, (), ())
    keys = {name: result.key for name, result in outcome.results.items()}
    ran = [keys[name] for name in outcome.ran if name in keys]  # not if planning again failed
    return {"ran": ran, "keys": keys, "errors": errors}


def command(folder: Path, *args: str) -> dict[str, Any]:
    """Run another command of finery."""
    os.chdir(folder)
    os.environ["FINERY_REMOTE"] = f"file://{folder.parent / 'shared'}"
    sys.argv, out = ["finery", *args], io.BytesIO()
    text = io.TextIOWrapper(out, "utf-8", write_through=True)
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main()
        except SystemExit as ended:
            return {"code": int(ended.code or 0), "out": out.getvalue().decode()}
    raise AssertionError


# -- what is on the disk --------------------------------------------------------------------------


def _read(db: sqlite3.Connection, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
    """Rows, until one can't be read."""
    with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
        yield from db.execute(query, values)


def whole(root: Path) -> set[str]:
    """The keys whose results and files are in a store, and right.

    If a process was killed while it replaced a damaged database, they are in the new one.
    """
    rows = list[tuple[Any, ...]]()
    paths = root / "finery.db", root / "finery.db.new"
    if (path := next((path for path in paths if path.exists()), None)) is not None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.text_factory = partial(str, encoding="utf-8", errors="replace")
            for (key,) in [*_read(db, "SELECT key FROM results")]:
                # One by one, as finery does, and all columns, which may be on several pages.
                query = "SELECT * FROM results JOIN parts USING (key) WHERE results.key = ?"
                rows += _read(db, query, key)
    right: dict[str, bool] = {}

    def is_right(digest: str) -> bool:
        if digest not in right:
            path = blob_path(root / "objects", digest)
            right[digest] = path.is_file() and blake3(path.read_bytes()).hexdigest() == digest
        return right[digest]

    keys = set()
    for key, text, seconds, made, _, parts in rows:
        if not (isinstance(seconds, float) and isinstance(made, float)):
            continue
        try:
            outputs = msgspec.json.decode(text, type=dict[str, Manifest])
            msgspec.json.decode(parts, type=Parts)
        except (msgspec.DecodeError, UnicodeError, TypeError):  # SQLite may read NULL
            continue
        every = [each for m in outputs.values() for each in with_references(m)]
        if all(map(is_sound, every)) and all(
            is_right(d) for m in every for d, _ in m.files.values()
        ):
            keys.add(key)
    return keys


def shared_whole(folder: Path) -> set[str]:
    """The keys whose records and files are in the shared store, and right."""
    keys = set()
    for path in folder.glob("records/*/*"):
        record = layout.decode_record(path.name, path.read_bytes().partition(b"\n")[0])
        if record is None:
            continue
        places = layout.blob_places(record.outputs.values(), record.packed)
        parts = []
        for digest, size, pack, offset in places:
            file = folder / layout.object_name("blobs", pack)
            data = file.read_bytes()[offset : offset + size] if file.exists() else b"?"
            parts.append(blake3(data).hexdigest() == digest)
        if all(parts):
            keys.add(path.name)
    return keys


def files_in(folder: Path) -> dict[str, bytes]:
    """Name → bytes of the files of an output."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


class Clone:
    """A clone of the project. last: keys of its last build. is_damaged: since it was verified."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / ".finery"
        self.state: State = (0, 0, 0)
        self.last: set[str] = set()
        self.is_damaged = False
        (folder / ".git").mkdir(parents=True)
        (folder / "steps.py").write_text(STEPS)
        self.write(self.state)

    @classmethod
    def at(cls, folder: Path) -> "Clone":
        """A copy of another clone."""
        clone = cls.__new__(cls)
        clone.folder, clone.root = folder, folder / ".finery"
        return clone

    def checkpoint(self) -> None:
        """Move all rows from the database's log to the database."""
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(self.root / "finery.db")) as db,
        ):
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def write(self, state: State) -> None:
        """Change the settings."""
        self.state = state
        (self.folder / "words.txt").write_text(f"words {state[0]}")
        (self.folder / "recipe.yaml").write_text(json.dumps(recipe_of(state)))

    def check_outputs(self) -> None:
        """Whatever a link in `build/` leads to is right."""
        for output, files in expected(self.state).items():
            link = self.folder / "build/t" / output.replace(".", "/")
            is_away = link.with_name(f"{link.name}.remote.txt").exists()
            assert is_away != link.is_symlink(), output
            assert is_away or files_in(link) == files, output

    def has_sound_database(self) -> bool:
        """Whether SQLite finds all rows that it writes.

        It reads some damaged pages without an error, and may lose what it writes there.
        """
        if not (self.root / "finery.db").exists():
            return True
        with contextlib.closing(sqlite3.connect(self.root / "finery.db")) as db:
            try:
                return db.execute("PRAGMA integrity_check(1)").fetchall() == [("ok",)]
            except (sqlite3.Error, UnicodeDecodeError):
                return False

    def built(self) -> set[str]:
        """The keys that no build makes again, as long as SQLite finds all rows."""
        return whole(self.root) if self.has_sound_database() else set()

    def leads_nowhere(self) -> bool:
        """Whether `build/` has a link to an output that is gone, e.g. with the store."""
        return any(p.is_symlink() and not p.exists() for p in (self.folder / "build").rglob("*"))

    def pick(self, pattern: str, number: int) -> Path | None:
        """One of the files of the store with such a name."""
        paths = sorted(path for path in self.root.glob(pattern) if path.is_file())
        return paths[number % len(paths)] if paths else None


def spoil(path: Path, how: str, seed: int) -> None:
    """Damage a file, or only change when it was changed."""
    chance = random.Random(seed)
    data, place = bytearray(path.read_bytes()), chance.randrange(max(1, path.stat().st_size))
    if how == "gone":
        path.unlink()
        return
    if how == "touch":
        os.utime(path, (seed, seed))
        return
    path.chmod(0o644)
    if how == "cut":
        os.truncate(path, place)
        return
    if how == "flip" and data:
        data[place] ^= 1
    if how == "noise":
        data[place : place + 600] = chance.randbytes(min(600, len(data) - place))
    with path.open("r+b") as file:
        file.write(data)
