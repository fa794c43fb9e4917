"""The entries of a process: what it has read, and what the step makes of that when it ends.

An entry is the value of something from before the step changed it. Of a file or folder that wasn't
there before the step made it, that is the value that the step leaves, since the step may have
asked whether it exists: a removed one doesn't count. What the step emptied before it read it is its
own and doesn't count either.

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
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from finery.execute.entries import ABSENT, IMPORT_PREFIX, LAYOUT_ENTRY, MAX_ENTRIES, Places
from finery.util.files import ABSENT as MISSING
from finery.util.files import FileState, file_state, is_settled
from finery.util.leftovers import reads_path

LEFT_BY_STEP = "left"
"""The value, until the step ends, of what the step made itself."""
EMPTIED_BY_STEP = "emptied"
"""The value of a file before it was truncated, since nobody reads that."""


class ReadEntry(NamedTuple):
    """A value, with the state of its file then.

    The ctime is 0 if another change so soon might not show in the state.
    """

    value: str
    state: FileState = MISSING


class ReadLog:
    """The entries of this process.

    entries: by name. written: path → what was there before the step wrote to it. reason: why what
    the process makes can't be reused; empty if it can.
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self.entries: dict[str, ReadEntry] = {}
        self.written: dict[str, ReadEntry] = {}
        self.reason = ""
        self.busy: set[int] = set()  # threads whose reads are finery's
        self._file = ""

    def read(self, path: str) -> None:
        """A file or folder is about to be read."""
        name, original = self.places.name(path), self.original_of(path)
        if original is None or (original.value == ABSENT and file_state(path) == MISSING):
            self.record(name)
        elif original.value != EMPTIED_BY_STEP:
            self.record(name, ReadEntry(LEFT_BY_STEP) if original.value == ABSENT else original)
        if self.places.path(name) != path:
            self.give_up(f"reads {name}, whose name isn't UTF-8")

    def write(self, path: str, *, is_emptied: bool = False) -> None:
        """A file or folder is about to be made, emptied, replaced or changed."""
        if path not in self.written:
            state, name = file_state(path), self.places.name(path)
            is_gone = is_emptied or state == MISSING  # so that nobody can read it
            gone = ReadEntry(ABSENT if state == MISSING else EMPTIED_BY_STEP, state)
            self.written[path] = gone if is_gone else self.entries.get(name) or self._examine(name)

    def original_of(self, path: str) -> ReadEntry | None:
        """What was there before the step wrote to a path, or made a folder that it is in.

        None if it hasn't: opening a file to write it may have failed.
        """
        while self.written and path != "/":
            original = self.written.get(path)
            if original and file_state(path) != original.state:
                return original
            path = os.path.dirname(path)
        return None

    def record(self, name: str, entry: ReadEntry | None = None) -> None:
        """Keep the entry for something that is about to be read."""
        if name in self.entries:
            return
        if len(self.entries) >= MAX_ENTRIES:
            self.give_up(f"reads more than {MAX_ENTRIES:,} files and folders of the project")
            return
        entry = entry or self._examine(name)
        if entry.value == "not a file":
            self.give_up(f"reads {name}, which is neither a file nor a folder")
        self.entries[name] = entry
        if self._file:
            self._append({name: entry})

    def _examine(self, name: str) -> ReadEntry:
        with self.paused():
            state, now = file_state(self.places.path(name)), time.time_ns()
            value = self.places.value(name)
        if value == ABSENT or value.startswith("folder "):  # compared by value only
            return ReadEntry(value)
        return ReadEntry(value, state if is_settled(*state[3:], now) else (*state[:4], 0))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Don't see what this thread reads in the block."""
        thread = threading.get_ident()
        self.busy.add(thread)
        try:
            yield
        finally:
            self.busy.discard(thread)

    def give_up(self, reason: str) -> None:
        """What this process makes can't be reused. The first reason is kept."""
        self.reason = self.reason or reason

    # -- the run of a step -----------------------------------------------------------------------

    def begin(self, scratch: Path) -> None:
        """Begin to log for a step. Removes its scratch folder if it was made from other files."""
        file = reads_path(scratch)
        earlier = dict(_entries(str(file)))
        is_changed = any(
            entry.value not in (LEFT_BY_STEP, self.places.value(name))
            for name, entry in earlier.items()
        )
        if not scratch.is_dir():
            file.unlink(missing_ok=True)
        elif is_changed:
            print("what an earlier attempt read has changed: this one starts anew", flush=True)
            shutil.rmtree(scratch)
            file.unlink()
        else:
            for name in earlier:
                self.record(name)
        self._file = str(file)
        if self.entries:
            self._append(self.entries)

    def end(self, is_in_key: Callable[[str, str], bool]) -> tuple[dict[str, str], list[str]]:
        """The entries of a step that succeeded, and names of those that it changed afterwards.

        Gives up if one changed in another way. is_in_key: whether one counts anyway.
        """
        file, self._file = self._file, ""
        for name, entry in _entries(file):  # of processes that the step forked, too
            values = {self.entries.setdefault(name, entry).value, entry.value}
            if len(values - {LEFT_BY_STEP}) > 1:
                self.give_up(f"reads {name}, which changes meanwhile")
        entries, rewritten = dict[str, str](), list[str]()
        for name, entry in dict(self.entries).items():
            is_last = entry.value == LEFT_BY_STEP
            value = self.places.value(name) if is_last else entry.value
            if (is_last and value == ABSENT) or is_in_key(name, value):
                continue
            entries[name] = value
            if not self.places.is_checked(name):
                self.give_up(f"reads {name}, which is outside the project")
            elif not is_last and not self._is_same(name, entry):
                rewritten.append(name)
                path = self.places.path(name)
                if not any(path in (written, os.path.dirname(written)) for written in self.written):
                    self.give_up(f"reads {name}, which changes before the step ends")
        if not all(name.startswith(IMPORT_PREFIX) for name in entries):
            entries[LAYOUT_ENTRY] = self.places.layout
        return entries, rewritten

    def _is_same(self, name: str, entry: ReadEntry) -> bool:
        state = file_state(self.places.path(name))
        is_comparable = entry.state == MISSING or state[:4] == entry.state[:4]
        is_untouched = state == entry.state != MISSING  # otherwise, another name changes the ctime
        return is_comparable and (is_untouched or self.places.value(name) == entry.value)

    def _append(self, entries: Mapping[str, ReadEntry]) -> None:
        """Add entries to the file, each in one write: other processes do the same."""
        with open(self._file, "ab", buffering=0) as file:
            for name, entry in entries.items():
                file.write(f"{json.dumps([name, *entry])}\n".encode())


def _entries(file: str) -> Iterator[tuple[str, ReadEntry]]:
    try:
        with open(file, "rb") as lines:
            for line in lines:
                name, value, state = json.loads(line)
                yield name, ReadEntry(value, tuple(state))
    except FileNotFoundError:
        return
    except ValueError:  # a process was killed while it wrote a line
        yield "", ReadEntry("damaged")
