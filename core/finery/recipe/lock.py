"""`recipe.lock`: the pins of floating outside names, such as a hub branch. Meant for git."""

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from finery.errors import UsageError
from finery.util.files import read_plain
from finery.util.paths import shown

LARGEST = 16 << 20
"""Maximum size of a lock file, in bytes."""
_HEAD = """\
# Outside names and what finery resolved them to. Commit this file.
# To resolve them again: finery build --update-lock
"""


class Lock:
    """The lock file next to a recipe. It is read on first use, and again before each change.

    So builds that run at once don't undo each other's changes. Until it ends, a build sees the pins
    that it has read or set.
    """

    def __init__(self, recipe: Path) -> None:
        self.path = recipe.with_suffix(".lock")
        self._pins: dict[str, str] | None = None
        self._forgotten: set[str] | None = set()  # names to remove from the file; None: all

    def get(self, name: str) -> str | None:
        """The pin of a name; None if it has none."""
        return self._read().get(name)

    def pins(self) -> Mapping[str, str]:
        """All names with their pins."""
        return self._read()

    def set(self, name: str, pinned: str) -> None:
        """Pin a name; replaces the file atomically. Raises `UsageError` if it can't be written."""
        seen = {**self._read(), name: pinned}
        try:
            with _alone_in(self.path.parent):
                others = {} if self._forgotten is None else self._load()
                gone = self._forgotten or set()
                pins = {n: pin for n, pin in others.items() if n not in gone} | {name: pinned}
                self._write(pins)
        except OSError as error:
            raise UsageError(
                f"can't write {shown(self.path)}, which pins {name}: {error.strerror}",
                fix="make room for it, or allow writing to its folder",
            ) from error
        self._pins, self._forgotten = {**pins, **seen}, set()

    def _write(self, pins: dict[str, str]) -> None:
        written = yaml.dump(dict(sorted(pins.items())), Dumper=_Dumper, default_flow_style=False)
        text = _HEAD + written
        staged = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            staged.write_text(text, encoding="utf-8")
            staged.replace(self.path)
        finally:
            staged.unlink(missing_ok=True)

    def forget(self, names: Iterable[str] | None = None) -> None:
        """Forget the pins of these names, or of all; the next `set` rewrites the file."""
        if names is None:
            self._pins, self._forgotten = {}, None
            return
        gone = set(names)
        self._pins = {n: pin for n, pin in self._read().items() if n not in gone}
        if self._forgotten is not None:
            self._forgotten |= gone

    def _read(self) -> dict[str, str]:
        if self._pins is None:
            self._pins = self._load()
        return self._pins

    def _load(self) -> dict[str, str]:
        try:
            loaded = yaml.safe_load(read_plain(self.path, LARGEST).decode())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise UsageError(
                f"can't be read: {error.strerror}",
                where=str(self.path),
                fix="restore it from git, or move it away to pin all names anew",
            ) from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the lock file can't be read: {error}",
                where=str(self.path),
                fix="restore it from git",
            ) from None
        if loaded is None:
            return {}
        if not isinstance(loaded, dict) or not all(isinstance(v, str) for v in loaded.values()):
            raise UsageError(
                "the lock file must map names to text",
                where=str(self.path),
                fix="restore it from git",
            )
        return {str(k): v for k, v in loaded.items()}


class _Dumper(yaml.SafeDumper):
    """Writes a pin of several lines as lines."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process changes a lock file in a folder, and keep others waiting."""
    file = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems can't: two changes at once may be one
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
