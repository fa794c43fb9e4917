"""The files of an evaluation: `metrics.json` and `predictions.jsonl`."""

import json
from collections.abc import Iterable, Iterator, Mapping
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


def read_report(folder: Path) -> dict[str, Any]:
    """The content of `metrics.json`."""
    report: dict[str, Any] = json.loads((folder / METRICS).read_bytes())
    return report


def read_predictions(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of `predictions.jsonl`."""
    with (folder / PREDICTIONS).open("rb") as lines:
        for line in lines:
            yield msgspec.json.decode(line)
