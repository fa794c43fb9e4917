"""Paths that don't lead to a plain file, and plugins that end the process: errors, at once."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MakeProject, Project
from needs import may_lack

RECIPE = (
    "finery: 1\nname: t\nplugins: [./steps.py]\ndata:\n  a: {{use: {use}, {setting}: {path}}}\n"
)
SECONDS = 120
"""A command that takes longer hangs."""


def fifo(t: Project) -> str:
    os.mkfifo(t.folder / "pipe.jsonl")
    return "pipe.jsonl"


def linked_to_itself(t: Project) -> str:
    (t.folder / "x.jsonl").symlink_to("y.jsonl")
    (t.folder / "y.jsonl").symlink_to("x.jsonl")
    return "x.jsonl"


def socket_of(t: Project) -> str:
    here = os.getcwd()
    os.chdir(t.folder)  # a socket's path has 107 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s.jsonl")
    finally:
        os.chdir(here)
    return "s.jsonl"


def tree_of_links(t: Project) -> str:
    (t.folder / "d").mkdir()
    for name in "ab":
        (t.folder / "d" / name).symlink_to(".")
    return "d/**/*.jsonl"


PATHS: dict[str, tuple[str | Callable[[Project], str], str]] = {
    "device": ("/dev/zero", "it is a device"),
    "pipe": (fifo, "it is a named pipe"),
    "socket": (socket_of, "it is a socket"),
    "root": ("/", "it includes files of the system"),
    "everything": ("'/**/*.jsonl'", "it includes files of the system"),
    "proc": ("/proc/self", "it includes files of the system"),
    "no user": ("~nosuchuser/x.jsonl", "~nosuchuser has no home folder"),
    "long": ("x" * 5000, "the name is too long"),
    "NUL": ('"a\\0b.jsonl"', "a file can't have this name"),
    "loop": (linked_to_itself, "it is a link to itself"),
    "loop of folders": (tree_of_links, "it is a link to a folder above it"),
}


def check_refused(t: Project, says: str, *command: str) -> str:
    """Run a command that must end with an error that has a place and a fix."""
    code, out, err = t.run(*command, timeout=SECONDS)
    assert (code, "Traceback" in err) == (2, False), err or out
    text = err + out
    assert says in text
    assert "fix:" in text
    return text


@pytest.mark.parametrize("case", PATHS)
def test_a_path_that_is_no_file_is_an_error_at_once(project: MakeProject, case: str) -> None:
    path, says = PATHS[case]
    t = project({})
    path = path if isinstance(path, str) else path(t)
    recipe = RECIPE.format(use="data.file", setting="path", path=path)
    t.write({"recipe.yaml": recipe})
    text = check_refused(t, says, "check")
    assert "recipe.yaml:5:" in text
    assert len(text) < 4000


@pytest.mark.skipif(os.geteuid() == 0, reason=may_lack("root may read everything"))
def test_a_file_that_may_not_be_read_is_an_error(project: MakeProject) -> None:
    t = project({"recipe.yaml": RECIPE.format(use="data.file", setting="path", path="a.jsonl")})
    t.write({"a.jsonl": "{}"})
    (t.folder / "a.jsonl").chmod(0)
    check_refused(t, "permission denied", "check")


@pytest.mark.parametrize("name", ["recipe.yaml", "recipe.lock", "own.py"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_finerys_own_files_must_be_files(project: MakeProject, name: str, kind: str) -> None:
    floating = "finery: 1\nname: t\nplugins: [./own.py]\nmodels: {m: {use: hub.model, repo: a/b}}\n"
    t = project({"recipe.yaml": floating, "own.py": ""})
    path = t.folder / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    if (name, kind) == ("recipe.yaml", "folder"):
        return  # stands for the recipe in it
    check_refused(t, "it is a", "plan")


@pytest.mark.parametrize("recipe", ["/dev/zero", "x" * 5000, "/", "~nosuchuser/x"])
def test_a_recipe_that_is_no_file_leaves_nothing(project: MakeProject, recipe: str) -> None:
    t = project({})
    check_refused(t, "", "build", recipe)
    assert not Path("/dev/.finery").exists()
    assert not (t.folder / ".finery").exists()


# -- plugins --------------------------------------------------------------------------------------

ENDS = {
    "sys.exit(3)": "it calls sys.exit(3)",
    "os._exit(3)": "it calls os._exit(3)",
    "raise KeyboardInterrupt": "it raises KeyboardInterrupt",
    "raise Odd('x')": "it raises Odd: x",
}
OWN = """
import os, sys
from finery import Dataset, Job, Step, hookimpl
class Odd(BaseException): pass
{imports}
class Own(Step, seeded=False):
    \"\"\"Rows.\"\"\"
    def check(self) -> None:
        {check}
    def run(self, job: Job) -> Dataset:
        {run}
        return Dataset.write(job.out, [])

@hookimpl
def finery_steps():
    {hook}
    return {{"own.step": Own}}
"""


def with_plugin(project: MakeProject, **places: str) -> Project:
    """A project with a plugin file that does something at one place."""
    empty = dict.fromkeys(("imports", "check", "run", "hook"), "pass")
    t = project({"own.py": OWN.format(**{**empty, **places})})
    t.write({
        "recipe.yaml": "finery: 1\nname: t\nplugins: [./own.py]\ndata: {a: {use: own.step}}\n"
    })  # fmt: skip
    return t


@pytest.mark.parametrize("code", ENDS)
@pytest.mark.parametrize("place", ["imports", "hook"])
def test_a_plugin_that_would_end_finery_is_broken(
    project: MakeProject, code: str, place: str
) -> None:
    t = with_plugin(project, **{place: code})
    code_, _, err = t.run("build", timeout=SECONDS)
    assert code_ == 2, err
    assert ENDS[code] in err
    assert "own.py" in err
    if place == "imports":
        assert "own.py:5" in err


def test_a_check_that_calls_sys_exit_is_an_error_with_its_place(project: MakeProject) -> None:
    code, _, err = with_plugin(project, check="sys.exit(3)").run("check")
    assert code == 2
    assert "own.py:9: error: a plugin ended finery: it calls sys.exit(3)" in err


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("sys.exit(3)", "calls sys.exit(3)"),
        ("os._exit(3)", "ended with exit code 3 before the step was done"),
        ("os._exit(3)", "its log is empty; a step must return, not call os._exit"),
        ("os.write(2, b'odd'); os._exit(3)", "/a.log; a step must return"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise Odd('x')", "Odd: x"),
    ],
)
def test_a_step_that_ends_its_process_fails(project: MakeProject, code: str, says: str) -> None:
    exit_code, _, err = with_plugin(project, run=code).run("build", timeout=SECONDS)
    assert exit_code == 1
    assert says in err
    assert "recipe.yaml:4" in err
