"""What can be said of the rows of a file before they are read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from finery import Count, Forecast
from finery.rows import Row
from finery_data.steps.file import File

MOST_COUNTED = 256 * 1024 * 1024
"""Larger files, in bytes, aren't counted before they are built: a plan is to be quick."""


class FileForecast(Forecast[File]):
    """Counts the lines of plain JSON lines; any other file takes reading."""

    def rows(self, output: str, taken: Mapping[str, Sequence[Count | None]]) -> Count | None:
        """The number of lines: about that many rows, since some may be skipped."""
        paths = self._lines()
        if paths is None or any(path.stat().st_size > MOST_COUNTED for path in paths):
            return None
        lines = sum(1 for path in paths for _ in _lines_of(path))
        return Count(min(lines, self.step.take or lines), exact=False)

    def sample(self, limit: int) -> Iterable[Row] | None:
        """The first records, as the file has them; None for other files than JSON lines."""
        paths = self._lines()
        if paths is None:
            return None
        return islice(_records(line for path in paths for line in _lines_of(path)), limit)

    def _lines(self) -> list[Path] | None:
        """The files, if all are plain JSON lines."""
        paths = self.step.path.paths
        return paths if all(path.suffix == ".jsonl" for path in paths) else None


def _lines_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())


def _records(lines: Iterable[bytes]) -> Iterator[Row]:
    """The records that are JSON objects; the step itself reports those that aren't."""
    for line in lines:
        try:
            record = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue
        if isinstance(record, dict):
            yield record
