"""`finery plugins`: what is installed, and what each step type takes."""

import json

import pytest
from conftest import MakeProject

from finery.plugin.manager import load_plugins
from finery.step.inspect import inputs_of

RECIPE = "finery: 1\nplugins: [steps.py]\n"
BUILT_IN = sorted(load_plugins().step_types)


def test_every_plugin_and_step_type_is_listed_with_its_first_line(project: MakeProject) -> None:
    ran = project({}).run("plugins")
    assert ran.code == 0
    plugins = load_plugins()
    for plugin in plugins.plugins:
        assert f"{plugin.name}  {plugin.origin}" in ran.out
    for name in plugins.step_types:
        first = (plugins.step_type(name).__doc__ or "").partition("\n")[0]
        assert any(line.split(maxsplit=1) == [name, first] for line in ran.out.splitlines())


def test_a_plugin_by_name_is_listed_alone(project: MakeProject) -> None:
    out = project({}).run("plugins", "data").out
    assert "data.file" in out
    assert "eval.exact" not in out


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_step_type_tells_all_it_takes(name: str, project: MakeProject) -> None:
    ran = project({}).here("plugins", name)
    assert ran.code == 0
    cls = load_plugins().step_type(name)
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"{name}  in ")
    for field, accepts in inputs_of(cls).items():
        assert any(line.split()[:1] == [field] and accepts.kind.kind in line for line in lines)
    for field in cls.__struct_fields__:
        assert any(line.split()[:1] == [field] for line in lines)


def test_required_settings_limits_and_defaults_are_told(project: MakeProject) -> None:
    out = project({}).run("plugins", "data.split").out
    assert "  rows  one or more Datasets; required\n" in out
    assert "  test           a number, at least 0, less than 1; default 0.2\n" in out


def test_settings_inside_settings_are_listed_with_type_default_and_help(
    project: MakeProject,
) -> None:
    lines = [line.strip() for line in project({}).run("plugins", "trl.sft").out.splitlines()]
    at = next(n for n, line in enumerate(lines) if line.startswith("lora.r "))
    assert lines[at].split(maxsplit=1)[1] == "a whole number, at least 1; default 16"
    assert lines[at + 1].startswith("Rank: ")
    names = {line.partition(" ")[0] for line in lines}
    assert {"lora.target_modules", "launch.processes", "seed", "needs"} <= names
    deep = project({"r.yaml": "finery: 1\nplugins: [deep.py]\n", "deep.py": DEEP})
    out = deep.run("plugins", "r.yaml", "d.a").out
    assert "  many[].inner[].x     a whole number; default 1\n" in out
    assert "  many[].inner[].more  " in out


DEEP = """
from finery import Dataset, Job, Settings, Step, hookimpl, setting

class Inner(Settings):
    x: int = setting(1, help="X.")
    more: "list[Inner]" = setting([], help="Itself.")

class Outer(Settings):
    inner: list[Inner] = setting([], help="Inner.")

class A(Step):
    "Deep."

    many: list[Outer] = setting([], help="Many.")

    def run(self, job: Job) -> Dataset: ...

@hookimpl
def finery_steps():
    return {"d.a": A}
"""


def test_an_unknown_step_type_points_at_the_plugins_of_a_recipe(project: MakeProject) -> None:
    fix = "recipe.yaml loads its own plugins: finery plugins recipe.yaml steps.halve"
    made = project({"recipe.yaml": RECIPE})
    assert fix in made.run("plugins", "steps.halve").err
    assert made.run("plugins", "recipe.yaml", "steps.halve").code == 0
    assert made.run("plugins", "steps.halve", "recipe.yaml").code == 0
    (made.folder / "recipe.yaml").unlink()
    assert "finery plugins RECIPE steps.halve" in made.run("plugins", "steps.halve").err


def test_plugin_files_of_a_recipe_are_listed_with_it(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE})
    assert "steps.halve" not in made.run("plugins").out
    out = made.run("plugins", "-r", "recipe.yaml").out
    assert "steps  steps.py" in out
    assert "steps.halve            The rows in two halves." in out


def test_json_has_a_line_a_plugin(project: MakeProject) -> None:
    lines = project({}).run("plugins", "--json").out.splitlines()
    found = {row["plugin"]: row for row in map(json.loads, lines)}
    assert {"data.file", "data.split"} <= set(found["data"]["steps"])
    assert set(found["gguf"]) == {"plugin", "from", "steps", "engines", "commands"}


def test_json_of_a_step_type_is_its_schema(project: MakeProject) -> None:
    found = json.loads(project({}).run("plugins", "data.file", "--json").out)
    assert found["step_type"] == "data.file"
    assert found["schema"]["properties"]["take"]["anyOf"][0]["minimum"] == 1


def test_an_unknown_name_gets_a_suggestion(project: MakeProject) -> None:
    ran = project({}).run("plugins", "data.fil")
    assert ran.code == 2
    assert (
        "plugin or step type 'data.fil' was not found\n  fix: did you mean 'data.file'?" in ran.err
    )


FAULTY = '''
import numpy
from finery import About, Dataset, Job, Settings, Step, hookimpl, setting

class Group(Settings):
    inside: int = setting(1)

class Lame(Step, seeded=False, traceable="nowhere:Places", metrics="json:dumps"):
    """A step."""

    rows: Dataset
    group: Group = setting(Group(), help="More settings.")

    def run(self, job: Job) -> Dataset: ...

class Silent(Step):
    def run(self, job: Job) -> Dataset: ...

@hookimpl
def finery_steps():
    return {"faulty.lame": Lame, "faulty.silent": Silent, "other.lame": Lame, "faulty.gone": "a:B"}

@hookimpl
def finery_engines():
    return {"faulty": Group}

@hookimpl
def finery_views():
    return {"Model/faulty": Group}

@hookimpl
def finery_executors():
    return {"faulty": Group}

@hookimpl
def finery_notes():
    return {"faulty": About(when="", why="")}
'''


def test_what_is_installed_is_fine(project: MakeProject) -> None:
    ran = project({}).run("plugins", "--check")
    plugins = len(load_plugins().plugins)
    assert (ran.code, ran.out.splitlines()[-1]) == (0, f"{plugins} plugins, 0 problems"), ran.out


def test_problems_of_a_plugin_are_found(project: MakeProject) -> None:
    made = project({"recipe.yaml": "finery: 1\nplugins: [faulty.py]\n", "faulty.py": FAULTY})
    ran = made.run("plugins", "faulty", "--check", "-r", "recipe.yaml")
    assert ran.code == 1
    for problem in (
        "its module: has no docstring",
        "step type 'faulty.lame': setting 'group.inside' has no help",
        "step type 'faulty.lame': traceable='nowhere:Places' of faulty.py:Lame can't be loaded",
        "step type 'faulty.lame': metrics='json:dumps' of faulty.py:Lame isn't a mapping",
        "step type 'faulty.silent': faulty.py:Silent has no docstring",
        "step type 'other.lame': isn't named after its plugin",
        "step type 'faulty.gone': can't be loaded from 'a:B'",
        "engine 'faulty': faulty.py:Group isn't an Engine",
        "view 'Model/faulty': faulty.py:Group isn't a View",
        "executor 'faulty': faulty.py:Group has no method `has_room`",
        "note 'faulty': doesn't say when it is given and why",
        "its module: faulty.py imports numpy when loaded",
    ):
        assert problem in ran.out
    lines = made.run("plugins", "faulty", "--check", "-r", "recipe.yaml", "--json").out
    (found,) = map(json.loads, lines.splitlines())
    assert found.keys() == {"plugin", "from", "problems"}
    assert {"subject", "what", "fix"} == found["problems"][0].keys()


def test_a_broken_plugin_is_a_problem_beside_the_others(project: MakeProject) -> None:
    made = project({"recipe.yaml": "finery: 1\nplugins: [bad.py]\n", "bad.py": "import nowhere\n"})
    ran = made.run("plugins", "--check", "-r", "recipe.yaml")
    assert ran.code == 1
    assert "the plugin: plugin file fails on import: ModuleNotFoundError" in ran.out
    assert "fix: repair it" in ran.out
    assert f"{len(load_plugins().plugins) + 1} plugins, 1 problem" in ran.out
