"""What `finery plan` says about test rows."""

import json
from pathlib import Path

import pytest
from conftest import MakeProject

from finery import Estimate, Model, Note
from finery.builder.checks import estimates_of, notes_on
from finery.builder.project import open_graph
from finery.plugin.history import Results
from finery.rows import Row
from finery_eval.planning import _answers

RECIPE = """\
finery: 1
name: t
models:
  a: {use: openai.model, model: one}
  b: {use: openai.model, model: two}
data:
  rows: {use: data.file, path: rows.jsonl, format: alpaca}
evaluate:
  test: {use: eval.exact, models: [MODELS], rows: rows}
"""


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ("a, b", "can detect differences of 12 points"),
        ("a", "give a score to within 9 points"),
    ],
)
def test_a_plan_says_what_the_test_rows_can_show(
    project: MakeProject, models: str, words: str
) -> None:
    rows = "".join(json.dumps({"instruction": f"{i}", "output": "x"}) + "\n" for i in range(128))
    t = project({"recipe.yaml": RECIPE.replace("MODELS", models), "rows.jsonl": rows})
    out = " ".join(t.run("plan").out.split())
    assert f"128 rows {words}" in out
    lines = [json.loads(line) for line in t.run("plan", "--json").out.splitlines()]
    (estimate,) = (line["estimate"] for line in lines if line["step"] == "test")
    assert estimate["detectable_difference"] == pytest.approx(0.123, abs=0.001)


SIZED = """\
finery: 1
name: t
models:
  base: {use: local.wheel, package: p, version: "1", file: NAME.gguf}
  linear: {use: baseline.linear, rows: split.train}
data:
  rows: {use: data.file, path: rows.jsonl, format: alpaca}
  split: {use: data.split, rows: rows}
train:
  sft: {use: trl.sft, model: base, rows: split.train}
evaluate:
  test: {use: eval.exact, models: [MODELS], rows: split.test}
"""


def test_a_first_evaluation_has_a_rough_time(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"instruction": f"{i}", "output": "x"}) + "\n" for i in range(1000))
    (tmp_path / "rows.jsonl").write_text(rows)

    def estimate(models: str, name: str) -> Estimate:
        recipe = SIZED.replace("MODELS", models).replace("NAME", name)
        (tmp_path / "recipe.yaml").write_text(recipe)
        graph = open_graph(tmp_path / "recipe.yaml")
        return estimates_of(graph, Results(), ["test"])["test"]

    one, two = estimate("base, linear", "x-4B"), estimate("base, sft", "x-4B")
    assert one.lines[1].endswith("(a rough guess before the first run)")
    assert two.facts["seconds"] == pytest.approx(2 * one.facts["seconds"], abs=1)
    assert one.facts["seconds"] > estimate("base", "x-135M").facts["seconds"]
    assert "seconds" not in estimate("base", "x").facts


TRAINED = """\
finery: 1
name: t
models:
  base: {use: local.model, path: models/x}
  linear: {use: baseline.linear, rows: split.train}
data:
  rows: {use: data.file, path: rows.jsonl, format: alpaca}
  split: {use: data.split, rows: rows}
train:
  sft: {use: trl.sft, model: base, rows: split.train}
evaluate:
  test: {use: eval.classification, models: [MODELS], rows: split.test}
"""


@pytest.mark.parametrize(
    ("models", "notes"), [("base, sft", 1), ("base, sft, linear", 0), ("base", 0)]
)
def test_a_classifier_without_a_cheap_baseline_gets_a_note(
    tmp_path: Path, models: str, notes: int
) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "recipe.yaml").write_text(TRAINED.replace("MODELS", models))
    graph = open_graph(tmp_path / "recipe.yaml")
    found = [note for note in notes_on(graph, Results()) if note.name == "no-cheap-baseline"]
    assert len(found) == notes
    for note in found:
        assert note.text == "test compares sft with no cheap baseline"
        assert "linear: {use: baseline.linear, rows: split.train}" in note.fix


LONG = """\
finery: 1
name: t
models:
  base: {use: local.model, path: models/x}
data:
  rows: {use: data.file, path: rows.csv, columns: {user: "{{ text }}", assistant: "{{ said }}"}}
  split: {use: data.split, rows: rows}
train:
  sft: {use: trl.sft, model: base, rows: split.train, watch: {use: eval.exact, rows: rows}}
evaluate:
  test: {use: eval.exact, models: [base, sft], rows: split.test, max_tokens: MOST}
  talk: {use: eval.dialog, models: [sft], rows: split.test, each: {use: eval.exact}}
export:
  gguf: {use: gguf.export, model: sft}
"""


def notes_on_lengths(folder: Path, most: int, results: Results) -> list[Note]:
    """Those on a recipe whose answers are numbers of up to 99 digits."""
    lines = [f"{n},{'7' * n}" for n in range(1, 100)]
    (folder / "rows.csv").write_text("\n".join(["text,said", *lines]))
    (folder / "recipe.yaml").write_text(LONG.replace("MOST", str(most)))
    graph = open_graph(folder / "recipe.yaml")
    return [note for note in notes_on(graph, results) if note.name == "max-tokens"]


def test_answers_longer_than_max_tokens_get_a_note(tmp_path: Path) -> None:
    found = {note.step: note for note in notes_on_lengths(tmp_path, 70, Results())}
    assert set(found) == {"sft", "test", "talk"}
    assert found["test"].text.startswith(
        "test cuts answers off at max_tokens: 70, but the longest one in split.test has about 99 "
        "tokens (it begins: 7777"
    )
    assert found["test"].fix == "max_tokens: 160"
    assert found["sft"].place == ("train", "sft", "watch", "max_tokens")
    names = [note.step for note in notes_on_lengths(tmp_path, 160, Results())]
    assert names == ["sft", "talk"]


class Built(Results):
    """Results with a model that was built."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def artifact(self, step: str, output: str = "") -> Model | None:
        """The model."""
        return self._model if step == "base" else None


def test_a_tokenizer_at_hand_counts_the_longest_answer(tmp_path: Path) -> None:
    """Of a model that makes one token of a number, none is too long."""
    words = {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}
    split = {"type": "WhitespaceSplit"}
    folder = tmp_path / "built"
    folder.mkdir()
    model = {"version": "1.0", "model": words, "pre_tokenizer": split, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(model))
    built = Built(Model(folder, meta={"format": "transformers"}))
    assert notes_on_lengths(tmp_path, 20, built) == []


@pytest.mark.parametrize(("row", "answers"), [
    ({"prompt": "a", "completion": "b"}, ["b"]),
    ({"messages": [{"role": "assistant", "content": "b"}]}, ["b"]),
    ({"prompt": [{"role": "user", "content": "a"}], "completion": [
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    ]}, ['[{"name":"f"}]']),
    ({"messages": ["a"]}, []),
    ({"messages": [{"role": "assistant", "content": "b", "tool_calls": 5}]}, ["b"]),
    ({"text": "a"}, []),
])  # fmt: skip
def test_answers_of_rows_and_of_records_that_are_no_rows_yet(row: Row, answers: list[str]) -> None:
    assert list(_answers(row)) == answers
