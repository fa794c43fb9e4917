"""Plugins: how hooks are found and called, and what becomes of those that are broken."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import TWO_STEPS, MakeProject, Project
from installing import write_plugin

from finery.plugin import manager

RECIPE = """
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
"""


@pytest.fixture
def t(project: MakeProject) -> Project:
    """A project of one step."""
    return project({"recipe.yaml": RECIPE, "rows.txt": "one\n"})


def listed(t: Project) -> dict[str, Mapping[str, object]]:
    """Plugin → its line in `finery plugins --json`."""
    lines = t.run("plugins", "--json").out.splitlines()
    return {line["plugin"]: line for line in map(json.loads, lines)}


# -- what an import does besides ------------------------------------------------------------------


NOISE = """
import os, subprocess
print("one")
os.write(1, b"two\\n")
subprocess.run(["echo", "three"])
"""
THREAD = (
    "import threading, time\nthreading.Thread(target=time.sleep, args=[{}], name='beat').start()\n"
)


def test_what_a_plugin_prints_on_import_is_not_in_the_output(t: Project) -> None:
    write_plugin(t, "loud", NOISE)
    t.edit("steps.py", "import random", f"import random\n{NOISE}")
    for command in (["plan"], ["build"], ["check"], ["explain", "a"]):
        code, out, err = t.run(*command, "--json")
        assert code == 0
        assert all(json.loads(line) for line in out.splitlines())
        assert out
        assert [err.count(f"{word}\n") for word in ("one", "two", "three")] == [2, 2, 2]


def test_a_thread_of_a_plugin_does_not_keep_finery_from_ending(t: Project) -> None:
    def ends(plugin: str, **codes: int) -> None:
        """At once, since each waits for the thread."""
        started = {command: t.start(*command.split()) for command in codes}
        for command, process in started.items():
            out, err = process.communicate(timeout=120)
            assert process.returncode == codes[command]
            assert out or command not in ("plan", "show")
            assert f"warning: {plugin} started the thread 'beat', which still runs" in err

    t.write({"loud.py": THREAD.format(1000)})
    t.edit("recipe.yaml", "[./steps.py]", "[./steps.py, ./loud.py]")
    ends("plugin file loud.py", build=0)
    ends("plugin file loud.py", **{"plan": 0, "show": 0, "explain x": 2})
    t.edit("recipe.yaml", "[./steps.py, ./loud.py]", "[./steps.py]")
    write_plugin(t, "busy", THREAD.format(1000))
    ends("plugin 'busy' of shop-busy 1.5", check=0)


def test_a_thread_of_a_plugin_may_end_by_itself(t: Project) -> None:
    t.edit("steps.py", "import random", f"import random\n{THREAD.format(0.3)}")
    process = t.start("check")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "recipe.yaml is valid: 1 step\n", "")


# -- hooks ----------------------------------------------------------------------------------------


ENVIRONMENT = """
@hookimpl
def finery_worker_environment(use, alone):
    return {"SHOP": f"{use} {alone}", "KEPT": "no"}
"""


def test_plugins_add_to_the_environment_of_new_workers(t: Project) -> None:
    write_plugin(t, "env", ENVIRONMENT)
    t.env["KEPT"] = "yes"
    code = "rows.append({'prompt': os.environ['SHOP'] + os.environ['KEPT']})"
    steps = {"a": {"use": "steps.script", "code": code}, "b": {"use": "steps.alone", "code": code}}
    t.write({"recipe.yaml": f"finery: 1\nname: t\nplugins: [steps.py]\ndata: {json.dumps(steps)}"})
    assert t.ran("--jobs", "1") == ["a", "b"]
    prompts = [t.rows(step)[0]["prompt"] for step in "ab"]
    assert prompts == ["steps.script Falseyes", "steps.alone Trueyes"]


# -- executors and commands -----------------------------------------------------------------------

EXECUTORS = """
@hookimpl
def finery_executors():
    return {"here": "in_process:Here"}
"""


def test_an_executor_comes_from_a_plugin(t: Project) -> None:
    write_plugin(t, "here", EXECUTORS)
    t.env["PYTHONPATH"] += f"{os.pathsep}{Path(__file__).parent.parent}"
    code, _, err = t.run("build", "--executor", "there")
    assert code == 2
    assert "executor 'there' was not found\n  fix: did you mean 'here'?" in err
    assert t.run("build", "--executor", "here").code == 0
    assert [row["prompt"] for row in t.rows("a")] == ["one"]


def test_a_command_cannot_take_the_name_of_a_built_in_one(t: Project) -> None:
    write_plugin(
        t, "loud", '@hookimpl\ndef finery_commands():\n    return {"build": "shop_loud:x"}\n'
    )
    code, _, err = t.run("build")
    assert code == 0
    assert "'build' is provided twice: by plugin 'finery' (finery 0" in err
    assert "by plugin 'loud' (shop-loud 1.5); finery goes on without it" in err
    code, out, err = t.run("--help")
    assert code == 0
    assert "Build " in out
    assert "warning: 'build' is provided twice" in err


# -- broken plugins -------------------------------------------------------------------------------

PROVIDER = """
import nosuchlibrary

@hookimpl
def finery_steps():
    return {"odd.step": "shop_odd:Step"}
"""
WRAPPER = """
import nosuchlibrary

@hookimpl(wrapper=True)
def finery_run_step(step, job):
    return (yield)
"""


def test_a_broken_plugin_is_listed_as_broken_and_the_others_are_shown(t: Project) -> None:
    write_plugin(t, "odd", PROVIDER)
    code, out, err = t.run("plugins")
    assert (code, err) == (0, "")
    assert "data.file" in out
    assert "odd  shop-odd 1.5\n  broken: plugin 'odd' of shop-odd 1.5 fails on import" in out
    assert "pip uninstall shop-odd" in out
    lines = listed(t)
    assert "broken" not in lines["data"]
    assert "nosuchlibrary" in str(lines["odd"]["broken"])
    assert "broken:" in t.run("plugins", "odd").out


def test_a_step_type_that_cannot_be_loaded_is_listed_as_broken(t: Project) -> None:
    write_plugin(t, "odd", PROVIDER.replace("import nosuchlibrary", ""))
    out = t.run("plugins").out
    assert "  odd.step               broken: step type 'odd.step' of plugin 'odd'" in out
    assert "trl.sft" in out


def test_a_step_type_that_cannot_be_loaded_stops_no_recipe_without_it(t: Project) -> None:
    write_plugin(t, "odd", PROVIDER.replace("import nosuchlibrary", ""))
    assert t.run("init", "new").code == 0
    assert t.run("schema", "new/recipe.yaml").code == 0
    schema = json.loads((t.folder / "new/recipe.schema.json").read_text())
    assert "data.file" in schema["$defs"]
    assert "odd.step" not in schema["$defs"]
    assert t.run("check", "new").code == 0
    t.edit("new/recipe.yaml", "baseline.linear", "odd.step")
    code, _, err = t.run("check", "new")
    assert code == 2
    assert "step type 'odd.step' of plugin 'odd' (shop-odd 1.5) can't be loaded" in err


def test_a_broken_plugin_that_a_recipe_does_not_use_is_left_out_with_a_warning(t: Project) -> None:
    write_plugin(t, "odd", PROVIDER)
    for command in ("check", "plan", "build"):
        code, _, err = t.run(command)
        assert code == 0
        assert "warning: plugin 'odd' of shop-odd 1.5 fails on import: " in err
        assert "; finery goes on without it (see finery plugins)\n" in err
    assert t.run("--help").code == 0
    again = t.run("build").err
    assert "nothing to do" in again
    assert "finery goes on without it (see finery plugins)" in again


def test_a_recipe_that_uses_a_broken_plugin_fails_with_its_error(t: Project) -> None:
    write_plugin(t, "odd", PROVIDER)
    t.edit("recipe.yaml", "data:", "data:\n  b: {use: odd.step}")
    for command in ("check", "plan", "build"):
        code, _, err = t.run(command)
        assert code == 2
        assert "plugin 'odd' of shop-odd 1.5 fails on import: ModuleNotFoundError" in err
        assert "unknown step type" not in err
        assert "warning" not in err


def test_an_unknown_step_type_leads_to_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index.txt"
    index.write_text("# prefix distribution\nspans finery-spans\n")
    lines = manager.INDEX_FILE.read_text("utf-8").splitlines()
    assert all(line.startswith("#") or len(line.split()) == 2 for line in lines)
    monkeypatch.setattr(manager, "INDEX_FILE", index)
    assert manager.Plugins().suggest("spans.f1") == "pip install finery-spans"
    assert "install the plugin with 'span.*'" in manager.Plugins().suggest("span.f1")


@pytest.mark.parametrize(
    "code",
    [
        WRAPPER,
        WRAPPER.replace("import nosuchlibrary", "").replace("(step, job)", "(step, task)"),
        "@hookimpl\ndef finery_run_stop(step, job): ...\n",
    ],
)
def test_a_broken_plugin_that_acts_in_every_build_stops_builds(t: Project, code: str) -> None:
    write_plugin(t, "odd", code)
    for command in ("check", "plan", "build"):
        exit_code, _, err = t.run(command)
        assert exit_code == 2
        assert "plugin 'odd'" in err
    assert t.run("plugins").code == t.run("schema").code == 0


REPLACES = """

@hookimpl
def finery_run_step(step, job):
    return Dataset.write(job.out, [{"prompt": "mine"}])
"""


def test_a_hook_that_is_not_a_wrapper_cannot_replace_a_step(project: MakeProject) -> None:
    t = project({"recipe.yaml": TWO_STEPS, "rows.txt": "one\n"})
    t.write({"steps.py": (t.folder / "steps.py").read_text() + REPLACES})
    (event,) = [e for e in t.events() if e["event"] == "step_failed"]
    assert event["error"]["what"] == (
        "finery_run_step of plugin 'steps' (steps.py) returned a value, so the step didn't run"
    )
    t.edit("steps.py", 'return Dataset.write(job.out, [{"prompt": "mine"}])', "job.log('starts')")
    assert t.ran() == ["a", "b"]
