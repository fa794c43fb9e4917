"""What a step's process contains: only the plugins in its key, and nothing of other steps."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from conftest import MakeProject, Project, until

HEAD = "import os, sys\nfrom finery import Dataset, Job, Key, Step, hookimpl, setting\n"
STEP = """
class {name}(Step, seeded=False):
    \"\"\"A step.\"\"\"

    code: str = setting("", help="Python, with `told`.")

    def run(self, job: Job) -> Dataset:
        told = {{}}
        exec(self.code, {{"told": told, "sys": sys, "os": os, "job": job, "step": self}})
        return Dataset.write(job.out, [{{"prompt": "x", **told}}])


@hookimpl
def finery_steps():
    return {{"{use}": {name}}}
"""


def module(use: str, more: str = "") -> str:
    """A plugin with a step type that runs Python."""
    return HEAD + more + STEP.format(name=use.replace(".", "").title(), use=use)


def recipe(plugins: Sequence[str], **steps: str) -> str:
    """A recipe: step → its entry."""
    lines = [f"finery: 1\nname: t\nplugins: {json.dumps(list(plugins))}\ndata:"]
    return "\n".join([*lines, *(f"  {name}: {entry}" for name, entry in steps.items())]) + "\n"


def step(use: str, code: str) -> str:
    return f"{{use: {use}, code: {json.dumps(code)}}}"


def install(t: Project, name: str, text: str) -> None:
    """Install a distribution with a plugin of this name and text."""
    t.write({
        f"site/shop_{name}.py": text,
        f"site/shop_{name}-1.5.dist-info/METADATA": f"Name: shop-{name}\nVersion: 1.5\n",
        f"site/shop_{name}-1.5.dist-info/entry_points.txt": f"[finery]\n{name} = shop_{name}\n",
    })  # fmt: skip
    t.env["PYTHONPATH"] = os.pathsep.join([str(t.folder / "site"), *sys.path])


TELL = "told['seen'] = sorted(n for n in sys.modules if 'shop' in n or 'finery_file' in n.lower())"
PATCH = "import finery.artifact.kinds as kinds\nkinds.Dataset.write = None\n"


def test_a_plugin_file_cannot_change_steps_of_others(project: MakeProject) -> None:
    entries = {"a": "{use: data.file, path: rows.jsonl}", "b": step("b.run", "")}
    t = project({"a.py": module("a.run", PATCH), "b.py": module("b.run")})
    t.write({"recipe.yaml": recipe(["./a.py", "./b.py"], **entries)})
    t.write({"rows.jsonl": '{"prompt": "one", "completion": "two"}\n'})
    assert t.ran("--jobs", "1") == ["a", "b"]
    t.edit("recipe.yaml", "b.run", "a.run")
    (event,) = [e for e in t.events() if e["event"] == "step_failed"]
    assert "'NoneType' object is not callable" in event["error"]["what"]


def test_only_plugins_in_the_key_are_imported(project: MakeProject) -> None:
    t = project({"a.py": module("a.run"), "b.py": module("b.run")})
    for name in ("one", "two"):
        install(t, name, module(f"{name}.run"))
    entries = {"a": step("a.run", TELL), "one": step("one.run", TELL)}
    t.write({"recipe.yaml": recipe(["./a.py", "./b.py"], **entries)})
    assert t.ran() == ["a", "one"]
    (name,) = t.rows("a")[0]["seen"]
    assert name.startswith("finery_file_a_")
    assert t.rows("one")[0]["seen"] == ["shop_one"]


def test_a_plugin_that_acts_on_every_step_is_imported(project: MakeProject) -> None:
    wrapper = "@hookimpl(wrapper=True)\ndef finery_run_step(step, job):\n    return (yield)\n"
    variables = "@hookimpl\ndef finery_worker_environment():\n    return {'SHOP': 'open'}\n"
    t = project({"a.py": module("a.run")})
    for name, text in {"around": wrapper, "env": variables, "other": ""}.items():
        install(t, name, HEAD + text)
    code = f"{TELL}\ntold['shop'] = os.environ.get('SHOP')"
    t.write({"recipe.yaml": recipe(["./a.py"], a=step("a.run", code))})
    assert t.ran() == ["a"]
    (row,) = t.rows("a")
    assert {"shop_around", "shop_env"} < {*row["seen"]}
    assert "shop_other" not in row["seen"]
    assert row["shop"] == "open"


def test_code_that_a_key_names_is_imported(project: MakeProject) -> None:
    more = "def served():\n    return {}\n"
    code = "from finery.advanced import load_plugins\ntold['names'] = [*load_plugins().servers]"
    t = project({"a.py": module("a.run").replace("    def run", (
        "    def cache_key(self):\n        return Key(code=['shop_one'])\n\n"
        "    def run"))})  # fmt: skip
    for name in ("one", "two"):
        hook = f"@hookimpl\ndef finery_servers():\n    return {{'{name}': 'shop_{name}:served'}}\n"
        install(t, name, HEAD + more + hook)
    t.write({"recipe.yaml": recipe(["./a.py"], a=step("a.run", code))})
    assert t.ran() == ["a"]
    assert {"one", "two"} & {*t.rows("a")[0]["names"]} == {"one"}


def test_children_of_a_worker_load_the_same_plugins(project: MakeProject) -> None:
    code = """
import subprocess
python = "from finery.advanced import load_plugins; print('two.run' in load_plugins().step_types)"
def run(*args):
    return subprocess.run([sys.executable, *args], capture_output=True, text=True).stdout
told['child'] = run('-c', python)
told['command'] = 'two.run' in run('-m', 'finery', 'plugins')
"""
    t = project({"a.py": module("a.run")})
    install(t, "two", module("two.run"))
    t.write({"recipe.yaml": recipe(["./a.py"], a=step("a.run", code))})
    assert t.ran() == ["a"]
    assert t.rows("a")[0]["child"] == "False\n"
    assert t.rows("a")[0]["command"]


LEAVES = """
import json, random
told['seen'] = [hasattr(json, 'probe'), 'sched' in sys.modules, 'MARK_X' in os.environ]
told['number'] = random.random()
json.probe = True
import sched
os.environ['MARK_X'] = '1'
random.seed(1)
"""


def test_nothing_of_a_step_is_left_for_the_next_one(project: MakeProject) -> None:
    t = project({"a.py": module("a.run")})
    entries = {f"s{n}": step("a.run", LEAVES + f"# {n}") for n in range(4)}
    t.write({"recipe.yaml": recipe(["./a.py"], **entries)})
    assert len(t.ran("--jobs", "1")) == 4
    rows = [t.rows(f"s{n}")[0] for n in range(4)]
    assert [row["seen"] for row in rows] == [[False, False, False]] * 4
    assert len({row["number"] for row in rows}) == 4


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("os._exit(3)", "its process ended with exit code 3"),
        ("os._exit(0)", "its process ended with exit code 0"),
        ("os.kill(os.getpid(), 9)", "its process was killed (SIGKILL)"),
        ("os.abort()", "its process died (SIGABRT)"),
        ("sys.exit(2)", "calls sys.exit(2)"),
    ],
)
def test_a_process_that_dies_is_reported(project: MakeProject, code: str, what: str) -> None:
    t = project({"a.py": module("a.run")})
    entries = {"a": step("a.run", code), "b": step("a.run", "")}
    t.write({"recipe.yaml": recipe(["./a.py"], **entries), "finery.toml": "retries = 0\n"})
    events = t.events("--keep-going", "--jobs", "1")
    (event,) = [e for e in events if e["event"] == "step_failed"]
    assert what in event["error"]["what"]
    assert [e["step"] for e in events if e["event"] == "step_finished"] == ["b"]


KILLS_NEXT = """
import time

def parent(pid):
    try:
        return int(open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()[1])
    except OSError:
        return 0

def waiting():
    pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
    return [pid for pid in pids if parent(pid) == os.getppid() and pid != os.getpid()]

while not waiting():
    time.sleep(0.01)
for pid in waiting():
    os.kill(pid, 9)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems don't copy workers")
def test_a_process_that_is_killed_while_it_waits_fails_no_step(project: MakeProject) -> None:
    t = project({"a.py": module("a.run")})
    entries = {f"s{n}": step("a.run", KILLS_NEXT + f"# {n}") for n in range(2)}
    t.write({"recipe.yaml": recipe(["./a.py"], **entries), "finery.toml": "retries = 0\n"})
    assert len(t.ran("--jobs", "1")) == 2


def test_a_process_that_a_step_forked_ends_no_other_step(project: MakeProject) -> None:
    t = project({"a.py": module("a.run")})
    code = "import time\ntold['number'] = {}\ntime.sleep(1 if os.fork() else 1.5)"
    entries = {f"s{n}": step("a.run", code.format(n)) for n in range(2)}
    t.write({"recipe.yaml": recipe(["./a.py"], **entries), "finery.toml": "retries = 0\n"})
    assert len(t.ran("--jobs", "1")) == 2
    assert [t.rows(f"s{n}")[0]["number"] for n in range(2)] == [0, 1]


def test_a_plugin_with_threads_works(project: MakeProject) -> None:
    more = "import threading, time\n"
    more += "threading.Thread(target=time.sleep, args=[3600], daemon=True).start()\n"
    t = project({"a.py": module("a.run", more)})
    code = "told['pid'] = os.getpid()"
    entries = {f"s{n}": step("a.run", f"{code}  # {n}") for n in range(3)}
    t.write({"recipe.yaml": recipe(["./a.py"], **entries)})
    assert len(t.ran("--jobs", "1")) == 3
    assert len({t.rows(f"s{n}")[0]["pid"] for n in range(3)}) == 3


def test_a_plugin_may_read_variables_of_its_steps_on_import(project: MakeProject) -> None:
    t = project({"a.py": module("a.run", "WORD = os.environ.get('SHOP_WORD')\n")})
    t.env["SHOP_WORD"] = "5ecret-word"
    code = "told['has'] = sys.modules[type(step).__module__].WORD is not None"
    entries = {"a": step("a.run", code), "b": step("a.run", code + "  # b")}
    entries["a"] = entries["a"].replace("{use", "{env: [SHOP_WORD], use")
    t.write({"recipe.yaml": recipe(["./a.py"], **entries)})
    assert t.ran("--jobs", "1") == ["a", "b"]
    assert [t.rows(name)[0]["has"] for name in "ab"] == [True, False]


def test_steps_run_in_the_folder_of_the_recipe(project: MakeProject) -> None:
    t = project({"sub/a.py": module("a.run")})
    t.write({"sub/recipe.yaml": recipe(["./a.py"], a=step("a.run", "told['at'] = os.getcwd()"))})
    assert t.ran("sub") == ["a"]
    assert t.rows("a")[0]["at"] == str(t.folder / "sub")


def test_a_class_that_is_left_out_is_not_defined(project: MakeProject) -> None:
    from finery.plugin import discovery

    t = project({})
    path = t.folder / "steps.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(discovery._LEFT_OUT, str(path), ["Copy", "Source"])
        made = discovery.load_source(path, "light_steps_without")
    assert not hasattr(made, "Copy")
    assert "steps.copy" not in made.finery_steps()
    run = made.Shuffle.run.__code__
    assert "def run" in path.read_text().splitlines()[run.co_firstlineno - 1]


LOOKS = """
from finery import Dataset, Job, Step, hookimpl

class Looks(Step, seeded=False):
    \"\"\"A step.\"\"\"
    def run(self, job: Job) -> Dataset:
        raise {error}

class Other(Step, seeded=False):
    \"\"\"Another one.\"\"\"
    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [])

@hookimpl
def finery_steps():
    return {{"t.looks": Looks, "t.other": Other}}
"""


@pytest.mark.parametrize("error", [
    "NameError('Oth' + 'er')", "KeyError('t.oth' + 'er')", "AttributeError('no Oth' + 'er here')",
])  # fmt: skip
def test_a_step_that_looks_for_a_class_that_is_left_out_is_told(
    project: MakeProject, error: str
) -> None:
    t = project({"recipe.yaml": recipe(["a.py"], a="{use: t.looks}")})
    t.write({"a.py": LOOKS.format(error=error)})
    assert "fix: name Other in a.py where the step uses it" in t.run("build").err
    t.write({"a.py": LOOKS.format(error="KeyError('t.oth')")})
    assert "name Other" not in t.run("build").err


WAITS = """
    def run(self, job: Job) -> Dataset:
        import time
        open("began", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
        from helper import WORD
        open("imported", "w").close()
        while os.path.exists("go"):
            time.sleep(0.01)
        return Dataset.write(job.out, [{"prompt": WORD}])
"""


def test_code_that_was_saved_imported_and_restored_stops_a_step(project: MakeProject) -> None:
    head, _, rest = module("a.run").partition("    def run")
    text = f"{head}{WAITS.strip(chr(10))}\n\n\n@hookimpl{rest.partition('@hookimpl')[2]}"
    t = project({"a.py": text, "helper.py": "WORD = 'right'\n"})
    t.write({"recipe.yaml": recipe(["./a.py"], a=step("a.run", ""))})
    building = t.start("build", "--json")
    until(lambda: (t.folder / "began").exists())
    t.write({"helper.py": "WORD = 'wrong'\n"})
    (t.folder / "go").touch()
    until(lambda: (t.folder / "imported").exists())
    t.write({"helper.py": "WORD = 'right'\n"})
    (t.folder / "go").unlink()
    out, _ = building.communicate(timeout=120)
    assert "its code was changed for a while: helper.py" in out


def test_code_that_is_edited_after_its_import_does_not_stop_a_step(project: MakeProject) -> None:
    wait = (
        "import time\nopen('began', 'w').close()\nwhile not os.path.exists('go'): time.sleep(0.01)"
    )
    t = project({"a.py": module("a.run")})
    t.write({"recipe.yaml": recipe(["./a.py"], a=step("a.run", wait))})
    building = t.start("build", "--json")
    until(lambda: (t.folder / "began").exists())
    t.write({"a.py": module("a.run") + "# a comment\n"})
    (t.folder / "go").touch()
    out, _ = building.communicate(timeout=120)
    assert "step_finished" in out


def test_a_stale_compiled_file_of_a_loose_module_is_not_used(project: MakeProject) -> None:
    t = project({"a.py": module("a.run"), "lib/loose.py": "WORD = 'old'\n"})
    t.env["PYTHONPATH"] = str(t.folder / "lib")
    path = t.folder / "lib/loose.py"
    subprocess.run([sys.executable, "-c", "import loose"], check=True, cwd=t.folder / "lib")
    old = path.stat()
    t.write({"lib/loose.py": "WORD = 'new'\n"})
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    code = "import loose\ntold['word'] = loose.WORD"
    t.write({"recipe.yaml": recipe(["./a.py"], a=step("a.run", code))})
    assert t.ran() == ["a"]
    assert t.rows("a")[0]["word"] == "new"
