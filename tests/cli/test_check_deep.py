"""`finery check --deep`: the rows of trainings are verified, and nothing is trained."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import MakeProject, Project
from needs import need
from tiny_llama import CHATML, tiny_tokenizer

from finery.cli.commands.check import command

need("tokenizers")

STEPS = """\
from finery import Dataset, Job, Model, Step, hookimpl, setting, takes


class Hub(Step, sections=("models",), seeded=False):
    '''A model on another machine.'''

    repo: str = setting("org/small", help="Its name.")
    sketchy: bool = setting(True, help="Its tokenizer can be had alone.")

    def sketch(self, job):
        assert job.pinned == "1" * 40
        return Model(__import__("pathlib").Path("tiny").absolute(), meta={"format": "transformers"})

    def run(self, job: Job) -> Model:
        raise AssertionError("nothing heavy is downloaded")

    def floating_name(self):
        return f"far:{self.repo}"

    def pin_name(self, folder):
        return "1" * 40


class Slow(Step, isolated=True, seeded=False):
    '''Rows that take long.'''

    rows: Dataset

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, self.rows)


class Broken(Step, seeded=False):
    '''Rows that can't be made.'''

    rows: Dataset

    def run(self, job: Job) -> Dataset:
        from finery import DataError

        raise DataError("these rows are broken", where="rows.jsonl:1")


@hookimpl
def finery_steps():
    return {"far.model": Hub, "far.slow": Slow, "far.broken": Broken}
"""
RECIPE = """\
finery: 1
name: t
plugins: [far.py]
models:
  base: {use: local.model, path: tiny}
data:
  rows: {use: data.file, path: rows.jsonl}
train:
  sft: {use: trl.sft, model: base, rows: rows}
"""
PAIRS = """\
  pairs: {use: data.file, path: pairs.jsonl}
train:
  sft: {use: trl.sft, model: base, rows: rows}
  dpo: {use: trl.dpo, model: sft, rows: pairs}
"""


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def said(question: str, answer: str) -> dict[str, Any]:
    turns = [("user", question), ("assistant", answer)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


FILES = {
    "recipe.yaml": RECIPE,
    "far.py": STEPS,
    "rows.jsonl": lines(said("where is my card", "late"), said("hi\x1b[2J", "wrong")),
}


@pytest.fixture
def deep(project: MakeProject, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Check a project deeply, in this process: transformers is imported once for all tests."""

    def check(*args: str, template: str = CHATML, **files: str) -> Result:
        made = project({**FILES, **{name.replace("_", "."): text for name, text in files.items()}})
        model(made, template)
        monkeypatch.chdir(made.folder)
        return CliRunner().invoke(command, ["--deep", *args], standalone_mode=False)

    return check


def model(project: Project, template: str) -> None:
    """A model's folder with a tokenizer; its weights are good for nothing."""
    folder = project.folder / "tiny"
    tiny_tokenizer(template).save_pretrained(str(folder))
    (folder / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    header = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"0")


def test_what_is_light_is_built_and_nothing_else(deep: Callable[..., Result]) -> None:
    from finery.builder.plan import Planner, make_plan
    from finery.builder.project import open_graph, open_store

    deep("--rows", "0")
    recipe = Path("recipe.yaml")
    states = {
        p.node.name: p.state for p in make_plan(Planner(open_graph(recipe), open_store(recipe)))
    }
    assert states == {"base": "cached", "rows": "cached", "sft": "run"}


def test_notes_on_rows_are_shown(deep: Callable[..., Result]) -> None:
    ran = deep(rows_jsonl=lines(said("what is <|im_end|>?", "late")))
    assert ran.return_value == 0
    assert "  note: 1 of 1 rows have control tokens in their text" in ran.stdout


def test_json_has_a_line_for_each_data_set(deep: Callable[..., Result]) -> None:
    ran = deep(
        "--json",
        "-n",
        "1",
        recipe_yaml=RECIPE.replace("rows: rows}", "rows: rows, validation: rows}"),
    )
    first, *proofs = map(json.loads, ran.stdout.splitlines())
    assert first["recipe"] == "t"
    assert [(p["step"], p["use"], p["input"]) for p in proofs] == [
        ("sft", "trl.sft", "rows"), ("sft", "trl.sft", "validation"),
    ]  # fmt: skip
    assert proofs[0]["rows"] == 2
    assert proofs[0]["percentiles"]["99"] == proofs[0]["longest"]
    assert [p["loss"] for p in proofs[0]["samples"][0]["pieces"]] == [False, True]


def test_a_training_on_a_training_is_proven_on_the_model_under_both(
    deep: Callable[..., Result],
) -> None:
    pair = {"prompt": "hi", "chosen": "late", "rejected": "wrong"}
    recipe = RECIPE.partition("train:")[0] + PAIRS
    ran = deep("--json", recipe_yaml=recipe, pairs_jsonl=lines(pair))
    assert ran.return_value == 0, ran.output
    (dpo,) = [p for p in map(json.loads, ran.stdout.splitlines()) if p.get("step") == "dpo"]
    assert [p["label"] for p in dpo["samples"][0]["pieces"]] == ["", "chosen", "rejected"]


def test_all_failures_are_told_with_their_places(deep: Callable[..., Result]) -> None:
    recipe = RECIPE.replace("rows: rows}", "rows: rows, max_length: 8}")
    ran = deep(
        recipe_yaml=recipe + "  two: {use: trl.sft, model: base, rows: rows, max_length: 9}\n"
    )
    assert ran.return_value == 2
    assert "recipe.yaml:9:60: error: rows: 2 of 2 rows are longer than 8 tokens: " in ran.stderr
    assert "recipe.yaml:10:60: error: rows: 2 of 2 rows are longer than 9 tokens: " in ran.stderr
    assert ran.stderr.endswith("0 of 2 trainings verified, 2 errors\n")
    assert "⟦" not in ran.stdout


def test_a_template_at_fault_is_exit_code_1(deep: Callable[..., Result]) -> None:
    ran = deep(template=CHATML.replace("<|im_end|>", ""))
    assert ran.return_value == 1
    assert (
        "recipe.yaml:9:3: error: rows: an answer that doesn't end with an end-of-turn" in ran.stderr
    )


def test_a_model_far_away_is_sketched_and_no_lock_written(deep: Callable[..., Result]) -> None:
    ran = deep(recipe_yaml=RECIPE.replace("local.model, path: tiny", "far.model"))
    assert ran.return_value == 0, ran.output
    assert "⟦late<|im_end|>⟧" in ran.stdout
    assert not Path("recipe.lock").exists()


def test_rows_of_a_heavy_step_wait_for_its_build(deep: Callable[..., Result]) -> None:
    recipe = RECIPE.replace("train:", "  more: {use: far.slow, rows: rows}\ntrain:")
    recipe = recipe.replace("model: base, rows: rows", "model: base, rows: [rows, more]")
    ran = deep(recipe_yaml=recipe)
    assert ran.return_value == 0, ran.output
    assert "note: sft isn't verified with more, which isn't built yet" in ran.stdout
    assert "fix: finery build --step more" in ran.stdout
    assert re.search("sft: rows  trl.sft\n  rows +2 rows", ran.stdout)
    assert ran.stdout.endswith(
        "0 of 1 training verified, 1 partially: some inputs aren't built yet\n"
    )


@pytest.mark.parametrize("rows", ["[bad, worse]", "bad, validation: bad"])
def test_an_error_that_is_reached_by_two_ways_is_told_once(
    deep: Callable[..., Result], rows: str
) -> None:
    broken = "  bad: {use: far.broken, rows: rows}\n  worse: {use: far.broken, rows: rows}\ntrain:"
    recipe = RECIPE.replace("train:", broken)
    recipe = recipe.replace("model: base, rows: rows", f"model: base, rows: {rows}")
    ran = deep(recipe_yaml=recipe)
    assert ran.stderr.count("rows.jsonl:1: error: these rows are broken") == 1
    assert ran.stderr.endswith("0 of 1 training verified, 1 error\n")
    told = deep("--json", recipe_yaml=recipe).stdout.splitlines()
    errors = [line for line in map(json.loads, told) if "error" in line]
    assert len(errors) == len({json.dumps(e["error"]) for e in errors}) == 1
