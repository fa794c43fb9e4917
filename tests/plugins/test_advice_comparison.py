"""Notes that compare steps: compared seeds, equal steps, seeds without effect."""

import json
from pathlib import Path

from finery.builder.checks import notes_on
from finery.builder.project import open_graph
from finery.step.forecast import Note

RECIPE = """\
finery: 1
models:
  base: {{use: local.model, path: model}}
data:
  rows: {{use: data.file, path: rows.jsonl}}
  split: {{use: data.split, rows: rows}}
train:
{train}
evaluate:
  test: {{use: eval.classification, models: [base, {models}], rows: split.test}}
{tests}silence: [few-rows, epochs, no-validation]
"""


def notes(folder: Path, steps: dict[str, str], extra: str = "", tests: str = "") -> list[Note]:
    """Notes on a recipe that compares trainings, given as name → further settings."""
    train = "\n".join(
        f"  {name}: {{use: trl.sft, model: base, rows: split.train{settings}}}"
        for name, settings in steps.items()
    )
    (folder / "rows.jsonl").write_text('{"text": "x"}\n')
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps({"num_experts": 2}))
    text = RECIPE.format(train=train, models=", ".join(steps), tests=tests) + extra
    (folder / "recipe.yaml").write_text(text)
    found = notes_on(open_graph(folder / "recipe.yaml"))
    return [
        n
        for n in found
        if n.name in ("compared-seeds", "equal-steps", "unused-seed", "other-constraint")
    ]


def test_models_trained_under_different_seeds_are_pointed_out(tmp_path: Path) -> None:
    [note] = notes(tmp_path, {"small": ", lora: {r: 8}, seed: 1", "large": ", lora: {r: 64}"})
    assert (note.name, note.step) == ("compared-seeds", "test")
    assert "small under 1, large under " in note.text


def test_models_trained_under_one_seed_are_comparable(tmp_path: Path) -> None:
    assert notes(tmp_path, {"small": ", lora: {r: 8}", "large": ", lora: {r: 64}"}) == []


def test_a_repetition_under_several_seeds_is_no_mistake(tmp_path: Path) -> None:
    ways = {f"{r}_{s}": f", lora: {{r: {r}}}, seed: {s}" for r in (8, 64) for s in (1, 2)}
    assert notes(tmp_path, {"a": ", seed: 1", "b": ", seed: 2"}) == []
    assert notes(tmp_path, {f"m{name}": settings for name, settings in ways.items()}) == []


def test_equal_trainings_are_pointed_out_once(tmp_path: Path) -> None:
    # The default written out is the same setting.
    [note] = notes(tmp_path, {"one": "", "two": ", lora: {r: 16}, logging_steps: 7"})
    assert (note.name, note.step) == ("equal-steps", "two")
    assert note.text == "two is equal to one, so both have the same output, which is built once"
    assert "seed" in note.fix


def test_equal_generators_are_pointed_to_series_and_seeds_have_no_effect(tmp_path: Path) -> None:
    generate = "generate:\n" + "".join(
        f"  {name}: {{use: synth.paraphrase, model: base, rows: rows{more}}}\n"
        for name, more in {"g": "", "h": ", seed: 3", "i": ", series: 1"}.items()
    )
    found = notes(tmp_path, {"sft": ""}, generate)
    assert [(n.name, n.step) for n in found] == [("equal-steps", "h"), ("unused-seed", "h")]
    assert "series" in found[0].fix
    assert found[1].fix == "series: 1"


def test_a_bundle_that_constrains_other_answers_than_were_measured(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("{}")
    schema = ", schema: s.json"
    for constrain, shipped, said in (
        ("", schema, "bundle holds answers to a schema, but json lets models answer freely"),
        (", constrain: true", "", "json holds answers to a schema, but bundle doesn't"),
        (", constrain: true", schema, ""),
        ("", "", ""),
    ):
        tests = (
            "  json: {use: eval.json, models: sft, rows: split.test, schema: s.json"
            f"{constrain}}}\n"
        )
        extra = (
            "export:\n  gguf: {use: gguf.export, model: sft}\n"
            f"  bundle: {{use: llama.bundle, gguf: gguf, name: m{shipped}}}\n"
        )
        texts = [note.text for note in notes(tmp_path, {"sft": ""}, extra, tests)]
        assert texts == ([said] if said else [])
