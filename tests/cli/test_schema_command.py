"""`finery schema`: what editors and `schemas/` are made of."""

import json

import pytest
import yaml
from conftest import MakeProject, Project, until
from jsonschema import Draft202012Validator

from finery.plugin.manager import load_plugins
from finery.recipe.editor import recipe_schema

RECIPE = "finery: 1\nplugins: [steps.py]\n"


def test_the_schema_of_recipes_is_printed(project: MakeProject) -> None:
    schema = json.loads(project({}).run("schema").out)
    assert schema == recipe_schema(load_plugins())


def test_plugin_files_of_a_recipe_are_in_its_schema(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE})
    for args in (["-r", "recipe.yaml", "--print"], ["recipe.yaml", "--print"]):
        assert "steps.copy" in json.loads(made.run("schema", *args).out)["$defs"]
    assert json.loads(made.run("schema", "recipe.yaml", "steps.copy").out)["required"] == [
        "use", "rows",
    ]  # fmt: skip


NAMED = """\
# yaml-language-server: $schema=recipe.schema.json
finery: 1
name: t
plugins: [./steps.py]
models:
  base: {use: hub.model, repo: a/b}
data:
  a: {use: steps.source, path: rows.txt}
  halves: {use: steps.halve, rows: a}
train:
  sft: {use: trl.sft, model: base, rows: halves.first, watch: {use: eval.exact, rows: a}}
  grpo:
    use: trl.grpo
    model: base
    rows: halves.first
    reward: [{use: eval.exact}, {use: eval.rules, rules: {short: {max_words: 3}}}]
evaluate:
  test: {use: eval.exact, models: [base, sft], rows: a, require: {sft.accuracy: ">= 0.5"}}
"""


def mistakes(made: Project, old: str = "", new: str = "") -> list[str]:
    """What the schema file says of the recipe with a change."""
    schema = json.loads((made.folder / "recipe.schema.json").read_text())
    text = (made.folder / "recipe.yaml").read_text()
    assert old in text
    errors = Draft202012Validator(schema).iter_errors(yaml.safe_load(text.replace(old, new)))
    return [error.message for error in errors]


@pytest.fixture
def named(project: MakeProject) -> Project:
    """A recipe with its schema."""
    made = project({"recipe.yaml": NAMED, "rows.txt": "one\ntwo\n"})
    ran = made.run("schema", "recipe.yaml")
    assert (ran.code, ran.out) == (0, "recipe.schema.json is up to date\n")
    return made


@pytest.mark.parametrize(("old", "new", "says"), [
    ("rows: halves.first", "rows: halves.lft", "not valid under any"),
    ("model: base", "model: a", "'a' is not one of ['base', 'sft'"),
    ("rows: a}}", "rows: b}}", "'b' is not one of ['a', 'halves.first', 'halves.second']"),
    ("{sft.accuracy", "{stf.accuracy", "'stf.accuracy' was unexpected"),
    ("max_words: 3", "words: 3", "not valid under any"),
    ("name: t", "name: t\nsilence: [sft/epoch]", "'sft/epoch' is not one of"),
])  # fmt: skip
def test_a_recipes_schema_knows_its_names_by_kind(
    named: Project, old: str, new: str, says: str
) -> None:
    assert mistakes(named) == []
    assert [m for m in mistakes(named, old, new) if says in m]


def test_check_keeps_an_existing_schema_up_to_date(named: Project) -> None:
    named.edit("recipe.yaml", "train:", "  more: {use: steps.copy, rows: a}\ntrain:")
    assert mistakes(named, "rows: halves.first", "rows: more")
    named.run("check")
    assert mistakes(named, "rows: halves.first", "rows: more") == []
    (named.folder / "recipe.schema.json").unlink()
    named.run("check")
    assert not (named.folder / "recipe.schema.json").exists()


def test_what_an_editor_shows_has_no_names_of_python(named: Project) -> None:
    schema = json.loads((named.folder / "recipe.schema.json").read_text())
    for part in (schema["properties"], schema["$defs"]["trl.sft"]):
        Draft202012Validator.check_schema(part)
    sft = schema["$defs"]["trl.sft"]["properties"]
    assert sft["lora"]["title"] == "lora"
    assert sft["epochs"]["description"].endswith("\n\nDefault: 3")
    assert "title" not in schema["$defs"]["trl.sft.Lora"]
    assert schema["properties"]["train"]["properties"]["sft"]["title"] == "sft (trl.sft)"
    assert "\n   " not in schema["$defs"]["trl.sft"]["description"]


def test_another_file_is_not_overwritten_and_a_shared_schema_stays(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE, "recipe.schema.json": "{}"})
    ran = made.run("schema", "recipe.yaml")
    assert ran.code == 2
    assert "recipe.schema.json is not a recipe's schema, and finery doesn't overwrite it" in ran.err
    assert (made.folder / "recipe.schema.json").read_text() == "{}"
    shared = f"# yaml-language-server: $schema=../shared.json\n{RECIPE}".replace(
        "steps", "../steps"
    )
    made.write({"sub/recipe.yaml": shared, "shared.json": "{}"})
    ran = made.run("schema", "sub")
    assert ran.code == 0
    assert "# yaml-language-server: $schema=recipe.schema.json" in ran.out
    assert (made.folder / "shared.json").read_text() == "{}"


def test_watch_follows_the_recipe(named: Project) -> None:
    process = named.start("schema", "recipe.yaml", "--watch")
    try:
        out = process.stdout
        assert out is not None
        until(lambda: "Watching" in out.readline())
        named.edit("recipe.yaml", "train:", "  more: {use: steps.copy, rows: a}\ntrain:")
        until(lambda: mistakes(named, "rows: halves.first", "rows: more") == [])
    finally:
        process.kill()
        process.communicate()


def test_all_schemas_are_written_and_checked(project: MakeProject) -> None:
    gone = '{"properties": {"use": {}, "needs": {}, "seed": {}, "env": {}}}'
    made = project({"schemas/gone.step.schema.json": gone, "schemas/README.md": "Hello."})
    count = len(load_plugins().step_types) + 1
    assert made.run("schema", "--all").out == f"{count} schemas in schemas\n"
    names = {p.name for p in (made.folder / "schemas").iterdir()}
    assert {"recipe.schema.json", "data.file.schema.json", "README.md"} <= names
    assert "gone.step.schema.json" not in names
    assert made.run("schema", "--all", "--check").code == 0


def test_stale_schemas_fail_the_check_and_stay(project: MakeProject) -> None:
    made = project({})
    made.run("schema", "--all", "out")
    made.edit("out/data.file.schema.json", '"object"', '"array"')
    (made.folder / "out/data.split.schema.json").unlink()
    ran = made.run("schema", "--all", "out", "--check")
    assert ran.code == 2
    assert "out: error: out of date: data.file.schema.json, data.split.schema.json" in ran.err
    assert "fix: finery schema --all out" in ran.err
    assert not (made.folder / "out/data.split.schema.json").exists()


@pytest.mark.parametrize(("args", "fault"), [
    (["--check"], "--check needs --all"),
    (["--print"], "--print is for the schema of one recipe"),
])  # fmt: skip
def test_an_option_without_effect_is_refused(
    project: MakeProject, args: list[str], fault: str
) -> None:
    made = project({"recipe.yaml": RECIPE})
    ran = made.run("schema", *args)
    assert (ran.code, ran.out) == (2, "")
    assert fault in ran.err
    assert not (made.folder / "out").exists()
