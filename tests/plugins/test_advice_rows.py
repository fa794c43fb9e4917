"""Notes on rows that both make and judge a model: calibration, baselines, examples in prompts."""

from pathlib import Path

import pytest

from finery.builder.checks import notes_on
from finery.builder.project import open_graph
from finery.plugin.notes import Note

RECIPE = """\
finery: 1
models:
  base: {{use: local.model, path: model}}
  nearest: {{use: baseline.nearest, rows: {rows}}}
  prompted: {{use: prompt.model, model: base, examples: {rows}, shots: 1}}
data:
  rows: {{use: data.file, path: rows.jsonl}}
  split: {{use: data.split, rows: rows}}
evaluate:
  other: {{use: eval.exact, models: base, rows: rows}}
  test: {{use: eval.exact, models: [base, nearest, prompted, gguf.q4_k_m], rows: split.test}}
export:
  gguf: {{use: gguf.export, model: base, quantization: [q4_k_m], imatrix: {rows}}}
"""


def notes(folder: Path, rows: str) -> list[Note]:
    (folder / "rows.jsonl").write_text('{"text": "x"}\n')
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "recipe.yaml").write_text(RECIPE.format(rows=rows))
    found = notes_on(open_graph(folder / "recipe.yaml"))
    return [note for note in found if note.name in ("calibration-rows", "same-rows")]


@pytest.mark.parametrize("rows", ["split.test", "rows"])
def test_rows_of_the_own_test_are_pointed_out(tmp_path: Path, rows: str) -> None:
    found = {note.place: note.text for note in notes(tmp_path, rows)}
    assert found == {
        ("models", "nearest", "rows"): f"nearest learns from {rows}, and test judges it on the "
        "same rows",
        ("models", "prompted", "examples"): f"prompted shows examples from {rows}, and test judges "
        "it on the same rows",
        ("export", "gguf", "imatrix"): f"gguf is calibrated with {rows}, and test judges it on the "
        "same rows",
    }


def test_training_rows_are_fine(tmp_path: Path) -> None:
    assert notes(tmp_path, "split.train") == []
