"""New files from templates of this package."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from finery.errors import UsageError
from finery.util.paths import shown


def template(name: str) -> Any:
    """A file or folder under `finery/templates`."""
    return files("finery") / "templates" / name


def filled(source: Any, **values: Any) -> str:
    """A template's text with `{= name =}` filled in. `{{ … }}` stays: it is for data.file."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        variable_start_string="{=",
        variable_end_string="=}",
        line_statement_prefix="%%",
        keep_trailing_newline=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.from_string(source.read_text(encoding="utf-8")).render(values)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise `UsageError` where a file can't be written."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"can't write: {error.strerror}", where=str(error.filename or shown(folder))
        ) from error


def refuse_existing(folder: Path, names: Iterable[str], command: str) -> None:
    """Raise `UsageError` if one of these files is already in the folder."""
    existing = [n for n in names if (folder / n).is_symlink() or (folder / n).exists()]
    if existing:
        raise UsageError(
            f"already there: {', '.join(existing)}",
            where=shown(folder),
            fix=f"choose another folder, or move these files: {command} never overwrites files",
        )


def write_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Write new files, each by its path in the folder."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
