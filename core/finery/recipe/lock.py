"""`recipe.lock`, meant for git: the pins of floating outside names, such as a branch of a hub, and
the changes that are accepted.

Only what may change while a step means the same can be accepted: code, packages, the machine.
"""

import fcntl
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import yaml
from msgspec import UNSET

from finery.errors import UsageError
from finery.util.files import read_plain
from finery.util.paths import shown
from finery.util.text import visible

MAX_LOCK_BYTES = 16 << 20
"""Maximum size of a lock file, in bytes."""
_PINS_HEADER = """\
# Outside names and what finery resolved them to. Commit this file.
# To resolve them again: finery build --update-lock
"""
_ACCEPTED_HEADER = """\
# Changes after which results are still current. To withdraw them: finery accept STEP --undo
"""


ACCEPTED_KEY = "accepted"
"""The list's name in `recipe.lock`."""
ACCEPTABLE_PREFIXES = ("code ", "engine ", "machine ", "package ")
ACCEPTABLE_PARTS = ("class", "python", "wrappers")
"""Parts of keys that may be accepted, and the beginnings of others."""


class Accepted(
    msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True
):
    """A change that doesn't matter to the steps of a type (`use`): a part of their keys.

    old and new: its values; UNSET if the part is new, or is gone.
    group: a text that changes have in common which were accepted together; empty for a single one.
    """

    part: str
    old: Any = UNSET
    new: Any = UNSET
    use: str = msgspec.field(name="for")
    group: str = msgspec.field(name="with", default="")

    @property
    def name(self) -> str:
        """The same for all changes of its group."""
        return self.group or self.line()

    def line(self) -> str:
        """Its line in `recipe.lock`, whatever is in its texts."""
        written: str = yaml.dump(
            msgspec.to_builtins(self), Dumper=_LineDumper, default_flow_style=True,
            sort_keys=False, width=float("inf"), allow_unicode=True,
        )  # fmt: skip
        return f"- {written}"


def is_acceptable(part: str) -> bool:
    """Whether a change of this part of a key may be accepted."""
    return part in ACCEPTABLE_PARTS or part.startswith(ACCEPTABLE_PREFIXES)


def read_accepted(entry: Any) -> Accepted:
    """An entry of a lock file. Raises `ValueError` if it isn't one."""
    read = msgspec.convert(entry, Accepted)
    if not is_acceptable(read.part):
        raise ValueError(f"a change of '{visible(read.part)}' can't be accepted")
    if read.old is UNSET and read.new is UNSET:
        raise ValueError("an accepted change needs `old` or `new`")
    return read


class _LineDumper(yaml.SafeDumper):
    """Writes each text in one line."""


_LineDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"'
    ),
)


class _Content(NamedTuple):
    """What a lock file has."""

    pins: dict[str, str]
    accepted: list[Accepted]


class Lock:
    """The lock file next to a recipe. It is read on first use, and again before each change.

    So builds that run at once don't undo each other's changes. Until it ends, a build sees the pins
    that it has read or set.
    """

    def __init__(self, recipe: Path) -> None:
        self.path = recipe.with_suffix(".lock")
        self._pins: dict[str, str] | None = None
        self._accepted: list[Accepted] = []
        self._forgotten: set[str] | None = set()  # names to remove from the file; None: all

    def get(self, name: str) -> str | None:
        """The pin of a name; None if it has none."""
        return self._read().get(name)

    def pins(self) -> Mapping[str, str]:
        """All names with their pins."""
        return self._read()

    def accepted(self) -> list[Accepted]:
        """The changes that are accepted."""
        self._read()
        return self._accepted

    def set(self, name: str, pinned: str) -> None:
        """Pin a name; replaces the file atomically. Raises `UsageError` if it can't be written."""
        pins_before = {**self._read(), name: pinned}

        def pin(content: _Content) -> _Content:
            other_pins = {} if self._forgotten is None else content.pins
            forgotten = self._forgotten or set()
            pins = {n: pin for n, pin in other_pins.items() if n not in forgotten} | {name: pinned}
            return content._replace(pins=pins)

        self._pins = {**self._change(pin, f"pins {name}").pins, **pins_before}
        self._forgotten = set()

    def accept(self, additions: Collection[Accepted], withdrawn: Collection[Accepted] = ()) -> None:
        """Add accepted changes, and remove the groups of others, and of those that the new ones
        reverse. Raises `UsageError` as `set`."""
        if not (additions or withdrawn):
            return
        reverse = [(c.use, c.part, c.new, c.old) for c in additions]

        def change(content: _Content) -> _Content:
            accepted = content.accepted
            removed = {c.name for c in accepted if (c.use, c.part, c.old, c.new) in reverse}
            removed |= {c.name for c in withdrawn}
            lines = {c.line(): c for c in (*accepted, *additions) if c.name not in removed}
            return content._replace(accepted=[*lines.values()])

        self._accepted = self._change(change, "has the accepted changes").accepted

    def _change(self, change: Callable[[_Content], _Content], purpose: str) -> _Content:
        """Change the file as it is now; what is in it then. purpose: of the file, for errors."""
        with changing(self.path, purpose):
            content = change(self._load())
            self._write(content)
        return content

    def _write(self, content: _Content) -> None:
        if not any(content):
            self.path.unlink(missing_ok=True)
            return
        pins = dict(sorted(content.pins.items()))
        text = (
            _PINS_HEADER + yaml.dump(pins, Dumper=_Dumper, default_flow_style=False) if pins else ""
        )
        if content.accepted:
            lines = sorted(change.line() for change in content.accepted)
            text += f"{_ACCEPTED_HEADER}{ACCEPTED_KEY}:\n{''.join(lines)}"
        replace_text(self.path, text)

    def forget(self, names: Iterable[str] | None = None) -> None:
        """Forget the pins of these names, or of all; the next `set` rewrites the file."""
        pins = self._read()
        if names is None:
            self._pins, self._forgotten = {}, None
            return
        gone = set(names)
        self._pins = {n: pin for n, pin in pins.items() if n not in gone}
        if self._forgotten is not None:
            self._forgotten |= gone

    def _read(self) -> dict[str, str]:
        if self._pins is None:
            self._pins, self._accepted = self._load()
        return self._pins

    def _load(self) -> _Content:
        try:
            loader = yaml.SafeLoader(read_plain(self.path, MAX_LOCK_BYTES).decode())
            node = loader.get_single_node()
            loaded = {} if node is None else loader.construct_document(node)
        except FileNotFoundError:
            return _Content({}, [])
        except OSError as error:
            fix = "restore it from git, or move it away to pin all names anew"
            raise self._error(f"can't be read: {error.strerror}", fix=fix) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise self._error(f"the lock file can't be read: {error}") from None
        if isinstance(loaded, dict) and isinstance(node, yaml.MappingNode):
            lists = [value for key, value in node.value if key.value == ACCEPTED_KEY]
            if len(lists) > 1:  # YAML would take the last one
                line = lists[1].start_mark.line
                raise self._error(f"there are two lists of '{ACCEPTED_KEY}'", line, "join them")
            if lists and isinstance(lists[0], yaml.SequenceNode):
                entries = zip(lists[0].value, loaded.pop(ACCEPTED_KEY), strict=True)
                accepted = [self._parse_accepted(e, n.start_mark.line + 1) for n, e in entries]
                return _Content(self._parse_pins(loaded), accepted)
        return _Content(self._parse_pins(loaded), [])

    def _parse_accepted(self, entry: Any, line: int) -> Accepted:
        try:
            return read_accepted(entry)
        except ValueError as error:
            fix = "restore the line from git, or remove it and use `finery accept`"
            raise self._error(str(error), line, fix) from None

    def _parse_pins(self, loaded: Any) -> dict[str, str]:
        if not isinstance(loaded, dict) or not all(isinstance(v, str) for v in loaded.values()):
            raise self._error("the lock file must map names to text")
        return {str(k): v for k, v in loaded.items()}

    def _error(self, problem: str, line: int = 0, fix: str = "restore it from git") -> UsageError:
        where = f"{shown(self.path)}:{line}" if line else str(self.path)
        return UsageError(problem, where=where, fix=fix)


class UnwrittenLock(Lock):
    """Pins for this process only, for commands that don't write `recipe.lock`."""

    def set(self, name: str, pinned: str) -> None:
        """Pin a name until the process ends."""
        self._pins = {**self._read(), name: pinned}


class _Dumper(yaml.SafeDumper):
    """Writes a pin of several lines as lines."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


@contextmanager
def changing(path: Path, purpose: str) -> Iterator[None]:
    """Keep other processes from changing the files for git in a folder, and wait until none does.

    purpose: of the file, for the `UsageError` if it can't be written.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems can't: two changes may be one
                fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError(
            f"can't write {shown(path)}, which {purpose}: {error.strerror}",
            fix="make room for it, or allow writing to its folder",
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Write a file atomically."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
