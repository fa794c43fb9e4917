"""The file of decisions, written by several windows and processes at once."""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec.structs import replace

from finery import DataError, FineryError, StepError
from finery.advanced import check_plain, shown
from finery_review.decisions import Decision, Standing, as_line, parse, token_of

GIT_ATTRIBUTES = """\
# Lines of both sides stay; of the decisions on a row the latest counts.
*.jsonl merge=union
"""


class Conflict(FineryError):
    """Another window decided on the row in the meantime; nothing was written."""

    def __init__(self, now: Decision | None) -> None:
        by = f" by {now.by}" if now and now.by else ""
        how = f" ({now.do}{by})" if now else " (undo)"
        super().__init__(
            f"not saved: another window decided on this row in the meantime{how}",
            fix="look at that decision, then decide again",
        )
        self.now = now


class DecisionLog:
    """Reads the decisions in a file, follows its changes, and appends to it.

    Each append holds an OS lock, which is released when its process dies, and is on disk when it
    returns. standing: the decision that counts for each row. rows: the row of each line, in order.
    generation: increases when the file was replaced or rewritten, e.g. by git, and read again.
    notices: problems of the file that were repaired, for people.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.generation = 0
        self.notices: list[str] = []
        self._forget()

    def _forget(self) -> None:
        self.standing = Standing()
        self.rows: list[str] = []
        self._file: tuple[int, int] | None = None
        self._size = self._lines = 0
        self._tail = b""

    def refresh(self) -> None:
        """Read what was appended since the last reading, or all of a replaced file."""
        with suppress(FileNotFoundError), self._open_locked(os.O_RDONLY, fcntl.LOCK_SH) as file:
            self._read(file)
            return
        if self._file is not None:
            self._start_anew()

    def append(self, decision: Decision, seen_token: str) -> Decision:
        """Write a decision to disk with the present time.

        seen_token: of the decision that the window shows for the row. Raises `Conflict` if there is
        now another decision.
        """
        self._make_folder()
        with self._open_locked(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as file:
            self._read(file)
            now = self.standing.of(decision.id)
            if token_of(now) != seen_token:
                raise Conflict(now)
            at = max(
                time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                self.standing.time_of(decision.id),
            )
            dated = replace(decision, at=at)
            # Complete or remove a last line without an end.
            torn_bytes = os.pread(file, os.fstat(file).st_size - self._size, self._size)
            if torn_bytes:
                os.ftruncate(file, self._size)
                self.notices.append(torn_line_notice(self.path, torn_bytes) + " It was removed.")
            if self._tail[-1:] not in (b"", b"\n"):
                self._write(file, self._size, b"\n")
                self._read(file)
            start = self._size
            self._write(file, start, as_line(dated))
            self._read(file)
        return dated

    @contextmanager
    def _open_locked(self, flags: int, lock: int) -> Iterator[int]:
        """The locked file, which still has its name after locking."""
        while True:
            file = self._open(flags)
            try:
                try:
                    fcntl.flock(file, lock)
                except OSError as error:
                    raise StepError(
                        f"can't lock {shown(self.path)}: {error.strerror}",
                        fix="keep the recipe on a disk that supports file locks",
                    ) from error
                if _same(file, self.path):
                    yield file
                    return
            finally:
                os.close(file)

    def _open(self, flags: int) -> int:
        if self.path.is_dir():
            raise DataError(
                "expected a file of decisions, but this is a folder",
                where=shown(self.path),
                fix="name a file in it, e.g. reviews: reviews/rows.jsonl",
            )
        try:
            if not flags & os.O_CREAT or self.path.exists():
                check_plain(self.path)
            return os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StepError(
                f"can't open {shown(self.path)}: {error.strerror}",
                fix="check the permissions of the file and its folder",
            ) from error

    def _read(self, file: int) -> None:
        """Read the lines from where the last reading ended, except for an incomplete one."""
        state = os.fstat(file)
        if self._file is not None and not self._goes_on(file, state):
            self._start_anew()
        self._file = (state.st_dev, state.st_ino)
        appended = os.pread(file, max(0, state.st_size - self._size), self._size)
        while len(appended) < state.st_size - self._size:  # a read returns at most 2 GiB
            appended += os.pread(
                file, state.st_size - self._size - len(appended), self._size + len(appended)
            )
        decisions, torn_bytes = parse(appended, shown(self.path), self._lines)
        for decision in decisions:
            self.standing.add(decision)
            self.rows.append(decision.id)
        read = appended[: len(appended) - len(torn_bytes)]
        self._size += len(read)
        self._lines += read.count(b"\n")
        self._tail = (self._tail + read)[-200:]

    def _goes_on(self, file: int, state: os.stat_result) -> bool:
        if (state.st_dev, state.st_ino) != self._file or state.st_size < self._size:
            return False
        return os.pread(file, len(self._tail), self._size - len(self._tail)) == self._tail

    def _start_anew(self) -> None:
        self._forget()
        self.generation += 1

    def _write(self, file: int, start: int, line: bytes) -> None:
        """Append a line and sync it to disk, or leave the file as it was."""
        unwritten = line
        try:
            while unwritten:
                unwritten = unwritten[os.write(file, unwritten) :]
            os.fsync(file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(file, start)
            raise StepError(
                f"can't write {shown(self.path)}: {error.strerror}",
                fix="free some space, then decide again",
            ) from error
        if start == 0:
            _sync_folder(self.path.parent)

    def _make_folder(self) -> None:
        folder = self.path.parent
        if folder.is_dir():
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / ".gitattributes").write_text(GIT_ATTRIBUTES, encoding="utf-8")
            _sync_folder(folder.parent)
        except OSError as error:
            raise StepError(f"can't make {shown(folder)}: {error.strerror}") from error


def read(path: Path) -> tuple[list[Decision], bytes]:
    """The decisions in a file, and what is left of a torn last line.

    Raises `DataError` where the file can't be read, or holds what isn't a decision.
    """
    try:
        check_plain(path)
        return parse(path.read_bytes(), shown(path))
    except OSError as error:
        raise DataError(f"can't read {shown(path)}: {error.strerror}") from error


def torn_line_notice(path: Path, torn_bytes: bytes) -> str:
    """A sentence about an incomplete last line."""
    return (
        f"The last line of {shown(path)} ({len(torn_bytes):,} bytes) is incomplete: its writer "
        "died before that decision was acknowledged."
    )


def _same(file: int, path: Path) -> bool:
    """Whether an open file still has that name: git replaces files."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Sync the folder's entries to disk, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
