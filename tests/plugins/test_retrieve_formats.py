"""Models that don't fit a step of retrieval are refused before anything is built."""

from pathlib import Path

import pytest

from finery import FineryError
from finery.builder.project import open_graph

RECIPE = """\
finery: 1
models:
  base: {use: local.model, path: models/base}
  vllm: {use: vllm.model, model: base}
  words: {use: retrieve.api, model: m, base_url: "http://127.0.0.1:1/v1", api_key: null}
  rag: {use: retrieve.model, model: base, index: index}
  two: {use: retrieve.model, model: MODEL, index: index}
data:
  chunks: {use: docs.files, path: docs}
  index: {use: retrieve.index, rows: chunks, method: hybrid, embedder: EMBEDDER}
evaluate:
  grounded: {use: eval.grounded, models: [JUDGED], rows: chunks, index: index}
export:
  ship: {use: retrieve.bundle, model: SHIPPED, name: guide}
"""
GOOD = {"MODEL": "base", "EMBEDDER": "words", "JUDGED": "base", "SHIPPED": "rag"}


def check(folder: Path, **changed: str) -> None:
    recipe = RECIPE
    for name, value in {**GOOD, **changed}.items():
        recipe = recipe.replace(name, value)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    for file in ("docs/a.md", "models/base/config.json"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}\n", encoding="utf-8")
    open_graph(folder / "recipe.yaml")


def test_models_that_fit_are_accepted(tmp_path: Path) -> None:
    check(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("MODEL", "words", "an embedding model answers no prompts"),
        ("MODEL", "rag", "a model that retrieves documents itself"),
        ("EMBEDDER", "vllm", "a model of the format 'vllm' can't embed texts"),
        ("SHIPPED", "vllm", "a model of the format 'vllm' retrieves no documents"),
    ],
)
def test_models_that_dont_fit_are_refused(tmp_path: Path, name: str, value: str, what: str) -> None:
    with pytest.raises(FineryError) as caught:
        check(tmp_path, **{name: value})
    assert what in str(caught.value)
    assert "name " in str(caught.value)
