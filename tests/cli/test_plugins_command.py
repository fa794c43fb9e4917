"""`finery plugins`: what is installed, and what each step type takes."""

import json
import subprocess
import sys

import pytest
from conftest import MakeProject

from finery.cli.commands.plugins import command
from finery.plugin.manager import load_plugins
from finery.step.inspect import inputs_of

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


def test_json_has_a_line_a_plugin(project: MakeProject) -> None:
    lines = project({}).run("plugins", "--json").out.splitlines()
    found = {row["plugin"]: row for row in map(json.loads, lines)}
    assert {"data.file", "data.split"} <= set(found["data"]["steps"])
    assert set(found["gguf"]) == {"plugin", "from", "apis", "steps", "engines", "commands"}


def test_an_unknown_name_gets_a_suggestion(project: MakeProject) -> None:
    ran = project({}).run("plugins", "data.fil")
    assert ran.code == 2
    assert (
        "plugin or step type 'data.fil' was not found\n  fix: did you mean 'data.file'?" in ran.err
    )


FAULTY = '''
import numpy
from finery import Dataset, Job, Settings, Step, hookimpl, setting
from finery.advanced import About

class Group(Settings):
    inside: int = setting(1)

class Lame(Step, seeded=False, metrics="json:dumps"):
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


PRINTS = """\
from finery import hookimpl


@hookimpl
def finery_checks(graph, results):
    print("said by a hook")
    return []
"""
RECIPE = "finery: 1\nname: t\nplugins: [p.py]\ndata:\n  r: {use: data.file, path: rows.jsonl}\n"
ROWS = '{"prompt": "a", "completion": "b"}\n'


def test_what_a_hook_prints_is_apart_from_json(project: MakeProject) -> None:
    ran = project({"recipe.yaml": RECIPE, "p.py": PRINTS, "rows.jsonl": ROWS}).run(
        "check", "--json"
    )
    assert json.loads(ran.out)["steps"] == 1
    assert "said by a hook" in ran.err


def test_a_module_that_replaces_a_library_is_an_error_in_words(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE, "mine/yaml/__init__.py": ""})
    env = {**made.environment(), "PYTHONPATH": str(made.folder / "mine")}
    ran = subprocess.run(
        [sys.executable, "-m", "finery", "plan"], cwd=made.folder, env=env, capture_output=True,
        text=True,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "Traceback" not in ran.stderr
    assert "PYTHONPATH has a module 'yaml'" in ran.stderr


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


def test_in_a_terminal_no_line_is_cut_and_words_stay_whole(
    project: MakeProject, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = project({}).here("--help").out.partition("Commands:\n")[2]
    assert "..." not in commands
    assert all(len(line) <= 80 for line in commands.splitlines())
    monkeypatch.setattr("finery.cli.console.is_terminal", lambda stream: True)
    monkeypatch.setenv("COLUMNS", "60")
    for arguments in ([], ["data.validate"]):
        command.main(arguments, standalone_mode=False)
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 60
    items = [line for line in lines if line.startswith(("- ", "  "))]
    assert items[0] == "- `size`: more bytes than `max_bytes`. Such a row isn't"
    assert items[1] == "  checked any further."
