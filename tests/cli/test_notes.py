"""Where notes say that their subject is."""

from pathlib import Path

import pytest

from finery import Note, load_plugins
from finery.builder.checks import note_data
from finery.cli.notes import print_notes
from finery.recipe.document import load
from finery.recipe.graph import Graph, build_graph

RECIPE = """\
finery: 1
models:
  base: {use: openai.model, model: m, api_key: null}
data:
  rows: {use: data.file, path: rows.jsonl}
evaluate:
  test: {use: eval.exact, models: [base], rows: rows}
"""
NOTE = Note(name="lucky-gate", text="luck", step="test", place=("evaluate", "test", "require"))


def graph_of(folder: Path, *overrides: str) -> Graph:
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "rows.jsonl").write_text("{}\n", encoding="utf-8")
    return build_graph(load(folder / "recipe.yaml", overrides), load_plugins())


def test_an_option_is_named_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    option = "evaluate.test.require={base.accuracy: '>= 0.5'}"
    graph = graph_of(tmp_path, option)
    print_notes(graph, [NOTE])
    out = " ".join(capsys.readouterr().out.split())
    assert ">= 0.5" in out
    data = note_data(graph, NOTE)
    assert ">= 0.5" in data["file"]
    assert data["line"] is None


def test_a_place_in_the_file_is_named_by_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = graph_of(tmp_path)
    print_notes(graph, [NOTE])
    assert "recipe.yaml:7)" in " ".join(capsys.readouterr().out.split())
    assert note_data(graph, NOTE)["line"] == 7
