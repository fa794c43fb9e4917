"""Parsed files, kept for all projects of a user.

To parse the code of a recipe's plugins takes a second or more, and a new project has parsed
nothing. An entry is named by the content of its file, so it is never out of date. The folder is
`$XDG_CACHE_HOME/finery/code`, by default in `~/.cache`; it may be deleted at any time.
"""

import contextlib
import os
import sys
from functools import cache
from pathlib import Path

import msgspec
from blake3 import blake3

from finery.step.inspect import OUTSIDE_KEYS
from finery.util.paths import cache_folder

MOST = 20_000
"""Entries that are kept, of some 8 KB each. A folder with more is emptied."""
CODE = (
    "bindings.py", "counted.py", "effects.py", "names.py", "parse.py", "reach.py", "resolve.py",
    "units.py",
)  # fmt: skip
"""The files beside this one that decide what counts. After a change, nothing kept is used."""


def parsed(path: Path) -> bytes:
    """`parse_file(path)` as MessagePack, without parsing where the same content was parsed before.

    Raises the same errors. A cache that can't be used is done without.
    """
    if (known := kept(path)) is not None:
        return known
    from finery.builder.code.parse import parse_file  # needs `ast`

    entry = _entry(path)
    new = msgspec.msgpack.encode(parse_file(path))
    if entry is not None and entry == _entry(path):  # else it has changed in between
        _write(entry, new)
    return new


def kept(path: Path) -> bytes | None:
    """The cached facts about a file; None if there are none, or if they are damaged or not ours."""
    if (entry := _entry(path)) is None:
        return None
    try:
        with entry.open("rb") as file:
            if os.fstat(file.fileno()).st_uid != os.getuid():
                return None
            content = file.read()
    except OSError:
        return None
    checksum, body = content[:32], content[32:]
    return body if blake3(body).digest() == checksum else None


def _entry(path: Path) -> Path | None:
    """Named by the version, how a file like this is read, and its content. None without a home."""
    if (folder := cache_folder()) is None:
        return None
    content = f"{version()}\0{path.suffix}\0".encode() + path.read_bytes()
    return folder / "code" / blake3(content).hexdigest()


@cache
def version() -> str:
    """A digest of the code that decides what counts, and of the Python that it runs on."""
    code = [Path(__file__).with_name(name).read_bytes() for name in CODE]
    given = [",".join(sorted(OUTSIDE_KEYS)).encode(), sys.version.encode()]
    return blake3(b"\0".join([*code, *given])).hexdigest()


def _write(entry: Path, body: bytes) -> None:
    """Keep an entry; a full or read-only disk keeps none."""
    import tempfile

    with contextlib.suppress(OSError):
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(entry.parent)
        handle, name = tempfile.mkstemp(dir=entry.parent)
        try:
            with open(handle, "wb") as file:
                file.write(blake3(body).digest() + body)
            os.replace(name, entry)
        except OSError:
            os.unlink(name)
            raise


@cache
def _make_room(folder: Path) -> None:
    """Empty a full folder. Looked at once a process: it takes longer than an entry."""
    if len(names := os.listdir(folder)) <= MOST:
        return
    for name in names:
        with contextlib.suppress(OSError):
            os.unlink(folder / name)
