"""What columns a file of rows has, and which of them are prompt and answer. For `finery init`."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec

from finery.errors import UsageError
from finery.util.files import check_plain
from finery.util.paths import shown
from finery.util.text import did_you_mean

KNOWN = (
    {"messages"},
    {"conversations"},
    {"instruction", "output"},
    {"prompt", "completion"},
)
"""Columns by which `data.file` recognises a format by itself."""
PROMPTS = ("prompt", "question", "text", "input", "message", "query", "user", "sentence", "body")
ANSWERS = (
    "answer", "label", "intent", "category", "class", "completion", "output", "response", "target",
    "assistant", "reply", "summary",
)  # fmt: skip
"""Usual names of columns, the likeliest first."""

Pair = tuple[str, str]
"""The columns of (prompt, answer)."""


def columns_of(path: Path, prompt: str | None, answer: str | None) -> Pair | None:
    """The columns of prompt and answer; None where the file's format is a known one.

    prompt, answer: named by the user, else found by their usual names.
    """
    if prompt and answer and not _is_table(path):
        return prompt, answer
    names = read_columns(path)
    for option, name in (("--prompt", prompt), ("--answer", answer)):
        if name and name not in names:
            raise UsageError(
                f"{shown(path)} has no column '{name}'", where=option, fix=did_you_mean(name, names)
            )
    if not (prompt or answer) and any(known <= set(names) for known in KNOWN):
        return None
    prompt = prompt or _first_of(PROMPTS, [n for n in names if n != answer])
    answer = answer or _first_of(ANSWERS, [n for n in names if n != prompt])
    if len(names) == 2:  # then one tells the other
        prompt = prompt or next((n for n in names if answer and n != answer), None)
        answer = answer or next((n for n in names if prompt and n != prompt), None)
    if not prompt or not answer:
        missing = "--answer COLUMN" if prompt else "--prompt COLUMN"
        raise UsageError(
            f"can't tell which columns hold prompt and answer: {', '.join(names)}",
            where=shown(path),
            fix=f"say it: {missing if prompt or answer else '--prompt COLUMN --answer COLUMN'}",
        )
    return prompt, answer


def templates_for(pair: Pair | None) -> dict[str, str]:
    """`columns:` of a recipe as YAML: templates that put the columns into a row."""
    if pair is None:
        return {}
    return {"user": _template(pair[0]), "assistant": _template(pair[1])}


def _template(column: str) -> str:
    name = column if column.isidentifier() and column.isascii() else f"row[{column!r}]"
    return json.dumps(f"{{{{ {name} }}}}", ensure_ascii=False)


def _first_of(usual: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


def _kind(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def _is_table(path: Path) -> bool:
    return _kind(path) in (".jsonl", ".ndjson", ".json", ".csv", ".tsv")


def read_columns(path: Path) -> list[str]:
    """The columns of the first row of JSON lines, JSON, CSV or TSV, plain or as .gz."""
    if not _is_table(path):
        raise UsageError(
            "can't look into such a file for its columns",
            where=shown(path),
            fix="say which they are: --prompt COLUMN --answer COLUMN",
        )
    try:
        check_plain(path)
    except OSError as error:
        raise UsageError(
            f"can't be read: {error.strerror}", where=shown(path), fix="name a file"
        ) from error
    try:
        with _opened(path) as stream:
            names = _read(stream, _kind(path))
    except (OSError, ValueError, csv.Error, EOFError) as error:
        raise UsageError(f"can't be read: {error}", where=shown(path), fix="repair it") from error
    if not names:
        raise UsageError("there are no rows with columns", where=shown(path), fix="put rows in it")
    return names


def _opened(path: Path) -> IO[str]:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read(stream: IO[str], kind: str) -> list[str]:
    if kind in (".csv", ".tsv"):
        head = next((line for line in stream if line.strip()), "")
        delimiter = "\t" if "\t" in head else ";" if ";" in head and "," not in head else ","
        return [n.strip() for n in next(csv.reader([head], delimiter=delimiter), []) if n.strip()]
    if kind == ".json":
        row = msgspec.json.decode(stream.read())
        if isinstance(row, dict):
            row = next((v for v in row.values() if isinstance(v, list)), row)
        row = row[0] if isinstance(row, list) and row else row
    else:
        row = msgspec.json.decode(next((line for line in stream if line.strip()), "{}"))
    return list(row) if isinstance(row, dict) else []
