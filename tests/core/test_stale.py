"""No stale result is served: what a change of code in other files than the step's own reruns.

Each through the real command, in a project that is built.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from blake3 import blake3
from conftest import MakeProject, Project, until

import finery
from finery.builder.plan import Planner
from finery.builder.project import open_graph, open_store
from finery.step.inspect import joint_key
from finery.util.files import FINE_NS

PLUGIN = """
{imports}
from finery import Dataset, Job, Model, File, Step, hookimpl, setting

class Read(Step, seeded=False):
    \"\"\"Rows from a file.\"\"\"

    path: File = setting(help="The file.")

    def run(self, job: Job) -> Dataset:
        {inside}
        return Dataset.write(job.out, [dict(prompt=change(l)) for l in self.path.path.open()])

class Train(Step, seeded=False):
    \"\"\"A model that knows its rows by heart.\"\"\"

    rows: Dataset

    def run(self, job: Job) -> Model:
        (job.out / "rows").write_text("".join(sorted(r["prompt"] for r in self.rows)))
        return Model(job.out, meta=dict(format="heart"))

@hookimpl
def finery_steps():
    return {{"own.read": Read, "own.train": Train}}
"""
RECIPE = """
finery: 1
name: t
plugins: [{plugin}]
data: {{a: {{use: own.read, path: rows.txt}}}}
train: {{m: {{use: own.train, rows: a}}}}
"""
HELPER = "def change(line): return line.strip()\n"
FOLDER = "import sys, pathlib; sys.path.insert(0, str(pathlib.Path(__file__).parent))\n"


def prompts(t: Project) -> list[str]:
    """What step a made of the rows."""
    return [row["prompt"] for row in t.rows("a")]


def make(
    project: MakeProject, imports: str = "", inside: str = "", plugin: str = "./own.py",
    **files: str,
) -> Project:  # fmt: skip
    """A project with a plugin file that imports what changes its rows; built."""
    text = PLUGIN.format(imports=imports, inside=inside)
    named = {name.replace("__", "/") + ".py": content for name, content in files.items()}
    t = project({
        "recipe.yaml": RECIPE.format(plugin=plugin), "rows.txt": "One\n", plugin: text, **named,
    })  # fmt: skip
    assert t.ran() == ["a", "m"], t.run("build").err
    assert prompts(t) == ["One"]
    return t


@pytest.mark.parametrize(
    ("imports", "inside", "edited"),
    [
        ("from helper import change", "", "helper"),  # what people write first
        (f"{FOLDER}import helper", "change = helper.change", "helper"),
        (f"{FOLDER}from pack.sub import change", "", "pack/sub"),
        (f"{FOLDER}from pack.face import change", "", "pack/sub"),  # which has a relative import
        (f"{FOLDER}import importlib", "change = importlib.import_module('helper').change",
         "helper"),
        (FOLDER, "change = __import__('helper').change", "helper"),
    ],
)  # fmt: skip
def test_a_helper_of_a_plugin_file_is_in_the_key(
    project: MakeProject, imports: str, inside: str, edited: str
) -> None:
    files = {
        "helper": HELPER, "pack__sub": HELPER, "pack____init": "", "bare__sub": HELPER,
        "pack__face": "from .sub import change\n", "upper": "from helper import change\n",
    }  # fmt: skip
    t = make(project, imports, inside, **{k.replace("init", "init__"): v for k, v in files.items()})
    t.edit(f"{edited}.py", "line.strip()", "line.strip().lower()")
    assert t.ran() == ["a", "m"]
    assert prompts(t) == ["one"]
    t.edit(f"{edited}.py", "def change", "# It changes a line.\ndef change")
    assert t.ran() == []


def test_a_helper_found_by_pythonpath_is_in_the_key(project: MakeProject, tmp_path: Path) -> None:
    outer = os.environ.get("PYTHONPATH", "")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/helper.py").write_text(HELPER)

    def with_path(files: Mapping[str, str]) -> Project:
        t = project(files)
        t.env["PYTHONPATH"] = f"{tmp_path / 'lib'}{os.pathsep}{outer}"
        return t

    t = make(with_path, "from helper import change")
    t.edit("lib/helper.py", "line.strip()", "line.strip().lower()")
    assert t.ran() == ["a", "m"]
    assert prompts(t) == ["one"]


LINKED = "import sys, pathlib; sys.path.append(str(pathlib.Path(__file__).resolve().parent))\n"


@pytest.mark.parametrize("how", ["PYTHONPATH", "sys.path", "link"])
def test_a_helper_outside_the_project_is_in_the_key(
    project: MakeProject, tmp_path_factory: pytest.TempPathFactory, how: str
) -> None:
    lib = tmp_path_factory.mktemp("lib")
    (lib / "outer.py").write_text(HELPER)
    changes_path = f"import sys; sys.path.append({str(lib)!r})\n"
    imports = {"PYTHONPATH": "", "sys.path": changes_path, "link": LINKED}[how]

    def outside(files: Mapping[str, str]) -> Project:
        t = project(files)
        if how == "PYTHONPATH":
            t.env["PYTHONPATH"] = f"{lib}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        if how == "link":
            (lib / "own.py").write_text((t.folder / "own.py").read_text())
            (t.folder / "own.py").unlink()
            (t.folder / "own.py").symlink_to(lib / "own.py")
        return t

    t = make(outside, imports, "from outer import change")
    t.edit(str(lib / "outer.py"), "line.strip()", "line.strip().lower()")
    assert t.ran() == ["a", "m"]
    assert prompts(t) == ["one"]


def test_a_helper_beside_a_plugin_file_in_another_folder_is_in_the_key(
    project: MakeProject,
) -> None:
    t = make(project, f"{FOLDER}from helper import change", plugin="lib/own.py",
             lib__helper=HELPER)  # fmt: skip
    t.edit("lib/helper.py", "line.strip()", "line.strip().lower()")
    assert t.ran() == ["a", "m"]
    assert prompts(t) == ["one"]


def test_a_helper_that_was_not_there_is_seen_when_it_comes(project: MakeProject) -> None:
    imports = (
        f"{FOLDER}try:\n    from helper import change\nexcept ImportError:\n    change = str.strip"
    )
    t = make(project, imports)
    assert t.ran() == []
    t.write({"helper.py": HELPER.replace("strip()", "strip().lower()")})
    assert t.ran() == ["a", "m"]
    assert prompts(t) == ["one"]


def test_code_that_the_check_has_read_serves_a_plan_until_it_changes(project: MakeProject) -> None:
    t = make(project, inside="from helper import change", helper=HELPER)
    time.sleep(2 * FINE_NS / 1e9)
    store = open_store(t.folder / "recipe.yaml")
    graph = open_graph(t.folder / "recipe.yaml", (), store)
    before = Planner(graph, store)
    assert before.code is graph.code
    t.edit("helper.py", "line.strip()", "line.strip().lower()")
    after = Planner(graph, store)
    step, written = graph.nodes["a"].step, graph.recipe.data["data"]["a"]
    closures = [p.code.of_step(step, written, joint_key(step)) for p in (before, after)]
    codes = [closure.code["helper.py"] for closure in closures]
    store.close()
    assert codes[0] != codes[1]


WAITING = """
generate:
  waits:
    use: steps.script
    code: |
      import time; Path('go').touch()
      while not Path('edited').exists(): time.sleep(.01)
  late: {use: own.read, path: more.txt, needs: waits}
"""


def test_a_helper_that_changes_during_a_build_is_not_run_under_the_old_key(
    project: MakeProject,
) -> None:
    t = make(project, FOLDER, "from helper import change", helper=HELPER)
    t.write({"recipe.yaml": RECIPE.format(plugin="./own.py, ./steps.py") + WAITING})
    t.write({"more.txt": "Two\n"})
    process = t.start("build")
    until(lambda: (t.folder / "go").exists())
    t.edit("helper.py", "strip()", "strip().lower()")
    (t.folder / "edited").touch()
    _, err = process.communicate(timeout=120)
    assert "its code changed since the build began: helper.py" in err


# Wrappers of every step

WRAPPER = """
from finery import hookimpl, outside_key

@hookimpl(wrapper=True)
def finery_run_step(step, job):
    output = yield
    if type(step).__name__ == "Read":
        output.path.joinpath("note").write_text("first")
    return output
"""


def note(t: Project) -> str:
    """What the wrapper left beside the rows."""
    return (t.folder / "build/t/a/note").read_text()


def wrapped(project: MakeProject, wrapper: str, name: str = "finery_run_step") -> Project:
    """A built project with a plugin file that has a wrapper from a file beside it."""
    imports = f"{FOLDER}from around_steps import {name}\n"
    t = make(project, "change = str.strip", around_steps=wrapper, wraps=imports)
    t.edit("recipe.yaml", "[./own.py]", "[./own.py, ./wraps.py]")
    t.run("build")
    return t


@pytest.mark.parametrize("name", ["finery_run_step", "around"])
def test_a_wrapper_in_another_file_is_in_the_key_of_what_it_wraps(
    project: MakeProject, name: str
) -> None:
    wrapper = WRAPPER.replace("def finery_run_step", f"def {name}")
    t = wrapped(
        project, wrapper.replace("wrapper=True", 'wrapper=True, specname="finery_run_step"'), name
    )
    assert note(t) == "first"
    t.edit("around_steps.py", "first", "second")
    assert t.ran() == ["a", "m"]
    assert note(t) == "second"
    t.edit("around_steps.py", "second", "third")
    changed = t.run("explain", "a").out
    assert "code around_steps.py (wrapper wraps)" in changed
    assert f"{name} changed" in changed


FACTORY = """
def around(text):
    def finery_run_step(step, job):
        output = yield
        output.path.joinpath("note").write_text(text)
        return output
    return finery_run_step
"""
MADE = (
    FOLDER
    + """
from around_steps import around
from finery import hookimpl
finery_run_step = hookimpl(wrapper=True)(around("first"))
"""
)


def test_what_a_wrapper_is_made_with_is_in_the_key(project: MakeProject) -> None:
    t = make(project, "change = str.strip", around_steps=FACTORY, wraps=MADE)
    t.edit("recipe.yaml", "[./own.py]", "[./own.py, ./wraps.py]")
    assert t.ran() == ["a", "m"]
    t.edit("wraps.py", "first", "second")
    assert t.ran() == ["a", "m"]
    assert note(t) == "second"


def test_a_wrapper_that_only_watches_stays_out_of_keys(project: MakeProject) -> None:
    t = wrapped(project, WRAPPER.replace("@hookimpl", "@outside_key\n@hookimpl"))
    t.edit("around_steps.py", "first", "second")
    assert t.ran() == []


def test_a_plugin_file_changes_nothing_for_steps_of_others(project: MakeProject) -> None:
    patch = "import helper\ndef replaced(line): return 'first'\nhelper.change = replaced\n"
    t = make(project, f"{FOLDER}import helper", "change = helper.change", helper=HELPER)
    t.write({"patch.py": patch})
    t.edit("recipe.yaml", "[./own.py]", "[./own.py, ./patch.py]")
    assert t.ran() == []
    assert t.run("build", "--force", "m").code == 0
    assert prompts(t) == ["One"]


def test_a_plugin_file_that_a_step_does_not_need_is_not_in_its_key(project: MakeProject) -> None:
    t = make(project, f"{FOLDER}import helper", "change = helper.change", helper=HELPER)
    t.write({"other.py": "import helper\nLIMIT = 1\n"})
    t.edit("recipe.yaml", "[./own.py]", "[./own.py, ./other.py]")
    assert t.ran() == []
    t.edit("other.py", "LIMIT = 1", "LIMIT = 2")
    assert t.ran() == []


def test_a_plugin_file_that_changes_the_environment_of_workers_is_in_all_keys(
    project: MakeProject,
) -> None:
    t = make(project, f"{FOLDER}import helper", "change = helper.change", helper=HELPER)
    hook = "def finery_worker_environment(use, alone, here):"
    source = f"from finery import hookimpl\n@hookimpl\n{hook}\n    return {{'HERE': 'x'}}\n"
    t.write({"variables.py": source})
    t.edit("recipe.yaml", "[./own.py]", "[./own.py, ./variables.py]")
    assert t.ran() == ["a", "m"]
    explained = t.run("explain", "a", "--all").out
    assert "code variables.py" in explained
    assert "variable HERE" in explained
    t.edit("variables.py", "'x'", "'y'")
    assert t.ran() == ["a", "m"]


# Which class a name stands for


LIBRARY = """
from finery import Dataset, Job, Model, File, Step, setting

def read_step(change):
    class Read(Step, seeded=False):
        \"\"\"Rows from a file.\"\"\"

        path: File = setting(help="The file.")

        def run(self, job: Job) -> Dataset:
            return Dataset.write(job.out, [dict(prompt=change(l)) for l in self.path.path.open()])
    return Read

class Strip(read_step(str.strip)):
    \"\"\"Rows without spaces around them.\"\"\"

class Lower(read_step(str.lower)):
    \"\"\"Rows in lower case.\"\"\"
"""
TABLE = (
    FOLDER
    + """
from finery import hookimpl
from steps_library import {name}

@hookimpl
def finery_steps():
    return {{"own.read": {step}}}
"""
)


def with_library(project: MakeProject, name: str, step: str) -> Project:
    """A project whose plugin file has its step type from another file; built."""
    recipe = RECIPE.format(plugin="./own.py").partition("train:")[0]
    table = TABLE.format(name=name, step=step)
    t = project({
        "recipe.yaml": recipe, "rows.txt": "One\n", "own.py": table, "steps_library.py": LIBRARY,
    })  # fmt: skip
    assert t.ran() == ["a"], t.run("build").err
    assert t.ran() == []
    return t


def test_another_class_of_the_same_file_is_another_step(project: MakeProject) -> None:
    t = with_library(project, "Strip", '"steps_library:Strip"')
    t.edit("own.py", "Strip", "Lower")
    assert t.ran() == ["a"]
    assert prompts(t) == ["one\n"]


def test_what_a_step_type_is_made_with_is_in_the_key(project: MakeProject) -> None:
    t = with_library(project, "read_step", "read_step(str.strip)")
    t.edit("own.py", "str.strip", "str.lower")
    assert t.ran() == ["a"]
    assert prompts(t) == ["one\n"]


# The kit, and what writes artifacts


@pytest.fixture
def own_core(project: MakeProject, tmp_path: Path) -> Project:
    """A built project with a copy of finery of its own, to be edited."""
    shutil.copytree(
        Path(finery.__file__).parent, tmp_path / "core/finery",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    outer = os.environ.get("PYTHONPATH", "")
    files = {
        "recipe.yaml": RECIPE.format(plugin="./own.py"), "rows.txt": "One\n",
        "own.py": PLUGIN.format(imports="change = str.strip", inside=""),
    }  # fmt: skip
    t = project(files)
    t.env["PYTHONPATH"] = f"{tmp_path / 'core'}{os.pathsep}{outer}"
    assert t.ran() == ["a", "m"]
    return t


FILES = "finery/rows/files.py"
TABLE_FILE = "core/finery/builder/code/definitions.json"


def released(t: Project, label: str, *, changes: bool) -> None:
    """As `make format` does: tell the table of a changed file, whose definitions may be others."""
    path = t.folder / TABLE_FILE
    table = json.loads(path.read_text())
    table["files"][label] = blake3((t.folder / "core" / label).read_bytes()).hexdigest()
    for code in table["subjects"].values() if changes else ():
        if label in code:
            code[label] = "f" * 16
    path.write_text(json.dumps(table))


def test_an_edit_of_finery_reruns_everything_until_the_table_has_it(own_core: Project) -> None:
    t = own_core
    t.edit("core/finery/util/text.py", "cutoff=0.6", "cutoff=0.5")
    assert t.ran() == ["a", "m"]
    assert "code finery" in t.run("explain", "a").out
    assert t.ran() == []
    t.edit("core/finery/util/text.py", "cutoff=0.5", "cutoff=0.6")
    assert t.ran() == []


@pytest.mark.parametrize("new", ["rows/files/__init__.py", "rows/files.abi3.so", "rows/files.pyc"])
def test_a_file_beside_one_of_finery_counts(own_core: Project, new: str) -> None:
    t = own_core
    path = t.folder / "core/finery" / new
    path.parent.mkdir(exist_ok=True)
    path.write_text("")
    lines = map(json.loads, t.run("plan", "--json").out.splitlines())
    assert all(line["state"] != "cached" for line in lines if line.get("step") == "a")


def test_a_release_reruns_what_its_table_says(own_core: Project) -> None:
    t = own_core
    t.edit("core/finery/util/text.py", "cutoff=0.6", "cutoff=0.5")
    released(t, "finery/util/text.py", changes=False)
    assert t.ran() == []
    t.edit(f"core/{FILES}", "msgspec.json.encode(whole)", 'msgspec.json.encode({**whole, "w": 1})')
    released(t, FILES, changes=True)
    assert t.ran() == ["a", "m"]
    assert t.rows("a")[0]["w"] == 1
    assert "code finery/rows/files.py" in t.run("explain", "a").out


# -- installed packages ---------------------------------------------------------------------------


ACME = """
from pathlib import Path
from finery import Dataset, Job, Step, hookimpl

class Read(Step, seeded=False):
    \"\"\"A row of the package's text.\"\"\"

    def run(self, job: Job) -> Dataset:
        files = sorted(Path(__file__).parent.glob("*.txt"))
        return Dataset.write(job.out, [dict(prompt=path.read_text()) for path in files])

@hookimpl
def finery_steps():
    return {"acme.read": Read}
"""


def test_a_plugin_package_counts_with_all_its_files(project: MakeProject) -> None:
    t = project({
        "recipe.yaml": "finery: 1\nname: t\ndata: {a: {use: acme.read}}\n",
        "site-packages/acme/__init__.py": ACME, "site-packages/acme/one.txt": "one",
        "site-packages/acme-1.0.dist-info/entry_points.txt": "[finery]\nacme = acme\n",
        "site-packages/acme-1.0.dist-info/RECORD": "acme/__init__.py,,\nacme/one.txt,,\n",
    })  # fmt: skip
    t.env["PYTHONPATH"] = str(t.folder / "site-packages")
    assert t.ran() == ["a"]
    assert t.ran() == []
    t.write({"site-packages/acme/two.txt": "two"})
    assert t.ran() == ["a"]
    assert prompts(t) == ["one", "two"]
    assert "acme/two.txt new" in t.run("explain", "a").out


@pytest.mark.parametrize(
    ("name", "meant"),
    [("yaml", "did you mean 'pyyaml'?"), ("pyyamll", "did you mean 'pyyaml'?"),
     ("nobody_has_this_one", "pip install nobody_has_this_one")],
)  # fmt: skip
def test_packages_must_be_distributions(project: MakeProject, name: str, meant: str) -> None:
    source = PLUGIN.replace("class Read(Step, seeded=False)",
                            f'class Read(Step, seeded=False, packages=("{name}",))')  # fmt: skip
    t = project({
        "recipe.yaml": RECIPE.format(plugin="./own.py"), "rows.txt": "One\n",
        "own.py": source.format(imports="change = str.strip", inside=""),
    })  # fmt: skip
    ran = t.run("plan")
    assert ran.code == 2
    assert f"'{name}'" in ran.err
    assert meant in ran.err


# -- what the clock or the moment hides -----------------------------------------------------------


def test_code_that_was_compiled_before_is_not_run_in_place_of_what_is_there(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    t = make(project, f"{FOLDER}from helper import change", helper=HELPER)
    helper, plugin = t.folder / "helper.py", t.folder / "own.py"
    for path in (helper, plugin):
        os.utime(path, (1_600_000_000, 1_600_000_000))
    assert t.ran() == []  # Python may have compiled both by now
    t.edit("helper.py", "line.strip()", "line.upper()")
    os.utime(helper, (1_600_000_000, 1_600_000_000))
    t.ran()
    assert prompts(t) == ["ONE\n"]
    t.edit("own.py", "change(l)", "l[:2]+''")  # of the same size
    os.utime(plugin, (1_600_000_000, 1_600_000_000))
    t.ran()
    assert prompts(t) == ["On"]


PAUSING = (
    "import pathlib, time; started = pathlib.Path('started'); started.touch(); "
    "[time.sleep(0.05) for _ in range(200) if started.exists()]; from helper import change"
)
"""What a step does before it reads: it says that it runs, and waits until that is taken back."""


def test_code_that_changes_while_a_step_runs_is_not_published(project: MakeProject) -> None:
    t = make(project, FOLDER, "from helper import change", helper=HELPER)
    t.edit("own.py", "from helper import change", PAUSING)
    build = t.start("build", "--step", "a")
    until((t.folder / "started").exists)
    t.edit("helper.py", "line.strip()", "line.upper()")
    (t.folder / "started").unlink()
    _, err = build.communicate(timeout=120)
    assert build.returncode == 1
    assert "its code changed" in err
    t.edit("helper.py", "line.upper()", "line.strip()")
    t.edit("own.py", PAUSING, "from helper import change")
    t.ran()
    assert prompts(t) == ["One"]


def test_a_file_that_is_changed_and_changed_back_while_it_is_read_is_not_published(
    project: MakeProject,
) -> None:
    t = make(project, FOLDER, "from helper import change", helper=HELPER)
    t.edit("own.py", "from helper import change", PAUSING)
    build = t.start("build", "--step", "a")
    until((t.folder / "started").exists)
    (t.folder / "rows.txt").write_text("Two\n")
    (t.folder / "rows.txt").write_text("One\n")
    (t.folder / "started").unlink()
    _, err = build.communicate(timeout=120)
    assert build.returncode == 1
    assert "changed while the step was reading it: rows.txt" in err


def test_a_set_among_settings_is_the_same_in_every_process(project: MakeProject) -> None:
    words = ", ".join("abcdefghijkl")
    t = project({
        "recipe.yaml": "finery: 1\nname: t\nplugins: [./s.py]\n"
        f"data: {{a: {{use: s.words, words: [{words}]}}}}\n",
        "s.py": "from finery import Dataset, Job, Step, hookimpl, setting\n\n"
        "class Words(Step, seeded=False):\n    '''Words.'''\n\n"
        "    words: frozenset[str] = setting(help='Words.')\n\n"
        "    def run(self, job: Job) -> Dataset:\n"
        "        return Dataset.write(job.out, [{'prompt': w} for w in sorted(self.words)])\n\n"
        "@hookimpl\ndef finery_steps():\n    return {'s.words': Words}\n",
    })  # fmt: skip
    assert t.ran() == ["a"]
    for number in range(3):
        t.env["PYTHONHASHSEED"] = str(number)
        (t.folder / "recipe.yaml").touch()
        assert t.ran() == []


def test_another_home_is_another_file(project: MakeProject, tmp_path: Path) -> None:
    t = project({
        "recipe.yaml": "finery: 1\nname: t\ndata: {a: {use: data.file, path: ~/rows.jsonl}}\n",
        "one/rows.jsonl": '{"prompt": "a", "completion": "1"}\n',
        "two/rows.jsonl": '{"prompt": "a", "completion": "2"}\n',
    })  # fmt: skip
    for home, completion in (("one", "1"), ("two", "2")):
        t.env["HOME"] = str(t.folder / home)
        assert t.run("build").code == 0
        assert [row["completion"] for row in t.rows("a")] == [completion]


CHECKED = """
from finery import Dataset, Job, Step, UsageError, hookimpl, setting

class First(Step, seeded=False):
    '''First.'''

    words: list[str] = setting([], help="Words.")

    def check(self):
        self.words.append("WORD")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [dict(prompt=w) for w in (*self.words, "own")])

class Second(Step, seeded=False):
    '''Second.'''

    rows: Dataset

    def check(self):
        if self.rows.digest:  # the real one, not the plan's placeholder
            raise UsageError(f"{self.rows.ref} is bad", fix="repair it")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, self.rows)

@hookimpl
def finery_steps():
    return {"own.first": First, "own.second": Second}
"""


def test_a_check_refuses_real_inputs_and_what_it_changes_is_in_the_key(
    project: MakeProject,
) -> None:
    steps = "data: {a: {use: own.first}, b: {use: own.second, rows: a}}\n"
    t = project({
        "own.py": CHECKED, "recipe.yaml": f"finery: 1\nname: t\nplugins: [./own.py]\n{steps}"
    })  # fmt: skip
    for word in ("early", "late"):
        t.write({"own.py": CHECKED.replace("WORD", word)})
        assert "a is bad" in t.run("build").err
        assert prompts(t) == [word, "own"]  # the plan's check adds it, the worker's only refuses
