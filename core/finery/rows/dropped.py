"""Records of rows that a step drops or finds fault with, in files next to its rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from finery.errors import DataError
from finery.rows.files import SideFile, lines_of
from finery.rows.generated import Origin
from finery.rows.parts import row_id_of
from finery.rows.row import Row, row_id

if TYPE_CHECKING:
    from finery.artifact.kinds import Dataset

DROPPED = "dropped.jsonl"
"""Dropped rows, in the dataset's folder."""
FINDINGS = "findings.jsonl"
"""Problems of rows that were kept. Each line is `{"id", "row", "check", "detail"}`, where `row` is
the row's number among those that the step read. `meta["findings"]` counts them by check."""
MAX_TEXT = 2_000
"""Maximum characters that are kept of a row that can't be written as JSON."""
MAX_SAMPLES = 3
"""Number of drops that an error shows if no row is left."""


NOTHING_LEFT = "no rows are left"


class Drops(SideFile):
    """Writes `dropped.jsonl` as rows are dropped, and counts them by reason.

    A context manager for the time in which the kept rows are written. A line is `{"id", "reason",
    "detail", "row"}`. If the row was generated or judged, `made` is its line of `generated.jsonl`,
    see `finery.rows.generated`. Without drops there is no file.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / DROPPED)
        self.counts: Counter[str] = Counter()
        self._samples: list[str] = []

    def add(self, row: Row, reason: str, detail: str, origin: Origin | None = None) -> None:
        """Note that `row` isn't kept.

        reason: a short name to count by, e.g. `duplicate`. detail: what a person needs to know.
        origin: how a model made or judged it, or what it answered in place of a usable row.
        """
        self.write(_drop_line(row, reason, detail, origin))
        self.counts[reason] += 1
        sample = f"{reason}: {detail}"
        if len(self._samples) < MAX_SAMPLES and sample not in self._samples:
            self._samples.append(sample)

    def meta(self) -> dict[str, Any]:
        """`{"dropped": {reason: rows}}`, for the dataset's `meta`."""
        return {"dropped": dict(sorted(self.counts.items()))}

    def summary(self, kept_rows: int) -> str:
        """A line for the log: how many rows were dropped, and why."""
        total = self.counts.total()
        if not total:
            return f"all {kept_rows:,} rows kept"
        return f"dropped {total:,} of {kept_rows + total:,} rows ({reason_counts(self.counts)})"

    def refuse_nothing_left(self, kept_rows: int, fix: str) -> None:
        """Raise `DataError` where all rows were dropped: what follows needs some."""
        if not kept_rows:
            summary = self.summary(0) if self.counts else "there are no rows to start from"
            raise DataError(f"{NOTHING_LEFT}: {summary}", details=self._samples, fix=fix)


class Findings(SideFile):
    """Writes `findings.jsonl` and counts. Without findings there is no file."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / FINDINGS)
        self.counts: Counter[str] = Counter()

    def add(self, number: int, row: Row, findings: Iterable[tuple[str, str]]) -> None:
        """Note (check, what is wrong) of a row that stays. number: the row's."""
        for check, what in findings:
            line = {"id": row_id_of(row), "row": number, "check": check, "detail": what}
            self.write(msgspec.json.encode(line))
            self.counts[check] += 1

    def meta(self) -> dict[str, Any]:
        """`{"findings": {check: rows}}`, for the dataset's `meta`."""
        return {"findings": dict(sorted(self.counts.items()))}


def reason_counts(counts: Mapping[str, int]) -> str:
    """Counts by reason in words: `cut-off 2, schema 5`."""
    return ", ".join(f"{reason} {count:,}" for reason, count in sorted(counts.items()))


def read_dropped(dataset: "Dataset") -> Iterator[dict[str, Any]]:
    """The lines of a dataset's `dropped.jsonl`, in the order in which the rows came."""
    return map(msgspec.json.decode, lines_of(dataset, DROPPED))


def read_findings(dataset: "Dataset") -> Iterator[dict[str, Any]]:
    """The lines of a dataset's `findings.jsonl`, in the order in which the rows came."""
    return map(msgspec.json.decode, lines_of(dataset, FINDINGS))


def dropped_id(row: Row) -> str:
    """The id that `dropped.jsonl` gives a row."""
    return str(msgspec.json.decode(_drop_line(row, "", ""))["id"])


def _drop_line(row: Row, reason: str, detail: str, origin: Origin | None = None) -> bytes:
    extra = {} if origin is None else {"made": origin}
    try:
        line = {"id": row.get("id") or row_id(row), "reason": reason, "detail": detail, "row": row}
        return msgspec.json.encode(line | extra)
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError, RecursionError):
        text = {"text": _printable(str(row)[:MAX_TEXT])}
        line = {"id": row_id(text), "reason": reason, "detail": _printable(detail), "row": text}
        return msgspec.json.encode(line | extra)


def _printable(text: str) -> str:
    """The text without halves of surrogate pairs, which UTF-8 can't hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
