"""Errors people can cause, each printed as one block: what, where, fix.

    FineryError            exit 1
    ├── StepError          exit 1   a step could not do its work
    │   └── RefusedError   exit 1   a model won't answer a row, or its answer is withheld
    ├── RequirementError   exit 1   a `require:` is not met
    └── UsageError         exit 2   the recipe, the call or the data is wrong
        ├── RecipeError    exit 2   with file:line:column
        ├── DataError      exit 2   rows or files that a step was given
        └── PluginError    exit 2   a plugin is missing or broken

Anything else that reaches the top is a bug and keeps its traceback.
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The `errno` of an `OSError` that says that there is no room to write."""


class FineryError(Exception):
    """An expected error: `what` is wrong, `where`, the `fix`, and lines of `details`."""

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
        self.fix = fix
        self.details = list(details)

    def __str__(self) -> str:
        """The whole block, uncoloured."""
        head = f"{self.where}: error: {self.what}" if self.where else f"error: {self.what}"
        lines = [head, *(f"  {line}" for line in self.details)]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The error as plain data, to cross a process boundary or a JSON line."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "fix": self.fix,
            "details": self.details,
        }


class StepError(FineryError):
    """A step could not do its work (a process died, the disk is full, a proof failed)."""


class RefusedError(StepError):
    """A model won't answer a row, or its answer is withheld; `text` is what it said instead."""

    text: str = ""


class RequirementError(FineryError):
    """A `require:` of an evaluator is not met."""


class UsageError(FineryError):
    """The call is wrong: an unknown step, a bad `--set`, a file that isn't there."""

    exit_code = 2


class RecipeError(UsageError):
    """The recipe is wrong; `where` is file:line:column."""


class DataError(UsageError):
    """Rows or files that a step was given are wrong; `where` is file:line when known."""


class PluginError(UsageError):
    """A plugin is missing, fails on import or breaks the contract."""


def each_once(errors: Iterable[FineryError]) -> list[FineryError]:
    """The errors in order, of those that tell a person the same only the first."""
    unique: dict[str, FineryError] = {}
    for error in errors:
        unique.setdefault(str(error), error)
    return list(unique.values())


def error_from_dict(data: dict[str, Any]) -> FineryError:
    """Rebuild what `FineryError.to_dict` made; an unknown class becomes a `StepError`."""
    known = {c.__name__: c for c in _tree(FineryError)}
    cls = known.get(data["error"], StepError)
    return cls(data["what"], where=data["where"], fix=data["fix"], details=data["details"])


def _tree(cls: type[FineryError]) -> list[type[FineryError]]:
    return [cls, *(d for sub in cls.__subclasses__() for d in _tree(sub))]
