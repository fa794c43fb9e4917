"""Examines the columns and the first rows of a file, for `finery init`."""

import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from finery.errors import UsageError
from finery.util.files import check_plain
from finery.util.paths import shown
from finery.util.text import did_you_mean, enough_tokens, estimated_tokens, suggest_nearest

KNOWN = (
    {"messages"},
    {"conversations"},
    {"instruction", "output"},
    {"prompt", "completion"},
)
"""Columns by which `data.file` recognises a format."""
PROMPTS = ("prompt", "question", "text", "input", "message", "query", "user", "sentence", "body")
ANSWERS = (
    "answer", "label", "intent", "category", "class", "completion", "output", "response", "target",
    "assistant", "reply", "summary",
)  # fmt: skip
"""Usual names of columns, the likeliest first."""

Columns = tuple[str, ...]
"""The column of the prompt, then that of the answer, or those of the fields of a JSON answer."""
Rows = Sequence[Mapping[str, Any]]
ROWS = 2_000
"""Number of rows that are examined."""
TEXTS = (".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".docx", ".doc", ".rtf", ".odt")
"""Suffixes of files that contain text instead of rows."""
CLASSES_LISTED = 40
"""Classes that a prompt names at most."""
NO_NAMES = {"row", "and", "or", "not", "in", "is", "if", "else", "true", "false", "none"}
"""What a template doesn't take for a column."""
SHORTEST_MARK = 4
"""Characters of an ending that all answers share."""
MOST_TOKENS = 2_048
"""Largest `max_tokens` that is written."""
UNKNOWN_TOKENS = 256
"""`max_tokens` for answers that aren't known."""
NUMBER = re.compile(r"(?=.{1,16}$)-?(0|[1-9]\d*)(\.\d+)?")
"""What JSON keeps as a number. With a leading zero, or longer, it is a code or an account."""
LONGEST_CLASS = 60
"""Maximum length of an answer that may be the name of a class."""


def columns_of(
    path: Path,
    prompt: str | None,
    answers: Sequence[str] = (),
    rows: Rows | None = None,
    task: str | None = None,
) -> Columns | None:
    """The columns of prompt and answer; None if `data.file` knows the file's format.

    prompt, answers: the user's names, if given. Otherwise columns with usual names are searched;
    for an extraction without a column of JSON, all others are fields of the answer. rows: the
    file's first rows.
    """
    rows = first_rows(path)[0] if rows is None else rows
    if len({prompt, *answers}) <= len(answers):
        raise UsageError("a column is named twice", where="--answer", fix="name each column once")
    if prompt and answers and not rows:  # a file that isn't looked into
        return prompt, *answers
    names = list(dict.fromkeys(name for row in rows for name in row))
    for option, name in (("--prompt", prompt), *(("--answer", name) for name in answers)):
        if name and name not in names:
            raise UsageError(
                f"{shown(path)} has no column '{name}'", where=option, fix=did_you_mean(name, names)
            )
    if not (prompt or answers) and any(known <= set(names) for known in KNOWN):
        return None
    prompt = prompt or _first_of(PROMPTS, [n for n in names if n not in answers])
    if len(answers) > 1 and prompt:
        return prompt, *answers
    other_names = [n for n in names if n != prompt]
    answer = answers[0] if answers else _first_of(ANSWERS, other_names)
    fields = [n for n in other_names if n.lower() != "id"]
    has_objects = answer is not None and all(_is_object(row.get(answer)) for row in rows)
    if task == "extraction" and prompt and not (answers or has_objects) and len(fields) > 1:
        return prompt, *fields
    if len(names) == 2:  # then one determines the other
        prompt = prompt or next((n for n in names if answer and n != answer), None)
        answer = answer or next((n for n in names if prompt and n != prompt), None)
    if not prompt or not answer:
        columns = f": {', '.join(names)}" if names else ""
        missing = ("" if prompt else "--prompt COLUMN ") + ("" if answer else "--answer COLUMN")
        several = "" if answer else "; for a JSON answer, one --answer for each of its fields"
        unnamed = " and ".join(["prompt"] * (not prompt) + ["answer"] * (not answer))
        raise UsageError(
            f"no column is named like the {unnamed}{columns}",
            where=shown(path),
            fix=f"add {missing.strip()}{several}",
        )
    return prompt, answer


def text_columns(columns: Columns | None, task: str, rows: Rows) -> Columns | None:
    """The columns of templates: also of a known format if a prompt is to name its classes."""
    if columns is None and task == "classification" and rows:
        usual = ("prompt", "completion")
        are_texts = all(isinstance(row.get(name), str) for row in rows for name in usual)
        columns = usual if are_texts else None
    return columns


def empty_rows(path: Path, encoding: str, columns: Columns | None) -> list[str]:
    """The places of all rows that have no prompt or no answer, or can't be read."""
    from finery.rows.tables.records import data_suffix, read_table

    if columns is None or data_suffix(path.name) == ".parquet":
        return []
    needed = columns if len(columns) == 2 else columns[:1]  # a field of an answer may be null
    encodings = encoding.strip("[]").split(", ") if encoding else ["utf-8"]
    return [
        record.line
        for record in read_table(path, path.parent, encodings)
        if not isinstance(record.columns, dict)
        or any(_is_empty(record.columns.get(name)) for name in needed)
    ]


def _is_empty(value: Any) -> bool:
    return value is None or str(value).strip() == ""


def misspelt_labels(rows: Rows, columns: Columns | None) -> dict[str, str]:
    """Label → the more frequent one that it looks like, or that differs only in case and spaces."""
    from finery.rows.spelling import misspelt

    if not classes_of(rows, columns):
        return {}
    counts = Counter(str(answer).strip() for answer in answers_of(rows, columns))
    usual: dict[str, str] = {}
    for label, _ in counts.most_common():
        usual.setdefault(_letters(label), label)
    variants = {label: right for label in counts if (right := usual[_letters(label)]) != label}
    return misspelt(counts) | variants


def differ_in_case(label: str, other: str) -> bool:
    """Whether labels are the same apart from case and spaces, so that it is safe to merge them."""
    return _letters(label) == _letters(other)


def _letters(label: str) -> str:
    return "".join(label.split()).casefold()


def templates_for(columns: Columns | None, task: str, rows: Rows, path: Path) -> dict[str, str]:
    """`columns:` of a recipe as YAML: templates that put the columns of a file into a row.

    The system prompt lists the classes or the fields of an answer, because a base model can't
    answer with names that it doesn't know.
    """
    if columns is None:
        return {}
    prompt, *answers = columns
    is_labelled = task == "classification"
    typos = misspelt_labels(rows, columns) if is_labelled else {}
    merged = {label: right for label, right in typos.items() if differ_in_case(label, right)}
    classes = [c for c in classes_of(rows, columns) if c not in typos] if is_labelled else []
    system = ""
    if len(answers) > 1:
        system = f"Turn the text into JSON: {', '.join(answers)}."
    elif 1 < len(classes) <= CLASSES_LISTED:
        system = f"Answer with exactly one of these classes: {', '.join(classes)}."
    texts = {"system": "" if "{" in system else system}  # or it would be a template
    answer = _value(answers[0])
    if merged:
        answer = f"{merged}.get({answer} | trim, {answer})"
    texts |= {"user": f"{{{{ {_value(prompt)} }}}}", "assistant": f"{{{{ {answer} }}}}"}
    written = {part: json.dumps(t, ensure_ascii=False) for part, t in texts.items() if t}
    if len(answers) > 1:
        fields = (f"{json.dumps(n, ensure_ascii=False)}: {_field(n, rows, path)}" for n in answers)
        lines = ("{{ {", *(f"  {field}," for field in fields), "} }}")
        written["assistant"] = "\n        ".join(["|- # an empty cell is null", *lines])
    return written


def _value(column: str) -> str:
    """A column in a template."""
    is_name = column.isidentifier() and column.isascii() and column not in NO_NAMES
    return column if is_name else f"row[{column!r}]"


def _field(column: str, rows: Rows, path: Path) -> str:
    """A field of a JSON answer in a template: null for an empty cell, and numbers as such.

    Only a table of texts needs a conversion. A later cell that isn't a number stays a text.
    """
    from finery.rows.tables.records import data_suffix

    name = _value(column)
    if data_suffix(path.name) not in (".csv", ".tsv"):
        return name if all(column in row for row in rows) else f"row.get({column!r})"
    cells = [cell for row in rows if (cell := str(row.get(column) or "").strip())]
    numbers, text = [*map(NUMBER.fullmatch, cells)], f"{name} | trim or none"
    if {cell.lower() for cell in cells} <= {"true", "false"} and cells:
        name = f"{name} | trim | lower"
        return f"{name} == 'true' if {name} in ['true', 'false'] else {text}"
    if None in numbers or not cells:
        return text
    if any(number[2] for number in numbers if number):
        return f"{name} | float({text})"
    return f"{name} | int if {name} | float(0.5) == {name} | int else {text}"


def classes_of(rows: Rows, columns: Columns | None) -> list[str]:
    """The answers, most frequent first, if they look like names of classes; otherwise none."""
    answers = answers_of(rows, columns)
    texts = [answer.strip() for answer in answers if isinstance(answer, str)]
    counts = Counter(texts)
    if len(texts) < len(answers) or any(len(t) > LONGEST_CLASS or "\n" in t for t in counts):
        return []
    if len(counts) > max(3, len(texts) // 2) or all(map(_is_object, texts)):
        return []
    return sorted(filter(None, counts))


def task_of(rows: Rows, columns: Columns | None) -> str:
    """The probable task of the answers: classification, extraction, or chat."""
    if has_tools(rows):
        return "chat"
    objects = [*map(_is_object, answers_of(rows, columns))]
    if sum(objects) > len(objects) / 2:
        return "extraction"
    return "classification" if classes_of(rows, columns) else "chat"


def has_tools(rows: Rows) -> bool:
    """Whether models are to call tools in some of these rows."""
    messages = (m for row in rows if isinstance(m := row.get("messages"), list))
    turns = (turn for m in messages for turn in m if isinstance(turn, dict))
    return any(row.get("tools") for row in rows) or any(
        turn.get("tool_calls") or turn.get("role") == "tool" for turn in turns
    )


def answers_of(rows: Rows, columns: Columns | None) -> list[Any]:
    """Each row's answer, an object of its fields if it has several, or its last turn's text."""
    return [_answer(row, columns) for row in rows]


def _answer(row: Mapping[str, Any], columns: Columns | None) -> Any:
    if columns is not None and len(columns) > 2:
        return {name: row.get(name) for name in columns[1:]}
    if columns is not None:
        value = row.get(columns[1])
        return str(value) if isinstance(value, (int, float)) else value
    turns = row.get("messages") or row.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[-1], dict):
        return turns[-1].get("content", turns[-1].get("value"))
    return row.get("completion", row.get("output"))


def _is_object(answer: Any) -> bool:
    """Whether an answer is a JSON object, as text or as it is."""
    if isinstance(answer, str) and answer.lstrip().startswith("{"):
        with suppress(ValueError):
            answer = json.loads(answer)
    return isinstance(answer, dict)


def are_objects(answers: Sequence[Any]) -> bool:
    """Whether answers are JSON objects. `UsageError` for one that isn't where most are."""
    texts = [number for number, answer in enumerate(answers, 1) if not _is_object(answer)]
    if texts and 2 * len(texts) < len(answers):
        raise UsageError(
            f"{len(answers) - len(texts)} of {len(answers)} answers are JSON objects, but that of "
            f"row {texts[0]} isn't: {str(answers[texts[0] - 1])[:80]!r}",
            where="--data",
            fix="repair it, or leave the row out",
        )
    return bool(answers) and not texts


def limit_of(answers: Sequence[Any]) -> int:
    """`max_tokens` that every answer fits into, with a margin and the end of the turn."""
    texts = [a if isinstance(a, str) else json.dumps(a, ensure_ascii=False) for a in answers]
    longest = max(map(estimated_tokens, texts), default=None)
    return UNKNOWN_TOKENS if longest is None else min(MOST_TOKENS, enough_tokens(longest))


def words_of(answers: Sequence[Any]) -> int:
    """The words of the longest answer; 0 if none is known."""
    return max((len(str(answer or "").split()) for answer in answers), default=0)


def ending_of(answers: Sequence[Any]) -> str:
    """The words that all answers end with; empty if there are none, or too few to be a mark."""
    texts = [answer.strip() for answer in answers if isinstance(answer, str)]
    if len(texts) < len(answers) or len(set(texts)) < 2:
        return ""
    columns = zip(*map(reversed, texts), strict=False)
    size = sum(1 for _ in itertools.takewhile(lambda column: len({*column}) == 1, columns))
    common = texts[0][len(texts[0]) - size :]
    if any(not text[: len(text) - len(common)][-1:].isspace() for text in texts if text != common):
        common = re.sub(r"^\S+", "", common)  # of a word, only its end
    return common.strip() if len(common.strip()) >= SHORTEST_MARK else ""


def _first_of(usual: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


def first_rows(path: Path) -> tuple[list[dict[str, Any]], str, str]:
    """The first rows of a table, the facts about its encoding, and the setting that names it.

    The file may be compressed. No rows are read of Parquet; facts and setting are empty for UTF-8.
    Raises `UsageError` for other kinds of files, for rows that can't be read, and for an empty
    file.
    """
    from finery.rows.tables.records import (
        data_suffix,
        diagnose_encoding,
        read_table,
        table_suffix,
    )

    try:
        check_plain(path)
    except OSError as error:
        beside = [p.name for p in path.parent.glob("*")]
        fix = suggest_nearest(path.name, beside) or "name a file of rows"
        raise UsageError(f"can't be read: {error.strerror}", where=shown(path), fix=fix) from error
    suffix = data_suffix(path.name)
    if suffix in TEXTS:
        raise UsageError(
            "the file holds text, not rows with a prompt and an answer",
            where=shown(path),
            fix="write a table with a column for each, such as .csv or .jsonl; to generate "
            "questions from texts, see synth.from_docs",
        )
    table_suffix(path)
    if suffix == ".parquet":
        return [], "", ""
    problem = diagnose_encoding(path)
    if not problem.setting:
        fix = f"save it as UTF-8: iconv -f ENCODING -t utf-8 {shlex.quote(shown(path))}"
        raise UsageError(problem.facts, where=shown(path), fix=fix)
    encodings = problem.setting.strip("[]").split(", ")
    records = list(itertools.islice(read_table(path, path.parent, encodings), ROWS))
    rows = [r.columns for r in records if isinstance(r.columns, dict)]
    for record in records:
        if not isinstance(record.columns, dict):
            what, fix = record.columns.what, record.columns.fix or "repair the row"
            raise UsageError(what, where=record.where, fix=fix)
    if not rows:
        is_table = suffix in (".csv", ".tsv") and path.stat().st_size > 0
        raise UsageError(
            "the file has a header, but no rows" if is_table else "the file has no rows",
            where=shown(path),
            fix="put rows in it",
        )
    return rows, problem.facts, problem.setting if problem.facts else ""
