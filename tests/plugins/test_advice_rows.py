"""Notes on rows that both make and judge a model: calibration, baselines, examples in prompts."""

import json
from pathlib import Path

import pytest

from finery.builder.checks import notes_on
from finery.builder.examine import Examiner
from finery.builder.project import open_graph
from finery.step.forecast import Note

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


STAGES = """\
finery: 1
models:
  base: {use: local.model, path: model}
  told: {use: prompt.model, model: sft, system: "Be brief."}
data:
  replies: {use: data.file, path: replies.jsonl}
  split: {use: data.split, rows: replies, test: 0}
  pairs: {use: data.file, path: pairs.jsonl}
  pairs_split: {use: data.split, rows: pairs}
train:
  sft: {use: trl.sft, model: base, rows: split.train}
  dpo: {use: trl.dpo, model: sft, rows: pairs_split.train}
evaluate:
  test: {use: eval.exact, models: [base, dpo], rows: pairs_split.test}
export:
  gguf: {use: gguf.export, model: sft, quantization: [q8_0]}
  ollama: {use: ollama.modelfile, gguf: gguf.q8_0, name: a}
"""
NO_SYSTEM = [("train", "dpo", "rows"), ("evaluate", "test", "rows")]


@pytest.mark.parametrize(
    ("learned", "asked", "edit", "places"),
    [
        ([True], [False], ("", ""), NO_SYSTEM[:1]),  # dpo, which test judges, learned without one
        ([True], [False], ("[base, dpo]", "[base, sft]"), NO_SYSTEM),
        ([True], [True, False], ("", ""), []),
        ([True, False], [False], ("", ""), []),
        ([False], [False], ("", ""), []),
        ([True], [False], ("[base, dpo]", "[told]"), NO_SYSTEM[:1]),  # its prompt has a message
        ([True], [False], ("[base, dpo]", "[base]"), NO_SYSTEM[:1]),
    ],
)
def test_rows_without_the_system_message_of_the_training_are_pointed_out(
    tmp_path: Path, learned: list[bool], asked: list[bool], edit: tuple[str, str], places: object
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    good, bad = ({"role": "assistant", "content": text} for text in ("a", "b"))
    for name, more, kinds in (
        ("replies", {"completion": [good]}, learned),
        ("pairs", {"chosen": [good], "rejected": [bad]}, asked),
    ):
        system = {"role": "system", "content": "Be brief."}
        prompts = [{"role": "user", "content": f"question {n}"} for n in range(6)]
        lines = [
            json.dumps({"prompt": [system, prompt] if has else [prompt], **more})
            for n, prompt in enumerate(prompts)
            for has in [kinds[n % len(kinds)]]
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "recipe.yaml").write_text(STAGES.replace(*edit))
    graph = open_graph(tmp_path / "recipe.yaml")
    assert Examiner(graph).errors() == []
    found = notes_on(graph)
    assert [note.place for note in found if note.name == "no-system"] == places
    (exported,) = [note for note in found if note.name == "not-exported"]
    assert exported.text == "gguf ships sft, but no step exports dpo, which trains it further"


def test_a_last_stage_that_is_exported_is_fine(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    for name in ("replies", "pairs"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    recipe = STAGES.replace("gguf.export, model: sft", "gguf.export, model: dpo")
    (tmp_path / "recipe.yaml").write_text(recipe)
    found = notes_on(open_graph(tmp_path / "recipe.yaml"))
    assert [note.name for note in found if note.name == "not-exported"] == []
