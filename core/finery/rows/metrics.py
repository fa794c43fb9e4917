"""The files of an evaluation: `metrics.json` and `predictions.jsonl`.

This code is part of the key of every step that makes `Metrics`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

METRICS = "metrics.json"
PREDICTIONS = "predictions.jsonl"


def write_metrics(
    folder: Path, report: Mapping[str, Any], predictions: Iterable[Mapping[str, Any]]
) -> None:
    """Write both files. report: see `finery.Metrics`. predictions: a line each, by row id."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(report, indent=2, ensure_ascii=False)
    (folder / METRICS).write_text(text + "\n", encoding="utf-8")
    with (folder / PREDICTIONS).open("wb") as out:
        for prediction in predictions:
            out.write(msgspec.json.encode(prediction) + b"\n")
