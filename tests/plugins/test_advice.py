"""Notes on trainings: each is given where it should be, and nowhere else."""

import json
from pathlib import Path
from typing import Any

import pytest

from finery import Dataset, Model
from finery.artifact.kinds import Artifact
from finery.builder.checks import notes_on
from finery.builder.project import open_graph
from finery.plugin.history import Results
from finery.plugin.manager import load_plugins
from finery.recipe.graph import Graph

GOOD = """\
finery: 1
models:
  base: {use: local.model, path: models/qwen3-4B}
  prompted: {use: prompt.model, model: base, system: "Name the class."}
  cheap: {use: baseline.majority, rows: split.validation}
data:
  rows: {use: data.file, path: rows.jsonl}
  split: {use: data.split, rows: rows}
train:
  sft: {use: trl.sft, model: base, rows: split.train, validation: split.validation}
evaluate:
  test: {use: eval.classification, models: [prompted, sft], rows: split.test}
  bar: {use: eval.classification, models: cheap, rows: split.test}
silence: [no-encoder]
"""
SFT = "rows: split.train, validation: split.validation}"


class Built(Results):
    """Results of a build that was never made: step and output → artifact."""

    def __init__(self, **artifacts: Artifact) -> None:
        super().__init__()
        self._made = artifacts

    def artifact(self, step: str, output: str = "") -> Artifact | None:
        """The artifact, by `step` or `step_output`."""
        return self._made.get(f"{step}_{output}".rstrip("_"))

    def meta(self, step: str, output: str = "") -> dict[str, Any] | None:
        """Its facts."""
        found = self.artifact(step, output)
        return found.meta if found else None


def graph(folder: Path, recipe: str) -> Graph:
    """The graph of a recipe."""
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return open_graph(folder / "recipe.yaml")


def named(folder: Path, recipe: str, results: Results | None = None) -> list[str]:
    """The names of the notes on a recipe; its only file is empty unless there is one."""
    rows = folder / "rows.jsonl"
    if not rows.exists():
        rows.write_text("{}\n" * 1000, encoding="utf-8")
    (folder / "models" / "qwen3-4B").mkdir(parents=True, exist_ok=True)
    (folder / "models" / "qwen3-4B" / "config.json").write_text("{}", encoding="utf-8")
    return [note.name for note in notes_on(graph(folder, recipe), results)]


def rows(folder: Path, classes: dict[str, int]) -> Dataset:
    """So many rows of each class."""
    made = ((c, i) for c, count in classes.items() for i in range(count))
    return Dataset.write(folder, ({"prompt": f"{c} {i}", "completion": c} for c, i in made))


USER = {"role": "user", "content": "Where is it?"}
REPLY = {"role": "assistant", "content": "Here."}


def talks(folder: Path, count: int) -> Dataset:
    """So many conversations of four replies each."""
    return Dataset.write(folder, [{"messages": [USER, REPLY] * 4, "n": n} for n in range(count)])


def base(parameters: float) -> Model:
    """A model of that size."""
    return Model(Path(), meta={"format": "transformers", "parameters": parameters})


def test_a_good_recipe_has_no_notes(tmp_path: Path) -> None:
    assert named(tmp_path, GOOD.replace(SFT, SFT[:-1] + ", epochs: 2}")) == []


@pytest.mark.parametrize(("settings", "name"), [
    ("lr_scheduler_type: constant", "scheduler"),
    ("learning_rate: 5e-4", "learning-rate"),
    ("learning_rate: 5e-5", "learning-rate"),
    ("lora: {r: 16, lora_alpha: 64}", "lora-scale"),
    ("lora: {target_modules: [q_proj, v_proj]}", "target-modules"),
    ("effective_batch_size: 4", "batch-size"),
])  # fmt: skip
def test_a_setting_that_looks_wrong(tmp_path: Path, settings: str, name: str) -> None:
    assert named(tmp_path, GOOD.replace(SFT, f"{SFT[:-1]}, {settings}}}")) == [name]


@pytest.mark.parametrize("settings", [
    "lr_scheduler_type: linear", "learning_rate: 1e-4", "lora: {r: 16, lora_alpha: 32}",
    "lora: {r: 64, lora_alpha: 16, use_rslora: true}", "effective_batch_size: 8",
    "lora: {target_modules: [q_proj, up_proj]}", "lora: null, learning_rate: 1e-5",
])  # fmt: skip
def test_a_setting_that_is_fine(tmp_path: Path, settings: str) -> None:
    assert named(tmp_path, GOOD.replace(SFT, f"{SFT[:-1]}, {settings}}}")) == []


@pytest.mark.parametrize(("parameters", "rate", "given"), [
    (135e6, "1e-3", False), (135e6, "2e-4", True), (135e6, "5e-3", True),
    (4e9, "1e-3", True), (4e9, "2e-4", False), (None, "1e-3", False), (None, "1e-2", True),
])  # fmt: skip
def test_the_learning_rate_follows_the_size(
    tmp_path: Path, parameters: float | None, rate: str, given: bool
) -> None:
    recipe = GOOD.replace("qwen3-4B", "m").replace(SFT, f"{SFT[:-1]}, learning_rate: {rate}}}")
    results = Built(base=base(parameters)) if parameters else None
    assert named(tmp_path, recipe, results) == ["learning-rate"] * given


@pytest.mark.parametrize(("judge", "classes", "epochs", "names"), [
    ("classification", {"a": 60, "b": 30}, 2, ["few-rows"]),
    ("classification", {"a": 120, "b": 110}, 2, []),
    ("exact", {"a": 150}, 2, ["few-rows"]),
    ("rules", {"a": 450}, 2, ["few-rows"]),
    ("exact", {"a": 250}, 3, ["epochs"]),
])  # fmt: skip
def test_rows_are_held_against_the_task(
    tmp_path: Path, judge: str, classes: dict[str, int], epochs: int, names: list[str]
) -> None:
    recipe = GOOD.replace(SFT, f"{SFT[:-1]}, epochs: {epochs}}}")
    recipe = recipe.replace("eval.classification", f"eval.{judge}")
    if judge == "rules":
        recipe = recipe.replace("split.test}", "split.test, rules: {short: {max_words: 9}}}")
    built = Built(split_train=rows(tmp_path / "train", classes))
    assert named(tmp_path, recipe, built) == names


@pytest.mark.parametrize(("fields", "answer"), [("", "{}"), (", fields: [topic]", "topic: {}")])
def test_a_class_that_looks_misspelt(tmp_path: Path, fields: str, answer: str) -> None:
    recipe = GOOD.replace(SFT, f"{SFT[:-1]}, epochs: 2}}")
    recipe = recipe.replace("rows: split.test}", f"rows: split.test{fields}}}")
    right, wrong, short = (answer.format(c) for c in ("refund", "refnd", "lost"))
    test = rows(tmp_path / "test", {right: 20, wrong: 1})
    train = rows(tmp_path / "train", {right: 150, short: 150})
    notes = notes_on(graph(tmp_path, recipe), Built(split_train=train, split_test=test))
    (note,) = (each for each in notes if each.name != "unseen-class")  # which is right, too
    (row,) = (row["id"] for row in test if row["completion"] == wrong)
    assert note.name == "misspelt-class"
    assert note.text == f"the class 'refnd' of row {row} looks like a misspelt 'refund'"
    assert f"finery show --row {row}" in note.fix


def test_a_class_that_is_only_judged(tmp_path: Path) -> None:
    recipe = GOOD.replace(SFT, f"{SFT[:-1]}, epochs: 2}}")
    train = rows(tmp_path / "train", {"refund": 150, "lost": 120})
    test = rows(tmp_path / "test", {"refund": 20, "chargeback": 3})
    notes = notes_on(graph(tmp_path, recipe), Built(split_train=train, split_test=test))
    assert {note.name: note.text for note in notes if note.name != "few-rows"} == {
        "unseen-class": "test expects 'chargeback' in 3 rows, but no row that sft learned from has "
        "it",
    }


def test_replies_count_where_each_is_learned(tmp_path: Path) -> None:
    recipe = GOOD.replace("eval.classification", "eval.exact")
    recipe = recipe.replace(SFT, SFT[:-1] + ", epochs: 2}")
    few = Built(split_train=talks(tmp_path / "few", 30))
    (note,) = notes_on(graph(tmp_path, recipe), few)
    reason = "too few for extraction and formatting"
    assert note.text == f"sft learns from 120 replies in 30 rows, {reason}"
    enough = Built(split_train=talks(tmp_path / "enough", 50))
    assert named(tmp_path, recipe, enough) == []
    last = recipe.replace(SFT[:-1], SFT[:-1] + ", loss: last_turn")
    assert named(tmp_path, last, enough) == ["few-rows"]


def test_calls_in_built_rows_that_their_tools_do_not_allow(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "track", "arguments": {}}}
    row = {"messages": [USER, {**REPLY, "content": "", "tool_calls": [call]}], "tools": []}
    built = Built(split_train=Dataset.write(tmp_path / "built", [row] * 1000))
    (note,) = notes_on(graph(tmp_path, GOOD), built)
    assert note.name == "broken-calls"
    assert note.text.startswith("split.train: calls of tools that aren't offered")
    assert ", in 500 of 500 rows with calls: " in note.text
    assert "turn 2: calls track, which isn't offered" in note.text


@pytest.mark.parametrize(("old", "new", "names"), [
    (SFT, "rows: split.train}", ["no-validation"]),
    ("[prompted, sft]", "[sft]", ["no-baseline"]),
    ("[no-encoder]", "[]", ["no-encoder"]),
    ("[prompted, sft]", "[base]", ["no-evaluator"]),
    ("rows: split.train", "rows: rows", ["same-rows", "same-rows"]),
    ("rows: split.train", "rows: [split.train, more]", ["same-rows", "same-rows"]),
])  # fmt: skip
def test_the_shape_of_a_recipe(tmp_path: Path, old: str, new: str, names: list[str]) -> None:
    recipe = GOOD.replace("train:\n", "  more: {use: data.file, path: rows.jsonl}\ntrain:\n")
    assert named(tmp_path, recipe.replace(old, new)) == names


@pytest.mark.parametrize(("model", "names"), [("base", ["preference-first"]), ("sft", [])])
def test_dpo_comes_after_sft(tmp_path: Path, model: str, names: list[str]) -> None:
    dpo = f"  dpo: {{use: trl.dpo, model: {model}, {SFT}\nevaluate:"
    recipe = GOOD.replace("evaluate:", dpo).replace("[prompted, sft]", "[prompted, sft, dpo]")
    assert named(tmp_path, recipe) == names


def test_a_note_points_at_its_setting(tmp_path: Path) -> None:
    recipe = GOOD.replace(SFT, SFT[:-1] + ",\n        lora: {r: 16, lora_alpha: 64}}")
    (tmp_path / "rows.jsonl").write_text("{}\n" * 1000, encoding="utf-8")
    made = graph(tmp_path, recipe)
    (note,) = notes_on(made)
    assert made.recipe.where(note.place, key=True).endswith("recipe.yaml:11:23")
    assert note.text == "the adapter of sft is scaled by 4 (lora_alpha 64 / r 16)"
    assert note.fix == "lora_alpha: 16"


def test_a_selected_step_is_seen_in_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n" * 1000, encoding="utf-8")
    assert notes_on(graph(tmp_path, GOOD).select(["sft"])) == []


def test_every_note_says_when_and_why() -> None:
    for name, (about, _) in load_plugins().notes.items():
        assert about.when[0].islower() or about.when.startswith(("`", "DPO")), name
        assert about.why.endswith("."), name


def test_a_build_tells_when_it_can_count(project: Any) -> None:
    lines = [json.dumps({"prompt": f"p {i}", "completion": "c"}) for i in range(30)]
    made = project({"recipe.yaml": BUILD, "train.py": TRAIN, "rows.jsonl": "\n".join(lines)})
    logs = [e["message"] for e in made.events() if e.get("step") == "sft" and "message" in e]
    assert "few-rows" in logs[0]


@pytest.mark.parametrize("family", ["", "encoder", "other", "language-model"])
def test_advice_for_language_models_is_given_on_them_alone(project: Any, family: str) -> None:
    """Also the advice of a curve that overfits. Others learn in other ways."""
    lines = [json.dumps({"prompt": f"p {i}", "completion": "c"}) for i in range(30)]
    made = project({"recipe.yaml": BUILD, "rows.jsonl": "\n".join(lines)})
    curve = [{"step": n, "loss": 4 / n, "eval_loss": 1 / min(n, 6 - n)} for n in range(1, 6)]
    write = f"(job.out / 'curve.json').write_text({json.dumps(curve)!r})\n        return Model("
    code = TRAIN.replace('"language-model"', repr(family)).replace("return Model(", write)
    epochs = 'epochs: int = setting(9, help="Passes.")\n    model: Model'
    code = code.replace("model: Model", epochs).replace("hookimpl,", "hookimpl, setting,")
    made.write({"train.py": code})
    logs = "".join(map(str, made.events()))
    is_language_model = family == "language-model"
    assert ("few-rows" in logs, "epochs" in logs) == (is_language_model, is_language_model)
    assert "no-evaluator" in logs
    ran = made.run("show", "sft")
    assert "Overfitting since step 3" in ran.out
    assert ("Advice: use fewer epochs" in ran.out) == is_language_model


def test_a_training_that_declares_an_unknown_family_is_refused(project: Any) -> None:
    made = project({"recipe.yaml": BUILD, "rows.jsonl": '{"prompt": "p", "completion": "c"}\n'})
    made.write({"train.py": TRAIN.replace('"language-model"', '"llm"')})
    code, _, err = made.run("check")
    assert code == 2
    assert "step type 'train.nothing': family='llm' isn't known" in err


BUILD = """\
finery: 1
plugins: [steps.py, train.py]
models:
  base: {use: steps.outside, path: rows.jsonl}
data:
  rows: {use: data.file, path: rows.jsonl}
train:
  sft: {use: train.nothing, model: base, rows: rows}
"""
TRAIN = """\
from finery import Dataset, Model, Step, hookimpl, takes

class Nothing(Step, sections=("train",), learns="answers", family="language-model"):
    \"\"\"Learns nothing.\"\"\"

    model: Model = takes(role="base")
    rows: list[Dataset] = takes(role="train")

    def run(self, job) -> Model:
        return Model(job.out, meta={"format": "light"}, refs={"base": self.model})

@hookimpl
def finery_steps():
    return {"train.nothing": Nothing}
"""


LISTED = """\
finery: 1
models:
  base: {use: local.model, path: models/qwen3-4B}
data:
  rows:
    use: data.file
    path: rows.csv
    columns: {system: "One of: order, QUESTION.", user: "{{ t }}", assistant: "{{ c }}"}
train:
  sft: {use: trl.sft, model: base, rows: rows}
evaluate:
  test: {use: eval.classification, models: [base, sft], rows: rows}
"""


@pytest.mark.parametrize(("listed", "texts"), [
    ("late order", []),
    ("late order or question", []),
    ("question", ["the system prompt of sft's rows doesn't list 'late order'; it lists 'question', "
                  "which no row has"]),
])  # fmt: skip
def test_a_class_that_the_prompt_does_not_list(
    tmp_path: Path, listed: str, texts: list[str]
) -> None:
    (tmp_path / "rows.csv").write_text("t,c\na,order\nb,late order\n")
    (tmp_path / "models/qwen3-4B").mkdir(parents=True)
    found = [
        note.text
        for note in notes_on(graph(tmp_path, LISTED.replace("QUESTION", listed)), Results())
        if note.name == "unlisted-class"
    ]
    assert found == texts
