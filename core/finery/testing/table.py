"""Answers from a table by the standard library alone: what a step such as `serve.bundle` ships."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Answers:
    """Answers texts with the first answer that a `table_model` has for each. meta: of the model."""

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self._meta = meta

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """The answer to each text."""
        table, default = self._meta["answers"], self._meta["default"]
        return [str(table.get(text, default)[0]) for text in texts]
