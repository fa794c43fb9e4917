"""Facts about files of code, kept in the store until a file changes."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
from blake3 import blake3

from finery.builder.code.imports import Parsed
from finery.errors import PluginError
from finery.store.database import Store
from finery.util.files import FileState, file_state, hash_file, settled_state

FORMAT = f"code 12 {sys.version_info.major}.{sys.version_info.minor}"
"""Kind and version of the facts, which depend on the syntax of this Python."""
SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})
"""Folders that are no part of a package."""
T = TypeVar("T")


class Files:
    """Reads files, each once as long as it doesn't change.

    store: keeps the facts, if there is one. states: file or folder → its state before it was read;
    None if it might not show a change. digests: BLAKE3 of what was read of files.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._parsed: dict[tuple[str, ...], Parsed] = {}
        self.states: dict[str, FileState | None] = {}
        self.digests: dict[str, str] = {}

    def watch(self, path: str) -> None:
        """Record the state of a file or folder before it is read."""
        if path not in self.states:
            self.states[path] = settled_state(path)

    def is_same(self, path: str) -> bool:
        """Whether a file or folder is as it was when it was read."""
        if self.states[path] is not None or path not in self.digests:
            return self.states[path] == file_state(path)
        now = settled_state(path)  # before the content, so that it will show a later change
        is_same = file_digest(path) == self.digests[path]
        self.states[path] = now if is_same else None
        return is_same

    def parsed(self, path: str, left_out: Sequence[str] = ()) -> Parsed:
        """What a file holds. left_out: classes in it that don't count."""
        if (subject := (path, *left_out)) not in self._parsed:
            self.watch(path)
            file, kind = Path(path), " ".join([FORMAT, *left_out])
            parse = partial(self._parse, left_out)
            try:
                content = self._store.remembered(kind, file, parse) if self._store else parse(file)
                parsed = decode_stored(content, Parsed)
                self._parsed[subject] = parsed or msgspec.msgpack.decode(parse(file), type=Parsed)
            except OSError as error:
                raise PluginError(f"can't read {path}: {error.strerror}") from error
        return self._parsed[subject]

    def _parse(self, left_out: Sequence[str], path: Path) -> bytes:
        from finery.builder.code.parse import parse_file  # needs `ast`

        content = path.read_bytes()
        self._note_digest(str(path), blake3(content).hexdigest())
        return msgspec.msgpack.encode(parse_file(path, content, left_out))

    def digest(self, path: str) -> str:
        """BLAKE3 of a file's bytes."""
        self.watch(path)
        digest = self._store.digest_file(Path(path)) if self._store else file_digest(path)
        return self._note_digest(path, digest)

    def _note_digest(self, path: str, digest: str) -> str:
        """Note what was read of a file: nothing is the same as two different contents."""
        self.digests[path] = digest if self.digests.get(path, digest) == digest else ""
        return digest

    def fact(
        self, name: str, kind: type[T], paths: Mapping[str, str], compute: Callable[[], T]
    ) -> T:
        """`compute()`, kept until one of some files changes. paths: label → path of each."""
        for path in paths.values():
            self.watch(path)
        states = {label: self.states[path] for label, path in paths.items()}
        digest = blake3(msgspec.msgpack.encode([*states.items()])).hexdigest()
        name = f"{FORMAT} {name} {digest}"
        store = None if None in states.values() else self._store
        value = decode_stored(store.fact(name) if store is not None else None, kind)
        if value is None:
            value = compute()
            if store is not None:
                store.keep_facts({name: msgspec.msgpack.encode(value)})
        return value


def decode_stored(content: bytes | None, kind: type[T]) -> T | None:
    """A value that the store has; None if there is none, or the database is damaged."""
    try:
        return None if content is None else msgspec.msgpack.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeError):
        return None


def file_digest(path: str) -> str:
    """BLAKE3 of a file's bytes."""
    try:
        return hash_file(Path(path))
    except OSError as error:
        raise PluginError(f"can't read {path}: {error.strerror}") from error


def files_in(folder: str, label: str) -> Iterator[tuple[str, str]]:
    """(label, path) of all files below a folder, without hidden ones, caches and environments.

    Links are followed, but not into a folder that the link is in.
    """
    pending = [(folder, label, frozenset[str]())]
    while pending:
        folder, label, ancestors = pending.pop()
        if (real := os.path.realpath(folder)) in ancestors:
            continue
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda each: each.name, reverse=True):
                path, name = entry.path, f"{label}/{entry.name}"
                if entry.name.startswith(".") or entry.name in SKIPPED_FOLDERS:
                    continue
                if entry.is_file():
                    yield name, path
                elif entry.is_dir() and not os.path.exists(f"{path}/pyvenv.cfg"):
                    pending.append((path, name, ancestors | {real}))
