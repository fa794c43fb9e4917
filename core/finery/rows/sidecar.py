"""Files of JSON lines next to the rows of a dataset. A file without lines isn't written."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from finery.artifact.kinds import Artifact


class SideFile:
    """Writes one line by line, as a context manager around the writing of the rows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._out: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._out is not None:
            self._out.close()

    def write(self, line: bytes) -> None:
        """Write a line, given without its end."""
        if self._out is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._out = self._path.open("wb")
        self._out.write(line + b"\n")


def lines_of(dataset: "Artifact", name: str) -> Iterator[bytes]:
    """The lines of a file, in order; empty if the file doesn't exist."""
    path = dataset.file(name)
    if path.is_file():
        with path.open("rb") as lines:
            yield from lines
