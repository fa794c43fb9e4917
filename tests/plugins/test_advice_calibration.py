"""Notes on rows that a quantisation is calibrated with."""

from pathlib import Path

import pytest

from finery.builder.checks import notes_on
from finery.plugin.manager import load_plugins
from finery.plugin.notes import Note
from finery.recipe.document import load
from finery.recipe.graph import build_graph

RECIPE = """\
finery: 1
models:
  base: {{use: local.model, path: model}}
data:
  rows: {{use: data.file, path: rows.jsonl}}
  split: {{use: data.split, rows: rows}}
evaluate:
  other: {{use: eval.exact, models: base, rows: rows}}
  test: {{use: eval.exact, models: [base, gguf.q4_k_m], rows: split.test}}
export:
  gguf: {{use: gguf.export, model: base, quantization: [q4_k_m], imatrix: {rows}}}
"""


def notes(folder: Path, rows: str) -> list[Note]:
    (folder / "rows.jsonl").write_text('{"text": "x"}\n')
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text('{"model_type": "llama"}')
    (folder / "recipe.yaml").write_text(RECIPE.format(rows=rows))
    found = notes_on(build_graph(load(folder / "recipe.yaml"), load_plugins()))
    return [note for note in found if note.name == "calibration-rows"]


@pytest.mark.parametrize("rows", ["split.test", "rows"])
def test_rows_of_the_own_test_are_pointed_out(tmp_path: Path, rows: str) -> None:
    [note] = notes(tmp_path, rows)
    assert note.text == f"gguf is calibrated with {rows}, and test judges it on the same rows"
    assert note.place == ("export", "gguf", "imatrix")


def test_training_rows_are_fine(tmp_path: Path) -> None:
    assert notes(tmp_path, "split.train") == []
