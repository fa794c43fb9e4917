"""Real queries: ten intents of Banking77 (PolyAI, CC-BY-4.0), twenty training rows each."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import WHEEL, MakeProject
from needs import may_lack

DATA = Path(__file__).parents[3] / "shared" / "data" / "banking77"
RECIPE = f"""\
finery: 1
name: banking
seed: 7
models:
  base: {{use: local.wheel, {", ".join(f"{k}: {v}" for k, v in WHEEL.items())}}}
data:
  train: {{use: data.file, path: train.csv, columns: &row {{system: Name the intent., user: "{{{{ text }}}}", assistant: "{{{{ category }}}}"}}}}
  test: {{use: data.file, path: test.csv, columns: *row}}
train:
  sft: {{use: trl.sft, model: base, rows: train, epochs: 4, learning_rate: 1e-3}}
evaluate:
  judged:
    use: eval.classification
    models: [base, sft]
    rows: test
    max_tokens: 16
    require: {{sft.accuracy: ">= base.accuracy + 0.5"}}
"""  # noqa: E501


def _rows(file: Path, intents: Iterable[str], each: int) -> list[dict[str, str]]:
    """The first `each` rows of each intent."""
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [r for intent in intents for r in [r for r in rows if r["category"] == intent][:each]]


def _csv(folder: Path, name: str, rows: list[dict[str, str]]) -> None:
    with (folder / name).open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["text", "category"])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason=may_lack("needs the data of Banking77"))
def test_ten_intents_are_learned(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE})
    intents = json.loads((DATA / "categories.json").read_text("utf-8"))[:10]
    _csv(made.folder, "train.csv", _rows(DATA / "train.csv", intents, 20))
    _csv(made.folder, "test.csv", _rows(DATA / "test.csv", intents, 4))
    ran = made.run("build", timeout=1200)
    print(ran.out, ran.err)
    assert ran.code == 0, ran.err
    metrics = json.loads((made.folder / "build/banking/judged/metrics.json").read_text("utf-8"))
    scores = metrics["scores"]
    assert scores["sft"]["accuracy"] - scores["base"]["accuracy"] >= 0.5
