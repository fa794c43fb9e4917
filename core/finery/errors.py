"""Errors that users can cause, each printed as one block: what, where, fix.

    FineryError            exit 1
    ├── StepError          exit 1   a step failed
    │   ├── NotRehearsed   exit 1   a step can't be rehearsed, although it may work
    │   └── RefusedError   exit 1   a model refuses a row, or its answer is withheld
    ├── RequirementError   exit 1   a `require:` is not met
    ├── RemoteError        exit 1   the shared store can't be used
    └── UsageError         exit 2   the recipe, the command line or the data is wrong
        ├── RecipeError    exit 2   with file:line:column
        ├── ConsentError   exit 2   a project's settings that the user hasn't allowed
        ├── DataError      exit 2   rows or files that a step takes
        └── PluginError    exit 2   a plugin is missing or broken

Any other exception is a bug and is shown with its traceback.
"""

import errno
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from traceback import FrameSummary

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Values of `errno` for a full disk."""


class FineryError(Exception):
    """An expected error: `what` is wrong, `where`, the `fix`, and `details` as lines."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        fix: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = installing(fix) if fix else fix
        self.details = list(details)

    def __str__(self) -> str:
        """The whole block, without colours."""
        head = f"{self.where}: error: {self.what}" if self.where else f"error: {self.what}"
        lines = [head, *(f"  {line}" for line in self.details)]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The error as plain data, for another process or a JSON line."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "fix": self.fix,
            "details": self.details,
        }

    @classmethod
    def in_method(cls, error: Exception, step: object, method: str, row: object = None) -> Self:
        """The error for an unexpected exception in a plugin's method, on a row if one is given.

        It shows the last line of the plugin's own file that the exception passed, not that of a
        library which the plugin called.
        """
        owner = step if isinstance(step, type) else type(step)
        frame = raised_at(error, sys.modules[owner.__module__].__file__)
        on_row = row is not None
        return cls(
            f"`{method}` failed: {type(error).__name__}: {error}",
            where=f"{type(step).__name__}.{method}, row {row}" if on_row else None,
            fix="correct it and build again: answers so far are kept" if on_row else "correct it",
            details=[f"{frame.filename}:{frame.lineno}: {frame.line}"] if frame else [],
        )

    @staticmethod
    def from_dict(data: dict[str, Any]) -> "FineryError":
        """The error that `to_dict` encoded; an unknown class becomes a `StepError`."""
        known = {c.__name__: c for c in _tree(FineryError)}
        cls = known.get(data["error"], StepError)
        return cls(data["what"], where=data["where"], fix=data["fix"], details=data["details"])


@contextmanager
def raised_as(explain: Callable[[Exception], FineryError]) -> Iterator[None]:
    """Replace what a plugin's code raises by the error for it, unless it is a `FineryError`."""
    try:
        yield
    except FineryError:
        raise
    except Exception as error:
        raise explain(error) from error


def installing(fix: str) -> str:
    """`pip install 'finery[…]'` in a text as it works here: from the folder finery came from."""
    if "'finery[" not in fix:
        return fix
    import json
    import re
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import unquote, urlsplit

    try:
        origin = json.loads(distribution("finery").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:  # its modules are on PYTHONPATH
        return fix
    if "dir_info" not in origin:
        return fix
    editable = "-e " if origin["dir_info"].get("editable") else ""
    folder = unquote(urlsplit(origin["url"]).path)
    return re.sub(r"'finery(\[[\w,]+\])'", lambda found: f"{editable}'{folder}{found[1]}'", fix)


class StepError(FineryError):
    """A step failed (a process died, the disk is full, a check of its own failed)."""


class NotRehearsed(StepError):
    """A step can't be rehearsed: a rehearsal can't say whether it works."""


class RefusedError(StepError):
    """A model refuses a row, or its answer is withheld; `text` is the reply."""

    text: str = ""


class RequirementError(FineryError):
    """A `require:` of an evaluator isn't met."""


class RemoteError(FineryError):
    """The shared store can't be used, or lacks what it should have."""


class UsageError(FineryError):
    """The command line is wrong: an unknown step, a bad `--set`, a missing file."""

    exit_code = 2


class ConsentError(UsageError):
    """A project has settings that the user hasn't allowed; `rest` are those in force without."""

    rest: Sequence[Any] = ()


class RecipeError(UsageError):
    """The recipe is wrong; `where` is file:line:column."""


class DataError(UsageError):
    """Rows or files that a step takes are wrong; `where` is file:line if known."""


class PluginError(UsageError):
    """A plugin is missing, fails on import or breaks its contract."""


def disk_full(error: OSError) -> StepError | None:
    """The error for a full disk, also for one without free inodes; None for other reasons."""
    if error.errno not in DISK_FULL:
        return None
    path = error.filename2 or error.filename  # of a link, the first is its target
    return StepError(
        "the disk is full" + (f": can't write {path}" if path else ""),
        fix="free some disk space (finery cache gc), or inodes if `df -i` shows none, and build "
        "again: no data is lost",
    )


def raised_at(error: BaseException, file: str | None) -> "FrameSummary | None":
    """The last line of a plugin that an exception passed, or else the line that raised it."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if is_in_plugin(frame.filename, file)]
    return next(reversed(own or frames), None)


def is_in_plugin(path: str, file: str | None) -> bool:
    """Whether a file is that of a plugin, or in its package. file: that of its module."""
    package, init, _ = (file or "").rpartition("__init__.py")
    return path == file or (bool(init) and path.startswith(package))


def each_once(errors: Iterable[FineryError]) -> list[FineryError]:
    """The errors in order, without duplicates."""
    unique: dict[str, FineryError] = {}
    for error in errors:
        unique.setdefault(str(error), error)
    return list(unique.values())


def _tree(cls: type[FineryError]) -> list[type[FineryError]]:
    return [cls, *(d for sub in cls.__subclasses__() for d in _tree(sub))]
