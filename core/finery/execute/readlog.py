"""The entries of a process: what it has read, and what the step makes of that when it ends.

An entry is the value of something from before the step changed it. Of a file or folder that wasn't
there before the step made it, that is the value that the step leaves, since the step may have
asked whether it exists: a removed one doesn't count. What the step emptied before it read it is its
own and doesn't count either. What a child's command names and isn't there, the child may read or
make: the value is the last one, too.

A process keeps its entries, since what one step read may be in a cache of a module. Entries also go
to a file beside the scratch folder: processes that the step forked write there, too, and the next
attempt at the step compares them, since it continues what was made from them.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from finery.execute.entries import ABSENT, IMPORT, LAYOUT, MOST, Places
from finery.util.files import ABSENT as MISSING
from finery.util.files import FileState, file_state, settled
from finery.util.leftovers import reads_path

LEFT = "left"
"""The value, until the step ends, of what the step made itself."""
NAMED = "named"
"""The value, until the step ends, of a missing file that the command of a child names."""
EMPTIED = "emptied"
"""The value of a file before it was truncated, since nobody reads that."""


class Seen(NamedTuple):
    """A value, with the state of its file then.

    The ctime is 0 if another change so soon might not show in the state.
    """

    value: str
    state: FileState = MISSING


class ReadLog:
    """The entries of this process.

    seen: them by name. written: path → what was there before the step wrote to it. reason: why what
    the process makes can't be reused; empty if it can.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.seen: dict[str, Seen] = {}
        self.written: dict[str, Seen] = {}
        self.reason = ""
        self.busy: set[int] = set()  # threads that compute a value
        self._file = ""

    def read(self, path: str) -> None:
        """A file or folder is about to be read."""
        name = self.places.name(path)
        if self._has(name):
            return
        before = self.before(path)
        if before is None or (before.value == ABSENT and file_state(path) == MISSING):
            self.see(name)
        elif before.value != EMPTIED:
            self.see(name, Seen(LEFT) if before.value == ABSENT else before)
        if self.places.path(name) != path:
            self.give_up(f"reads {name}, whose name isn't UTF-8")

    def write(self, path: str, *, is_emptied: bool = False) -> None:
        """A file or folder is about to be made, emptied, replaced or changed."""
        if path in self.written:
            return
        state, name = file_state(path), self.places.name(path)
        if state == MISSING:
            self.written[path] = Seen(ABSENT)
        elif is_emptied:
            self.written[path] = Seen(EMPTIED, state)
        else:
            self.written[path] = self.seen[name] if self._has(name) else self._examine(name)

    def before(self, path: str) -> Seen | None:
        """What was there before the step wrote to a path, or made a folder that it is in.

        None if it hasn't: opening a file to write it may have failed.
        """
        while self.written and path != "/":
            before = self.written.get(path)
            if before and file_state(path) != before.state:
                return before
            path = os.path.dirname(path)
        return None

    def _has(self, name: str) -> bool:
        return name in self.seen and self.seen[name].value != NAMED

    def see(self, name: str, seen: Seen | None = None) -> None:
        """Keep the entry for something that is about to be read."""
        if self._has(name) or self.seen.get(name, ()) == seen:
            return
        if len(self.seen) >= MOST:
            self.give_up(f"reads more than {MOST:,} files and folders of the project")
            return
        seen = seen or self._examine(name)
        if seen.value == "not a file":
            self.give_up(f"reads {name}, which is neither a file nor a folder")
        self.seen[name] = seen
        if self._file:
            self._append({name: seen})

    def _examine(self, name: str) -> Seen:
        self.busy.add(threading.get_ident())
        try:
            state, now = file_state(self.places.path(name)), time.time_ns()
            value = self.places.value(name)
        finally:
            self.busy.discard(threading.get_ident())
        if value == ABSENT or value.startswith("folder "):  # compared by value only
            return Seen(value)
        return Seen(value, state if settled(*state[3:], now) else (*state[:4], 0))

    def give_up(self, reason: str) -> None:
        """What this process makes can't be reused. The first reason is kept."""
        self.reason = self.reason or reason

    # -- the run of a step -----------------------------------------------------------------------

    def begin(self, scratch: Path) -> None:
        """Begin to log for a step. Removes its scratch folder if it was made from other files."""
        file = reads_path(scratch)
        earlier = dict(_entries(str(file)))
        is_changed = any(
            self.places.value(name) != (ABSENT if seen.value == NAMED else seen.value)
            for name, seen in earlier.items()
            if seen.value != LEFT
        )
        if not scratch.is_dir():
            file.unlink(missing_ok=True)
        elif is_changed:
            print("what an earlier attempt read has changed: this one starts anew", flush=True)
            shutil.rmtree(scratch)
            file.unlink()
        else:
            for name, seen in earlier.items():
                self.see(name, seen if seen.value == NAMED else None)
        self._file = str(file)
        if self.seen:
            self._append(self.seen)

    def end(self, is_in_key: Callable[[str, str], bool]) -> tuple[dict[str, str], list[str]]:
        """The entries of a step that succeeded, and names of those that it changed afterwards.

        Gives up if one changed in another way. is_in_key: whether one counts anyway.
        """
        file, self._file = self._file, ""
        for name, seen in _entries(file):  # of processes that the step forked, too
            if not self._has(name):
                self.seen[name] = seen
            if len({self.seen[name].value, seen.value} - {LEFT, NAMED}) > 1:
                self.give_up(f"reads {name}, which changes meanwhile")
        entries, rewritten = dict[str, str](), list[str]()
        for name, seen in dict(self.seen).items():
            is_last = seen.value in (LEFT, NAMED)
            value = self.places.value(name) if is_last else seen.value
            if (seen.value == LEFT and value == ABSENT) or is_in_key(name, value):
                continue
            entries[name] = value
            if not self.places.is_checked(name):
                self.give_up(f"reads {name}, which is outside the project")
            elif not is_last and not self._is_same(name, seen):
                rewritten.append(name)
                path = self.places.path(name)
                if not any(path in (each, os.path.dirname(each)) for each in self.written):
                    self.give_up(f"reads {name}, which changes before the step ends")
        if not all(name.startswith(IMPORT) for name in entries):
            entries[LAYOUT] = self.places.layout
        return entries, rewritten

    def _is_same(self, name: str, seen: Seen) -> bool:
        if seen.state != MISSING:
            state = file_state(self.places.path(name))
            if state[:4] != seen.state[:4]:
                return False
            if state == seen.state:  # another name changes the ctime
                return True
        return self.places.value(name) == seen.value

    def _append(self, entries: Mapping[str, Seen]) -> None:
        """Add entries to the file, each in one write: other processes do the same."""
        file = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            for name, seen in entries.items():
                os.write(file, f"{json.dumps([name, *seen])}\n".encode())
        finally:
            os.close(file)


def _entries(file: str) -> Iterator[tuple[str, Seen]]:
    try:
        with open(file, "rb") as lines:
            for line in lines:
                name, value, state = json.loads(line)
                yield name, Seen(value, tuple(state))
    except FileNotFoundError:
        return
    except ValueError:  # a process was killed while it wrote a line
        yield "", Seen("damaged")
