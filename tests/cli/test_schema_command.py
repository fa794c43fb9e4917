"""`finery schema`: what editors and `schemas/` are made of."""

import json

from conftest import MakeProject
from jsonschema import Draft202012Validator

from finery.plugin.manager import load_plugins

RECIPE = "finery: 1\nplugins: [steps.py]\n"


def test_the_schema_of_recipes_is_printed(project: MakeProject) -> None:
    schema = json.loads(project({}).run("schema").out)
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == "finery recipe"
    assert "data.file" in schema["$defs"]


def test_the_schema_of_one_step_type_is_printed(project: MakeProject) -> None:
    schema = json.loads(project({}).run("schema", "data.split").out)
    assert schema["required"] == ["use", "rows"]


def test_plugin_files_of_a_recipe_are_in_its_schema(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE})
    assert "steps.copy" in json.loads(made.run("schema", "-r", "recipe.yaml").out)["$defs"]


def test_all_schemas_are_written_and_checked(project: MakeProject) -> None:
    made = project({"schemas/gone.step.schema.json": "{}", "schemas/README.md": "Hello."})
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
    assert "out: error: stale: data.file.schema.json, data.split.schema.json" in ran.err
    assert "fix: finery schema --all out" in ran.err
    assert not (made.folder / "out/data.split.schema.json").exists()


def test_an_unknown_step_type_gets_a_suggestion(project: MakeProject) -> None:
    ran = project({}).run("schema", "data.fil")
    assert ran.code == 2
    assert "unknown step type 'data.fil'\n  fix: did you mean 'data.file'?" in ran.err
