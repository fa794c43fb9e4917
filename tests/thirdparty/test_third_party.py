"""A plugin from another distribution is found, used and reported exactly as the built-in ones."""

import json
from pathlib import Path

import pytest
from conftest import MakeProject, Project
from installing import THIRD_PARTY, install, with_site

SOURCE = THIRD_PARTY / "finery-probe"
RECIPE = """\
finery: 1
name: t
plugins: [./steps.py]
data:
  a: {use: steps.source, path: rows.txt}
  long: {use: probe.min_length, rows: a, characters: 4}
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin installed in it, as pip installs it."""
    return install(SOURCE, tmp_path_factory.mktemp("probe"))


@pytest.fixture
def t(project: MakeProject, site: Path) -> Project:
    """A project that uses the plugin, which is installed for it alone."""
    files = {"recipe.yaml": RECIPE, "rows.txt": "one\nthree\nseven\n"}
    return with_site(project(files), site)


def test_it_is_listed_like_the_others(t: Project) -> None:
    out = t.run("plugins").out
    assert "probe  finery-probe 0.3.1, API 1\n  probe.min_length " in out
    assert "Keep the rows whose prompt is long enough." in out
    assert "command probe" in out
    lines = [json.loads(line) for line in t.run("plugins", "--json").out.splitlines()]
    (mine,) = [line for line in lines if line["plugin"] == "probe"]
    builtin = next(line for line in lines if line["plugin"] == "data")
    assert mine.keys() == builtin.keys()
    assert mine["from"] == "finery-probe 0.3.1"


@pytest.mark.parametrize(
    "command", [["check"], ["plan"], ["build"], ["show", "a"], ["explain", "a"]]
)
def test_a_recipe_says_what_must_be_installed(t: Project, command: list[str]) -> None:
    requires = ["finery-spans>=1", "Finery_Probe>=2", "finery probe", "finery-probe"]
    unmet = [f"  - {each}\n" for each in [*requires, "nobody ; python_version < '3'"]]
    t.edit("recipe.yaml", "name: t\n", f"name: t\nrequires:\n{''.join(unmet)}")
    ran = t.run(*command)
    assert ran.code == 2
    assert [line for line in ran.err.splitlines() if "error: " in line] == [
        "recipe.yaml:4:5: error: the recipe requires finery-spans>=1, which isn't installed",
        "recipe.yaml:5:5: error: the recipe requires Finery_Probe>=2, but finery-probe 0.3.1 is "
        "installed",
        "recipe.yaml:6:5: error: 'finery probe' isn't a requirement",
    ]
    assert "fix: pip install 'finery-spans>=1'" in ran.err
    t.edit("recipe.yaml", "".join(unmet[:3]), "")
    assert t.run("check").code == 0


def test_the_lock_has_its_version(t: Project) -> None:
    """Of the plugins that the recipe uses, and only of those that aren't finery's."""
    assert t.run("build").code == 0
    lock = t.folder / "recipe.lock"
    assert "plugin finery-probe: 0.3.1" in lock.read_text()
    assert "finery-probe" not in t.run("check").out
    lock.write_text(lock.read_text().replace("0.3.1", "0.2.0"))
    text = "finery-probe 0.3.1 is installed, and recipe.lock has 0.2.0"
    assert text in t.run("check").out
    assert "plugin-version" in t.run("plan").out
    t.edit("recipe.yaml", "characters: 4", "characters: 5")
    built = t.run("build")
    assert built.code == 0
    assert text in built.out + built.err
    assert "0.2.0" in lock.read_text()
    assert t.run("build", "--update-lock").code == 0
    assert "plugin finery-probe: 0.3.1" in lock.read_text()


def test_its_settings_are_described_and_in_the_schema(t: Project) -> None:
    assert "Shortest prompt kept, in characters." in t.run("plugins", "probe.min_length").out
    schema = json.loads(t.run("schema").out)
    step = schema["$defs"]["probe.min_length"]["properties"]
    assert (step["characters"]["default"], step["characters"]["minimum"]) == (20, 1)
    assert json.loads(t.run("schema", "probe.min_length").out)["required"] == ["use", "rows"]
    wrong = t.run("check", "--set", "data.long.charcters=3")
    assert wrong.code == 2
    assert "did you mean 'characters'?" in wrong.err


def test_its_step_is_built_and_every_step_is_wrapped(t: Project) -> None:
    events = t.events()
    assert [r["prompt"] for r in t.rows("long")] == ["three", "seven"]
    timed = [(e["step"], e["name"]) for e in events if e["event"] == "step_metric"]
    assert timed == [("a", "probe_seconds"), ("long", "probe_seconds")]
    notes = [e["message"] for e in events if e["event"] == "step_log"]
    assert notes == ["probe timed Source", "probe timed MinLength"]


def test_its_hooks_are_called_in_every_build(t: Project) -> None:
    notes = t.folder / "notes"
    t.env["PROBE_NOTES"] = str(notes)
    assert t.run("build").code == 0
    assert notes.read_text().splitlines() == [
        "build started 2", "started a steps.source", "finished a steps.source ran",
        "started long probe.min_length", "finished long probe.min_length ran",
        "build finished True",
    ]  # fmt: skip
    notes.unlink()
    assert t.run("build").code == 0
    assert notes.read_text().splitlines() == [
        "build started 2", "finished a steps.source cached",
        "finished long probe.min_length cached", "build finished True",
    ]  # fmt: skip
    notes.unlink()
    t.edit("recipe.yaml", "name: t", "name: t\nmodels: {x: {use: steps.outside, path: nothing}}")
    t.write({"nothing": ""})
    t.edit("steps.py", "weights = self.path.paths[0]", "raise ValueError('no')")
    assert t.run("build").code == 1
    assert "failed x steps.outside StepError" in notes.read_text()
    assert "build finished False" in notes.read_text()


def test_its_command_and_its_advice(t: Project) -> None:
    done = t.run("probe", "rows.txt")
    assert (done.code, done.out) == (0, "3 lines\n")
    assert t.run("probe", "nowhere").code == 2
    assert "Count the lines of FILE." in t.run("--help").out
    assert "note: probe: say which seed you want" in t.run("check").out


def edit(t: Project, name: str, old: str, new: str) -> None:
    """Change a file of the installed plugin."""
    t.edit(f"site/finery_probe/{name}", old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("lengths.py", 'len(row["prompt"])', 'len(row["prompt"]) - 1'),
        ("lengths.py", '"""Characters of the prompt."""', '"""How long the prompt is."""'),
        ("steps.py", "        return Dataset", "        # all of them\n        return Dataset"),
        ("commands.py", "lines", "rows"),
    ],
)
def test_each_of_its_files_is_part_of_the_key(t: Project, name: str, old: str, new: str) -> None:
    assert t.ran() == ["a", "long"]
    edit(t, name, old, new)
    assert f"code finery-probe: finery_probe/{name} changed" in t.run("plan").out
    assert t.ran() == ["long"]
    assert t.ran() == []


def test_a_hook_around_every_step_is_part_of_all_keys(t: Project) -> None:
    edit(t, "__init__.py", "@outside_key\n", "")
    assert t.ran() == ["a", "long"]
    edit(t, "__init__.py", "- began, 1)", "- began, 2)")
    assert t.ran() == ["a", "long"]
    assert "code finery-probe (wrapper probe)" in t.run("explain", "a").out


def test_its_version_is_part_of_the_key(t: Project) -> None:
    assert t.ran() == ["a", "long"]
    site = t.folder / "site"
    (site / "finery_probe-0.3.1.dist-info").rename(site / "finery_probe-0.4.0.dist-info")
    assert t.ran() == ["long"]
    out = t.run("explain", "long").out
    assert "package finery-probe  0.3.1 → 0.4.0" in out


@pytest.mark.parametrize(("name", "old", "new", "says"), [
    ("__init__.py", "def finery_steps(", "def finery_stepss(", ["did you mean 'finery_steps'?"]),
    ("__init__.py", "(graph: Any,", "(graf: Any,", ["graf"]),
    ("__init__.py", "import time", "import timely", ["timely", "finery.probe = finery_probe"]),
    ("__init__.py", '"probe.min_length": "', '"data.file": "', ["'data.file' is provided twice"]),
    ("steps.py", "import Dataset,", "import Datasets,", ["probe.min_length"]),
    ("steps.py", 'help="Shortest prompt kept, in characters."', 'help=""', ["has no help"]),
])  # fmt: skip
def test_a_broken_plugin_is_named_by_distribution_and_entry_point(
    t: Project, name: str, old: str, new: str, says: list[str]
) -> None:
    edit(t, name, old, new)
    for command in ("check", "build"):
        code, out, err = t.run(command)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        for text in ["probe", *says, *(["finery-probe 0.3.1"] if name == "__init__.py" else [])]:
            assert text in err
