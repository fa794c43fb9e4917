"""What people write for files and splits who come from other tools."""

import re
from typing import Any

from finery import Hints

_FILE = re.compile(r"\S+\.(jsonl|ndjson|json|csv|tsv|parquet)(\.gz|\.zst)?", re.IGNORECASE)
_TRAIN = "remove it: train gets the rows that validation and test leave"


def _file(text: str) -> dict[str, str] | None:
    return {"path": text} if _FILE.fullmatch(text) else None


def _share(setting: str, value: Any) -> str | None:
    if setting in ("validation", "test") and isinstance(value, (int, float)) and value >= 100:
        return f"write a share of the rows, such as {setting}: 0.1"
    return None


def _format(setting: str, value: Any) -> str | None:
    if setting == "format" and str(value).lower() in ("chatml", "openai", "chat", "conversation"):
        return "write format: messages"
    if setting == "format" and str(value).lower() in ("csv", "json", "jsonl", "tsv", "parquet"):
        return (
            "remove it, the file's name says so; to build rows from columns, write "
            'columns: {user: "{{ … }}", assistant: "{{ … }}"}'
        )
    if setting == "columns" and isinstance(value, list) and len(value) == 2:
        user, assistant = value
        return f'write columns: {{user: "{{{{ {user} }}}}", assistant: "{{{{ {assistant} }}}}"}}'
    return None


_COLUMNS = {
    "type": "format", "on_error": "bad_rows",
        "prompt": "columns.user", "question": "columns.user", "completion": "columns.assistant",
        "answer": "columns.assistant", "response": "columns.assistant",
        "columns.prompt": "columns.user", "columns.question": "columns.user",
        "columns.input": "columns.user", "columns.human": "columns.user",
        "columns.instruction": "columns.user", "columns.completion": "columns.assistant",
        "columns.answer": "columns.assistant", "columns.output": "columns.assistant",
        "columns.response": "columns.assistant", "columns.target": "columns.assistant",
        "columns.gpt": "columns.assistant", "columns.class": "columns.label",
        "columns.system_prompt": "columns.system",
    }  # fmt: skip
"""Settings that all sources of rows have."""
SOURCE = Hints(settings=_COLUMNS, value=_format)
FILE = Hints(
    settings={
        **_COLUMNS,
        "file": "path", "files": "path", "paths": "path", "data_files": "path", "filename": "path",
        "source": "path", "limit": "take", "n": "take", "max_rows": "take", "max_samples": "take",
    },
    called=("csv", "json", "jsonl", "tsv", "parquet", "file", "files", "local", "table", "path"),
    value=_format,
    text=_file,
)  # fmt: skip
SPLIT = Hints(
    settings={
        "val": "validation", "valid": "validation", "dev": "validation", "eval": "validation",
        "validation_size": "validation", "val_size": "validation", "val_set_size": "validation",
        "test_size": "test", "by": "stratify", "stratify_by": "stratify", "group_by": "group",
        "groups": "group", "dataset": "rows", "data": "rows", "input": "rows",
    },
    absent={
        "train": _TRAIN,
        "train_size": _TRAIN,
        "training": _TRAIN,
        "shuffle": "remove it: rows are assigned at random, and keep their order",
        "ratio": "write validation: 0.1 and test: 0.1; train gets the rest",
        "ratios": "write validation: 0.1 and test: 0.1; train gets the rest",
    },
    value=_share,
    called=("train.test.split", "traintestsplit", "splits"),
)  # fmt: skip
