"""What else is known about a row: checks, scores and findings that steps left beside it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from finery.rows.dropped import FINDINGS
from finery.rows.generated import GENERATED

NOT_SHOWN = frozenset({"id", "row"})


class _Line(msgspec.Struct):
    """The row of a line. All else is skipped, since lines can be large."""

    id: str


class About:
    """The lines of sidecar files by row id. A line is read when its row is looked at.

    folders: of the reviewed data set and of those that it was made from, the nearest first.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._files: list[tuple[str, BinaryIO]] = []
        self._lines: dict[str, list[tuple[int, int, int]]] = {}  # id → (file, start, length)
        self.has_generated = False
        for folder in folders:
            for name in (GENERATED, FINDINGS):
                if (folder / name).is_file():
                    self._add(name, (folder / name).open("rb"))

    def _add(self, name: str, file: BinaryIO) -> None:
        self._files.append((name, file))
        self.has_generated |= name == GENERATED
        start = 0
        for line in file:
            with suppress(msgspec.MsgspecError, RecursionError):  # belongs to no row
                row = msgspec.json.decode(line, type=_Line).id
                place = (len(self._files) - 1, start, len(line))
                self._lines.setdefault(row, []).append(place)
            start += len(line)

    def of(self, ids: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """`{"generated": […], "findings": […]}` of the first of these ids that has such lines.

        For a row that was only judged there, also how it was generated before.
        """
        lines: dict[str, list[dict[str, Any]]] = {"generated": [], "findings": []}
        waiting, seen = list(ids), set[str]()
        while waiting:
            row = waiting.pop(0)
            seen.add(row)
            self._take(row, lines)
            if any(lines.values()) and not _is_only_judged(lines["generated"]):
                break
            parents = [p for line in lines["generated"] for p in line.get("parents", ())]
            waiting += [parent for parent in parents if parent not in seen]
        return lines

    def _take(self, row: str, lines: dict[str, list[dict[str, Any]]]) -> None:
        for name, line in self._of(row):
            kind = lines["generated" if name == GENERATED else "findings"]
            if line not in kind:
                kind.append(line)

    def _of(self, row: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for index, start, length in self._lines.get(row, ()):
            name, file = self._files[index]
            line = msgspec.json.decode(os.pread(file.fileno(), length, start))
            yield name, {key: value for key, value in line.items() if key not in NOT_SHOWN}

    def close(self) -> None:
        """Close the files."""
        for _, file in self._files:
            file.close()


def score_of(lines: Iterable[dict[str, Any]]) -> float | None:
    """The score that a judge gave a row, from its sidecar lines and its own columns."""
    for line in lines:
        judge = line.get("judge")
        for value in (line.get("score"), judge.get("score") if isinstance(judge, dict) else None):
            if isinstance(value, int | float) and not isinstance(value, bool):
                return value if isfinite(value) else None
    return None


def failed_of(lines: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the checks that a row failed, each once."""
    names = dict[str, None]()
    for line in lines:
        checks = line.get("checks")
        for check in checks if isinstance(checks, list) else ():
            if isinstance(check, dict) and check.get("passed") is False:
                names[str(check.get("check") or check.get("name") or "check")] = None
    return list(names)


def _is_only_judged(lines: list[dict[str, Any]]) -> bool:
    """Whether these lines say what a judge said, and not who wrote the row."""
    return any("judge" in line for line in lines) and not any("model" in line for line in lines)
