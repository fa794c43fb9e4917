"""Forecasts of rows before a file is read or a split is made."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import msgspec

from finery import Count, Forecast
from finery.rows import Row
from finery.rows.parts import OWN_COLUMNS
from finery_data.steps.file import File
from finery_data.steps.split import Split

MOST_COUNTED = 256 * 1024 * 1024
"""Larger files, in bytes, aren't counted before they are built: a plan is to be quick."""


class FileForecast(Forecast[File]):
    """Counts the lines of plain JSON lines; any other file takes reading."""

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """The number of lines: about that many rows, since some may be skipped."""
        paths = self._lines()
        if paths is None or any(path.stat().st_size > MOST_COUNTED for path in paths):
            return None
        lines = sum(_count_lines(path, path.stat().st_mtime_ns) for path in paths)
        return Count(min(lines, self.step.take or lines), exact=False)

    def sample(self, limit: int) -> Iterable[Row] | None:
        """The first records, as the file has them; None for other files than JSON lines."""
        paths = self._lines()
        if paths is None:
            return None
        return islice(_records(line for path in paths for line in _lines_of(path)), limit)

    def columns(self) -> Collection[str] | None:
        """Those of every row, and those that `keep` names; None if a kept label may have fields."""
        names = self.step.kept()
        return None if "label" in names else {*OWN_COLUMNS, "label", *names}

    def _lines(self) -> list[Path] | None:
        """The files, if all are plain JSON lines."""
        paths = self.step.path.paths
        return paths if all(path.suffix == ".jsonl" for path in paths) else None


class SplitForecast(Forecast[Split]):
    """Counts by the shares of the parts."""

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """The output's share of all rows; None while one of the inputs isn't counted."""
        counts = taken.get("rows", ())
        known = [count.rows for count in counts if count is not None]
        if not counts or len(known) < len(counts):
            return None
        return Count(round(sum(known) * self.step.shares()[output]), exact=False)

    def passes(self) -> Collection[str]:
        """Rows stay as they are."""
        return ("rows",)

    def keeps_apart(self) -> bool:
        """Whether near copies across the parts are dropped."""
        return self.step.decontaminate


@lru_cache(maxsize=1024)
def _count_lines(path: Path, changed: int) -> int:
    """Lines that aren't empty. changed: when the file was; several steps may take one file."""
    return sum(1 for _ in _lines_of(path))


def _lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())


def _records(lines: Iterable[bytes]) -> Iterator[Row]:
    """The records that are JSON objects; the step itself reports those that aren't."""
    for line in lines:
        try:
            record = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if isinstance(record, dict):
            yield record
