"""How a build runs its steps, and what becomes of those that fail. Through the real command."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from conftest import LIGHT_STEPS, MakeProject, running, until
from in_process import InProcess

from finery.builder.project import open_graph, open_store
from finery.builder.scheduler import Build
from finery.store.database import Store
from finery.util.events import Event

HEAD = "finery: 1\nname: t\nplugins: [./steps.py]\n"


def recipe(steps: dict[str, dict[str, Any]], section: str = "data") -> str:
    """A recipe of these steps; JSON is YAML."""
    return f"{HEAD}{section}: {json.dumps(steps)}\n"


def script(code: str, use: str = "steps.script", **settings: Any) -> dict[str, Any]:
    """A step that runs some Python."""
    return {"use": use, "code": code, **settings}


def test_needs_orders_steps_and_blocks_them(project: MakeProject) -> None:
    t = project({"recipe.yaml": recipe({
        "second": script("rows.append({'prompt': Path('mark').read_text()})", needs=["first"]),
        "first": script("Path('mark').write_text('made'); rows.append({'prompt': 'x'})"),
        "third": script("", needs="broken"),
        "broken": script("raise ValueError('no')"),
    })})  # fmt: skip
    code, _, err = t.run("build", "--keep-going")
    assert code == 1
    assert "1 failed, 1 blocked" in err
    assert t.rows("second")[0]["prompt"] == "made"
    blocked = [e for e in t.events("-k") if e["event"] == "step_blocked"]
    assert [(e["step"], e["by"]) for e in blocked] == [("third", "broken")]


def test_outputs_are_read_only_links_by_recipe_and_step(project: MakeProject) -> None:
    t = project({
        "rows.txt": "a\nb\nc\nd",
        "recipe.yaml": recipe({"r": {"use": "steps.source", "path": "rows.txt"},
                               "h": {"use": "steps.halve", "rows": "r"}}),
    })  # fmt: skip
    assert t.ran() == ["h", "r"]
    assert [r["prompt"] for r in t.rows("h/first") + t.rows("h/second")] == list("abcd")
    file = t.folder / "build/t/h/first/rows-00000.jsonl"
    assert file.resolve().is_relative_to(t.folder / ".finery/objects")
    assert file.stat().st_mode & 0o222 == 0
    manifest = json.loads((t.folder / "build/t/r/manifest.json").read_text())
    assert manifest["kind"] == "Dataset"
    assert manifest["meta"] == {"rows": 4, "columns": ["id", "prompt"]}


def test_step_builds_what_it_needs_and_no_more(project: MakeProject) -> None:
    t = project({"recipe.yaml": recipe({
        "a": script(""), "b": script("", rows=["a"]), "c": script("# c", needs=["b"]),
        "d": script("# d"),
    })})  # fmt: skip
    assert t.ran("--step", "b") == ["a", "b"]
    assert t.ran("--step", "c", "--step", "d") == ["c", "d"]
    code, _, err = t.run("build", "--step", "e")
    assert code == 2
    assert "no step 'e'" in err


@pytest.mark.parametrize("use", ["steps.script", "steps.alone"])
def test_independent_steps_run_side_by_side(project: MakeProject, use: str) -> None:
    code = """
import time
Path('{mine}').touch()
until = time.monotonic() + 120
while not Path('{other}').exists():
    if time.monotonic() > until: raise TimeoutError('the other step never ran')
    time.sleep(.01)
"""
    t = project({"recipe.yaml": recipe({
        "a": script(code.format(mine="a", other="b"), use),
        "b": script(code.format(mine="b", other="a"), use),
    })})  # fmt: skip
    assert t.ran("--jobs", "2") == ["a", "b"]


def test_isolated_steps_never_share_a_process_and_light_ones_do(project: MakeProject) -> None:
    code = "rows.append({'prompt': str(os.getpgrp())})"
    steps = {
        f"{use}{n}": script(f"{code} # {n}", f"steps.{use}")
        for use in ("script", "alone")
        for n in range(3)
    }
    t = project({"recipe.yaml": recipe(steps)})
    t.ran("--jobs", "1")
    pids = {name: t.rows(name)[0]["prompt"] for name in steps}
    assert len({pids[f"alone{n}"] for n in range(3)}) == 3
    assert len({pids[f"script{n}"] for n in range(3)}) == 1


def test_a_failing_step_names_its_log_and_stops_the_build(project: MakeProject) -> None:
    t = project({"recipe.yaml": recipe({
        "bad": script("print('printed before'); raise ValueError('odd value')"),
        "after": script("", rows=["bad"]),
        "other": script("# other", needs=["ok"]), "ok": script(""),
    })})  # fmt: skip
    code, _, err = t.run("build", "--jobs", "1")
    assert code == 1
    assert "recipe.yaml:4:" in err
    assert "ValueError: odd value" in err
    log = next((t.folder / ".finery/runs").glob("*/bad.log"))
    assert str(log.relative_to(t.folder)) in err
    assert "printed before" in log.read_text()
    assert "Traceback" in log.read_text()
    assert not (t.folder / "build/t/bad").exists()
    assert [e["step"] for e in t.events("-k") if e["event"] == "step_started"] == [
        "bad",
        "ok",
        "other",
    ]
    assert "not started" in err


def test_wrong_data_is_exit_code_2(project: MakeProject) -> None:
    code = "from finery import DataError; raise DataError('row 3 is empty', where='x.jsonl:3')"
    t = project({"recipe.yaml": recipe({"a": script(code)})})
    code_, _, err = t.run("build")
    assert code_ == 2
    assert "x.jsonl:3: error: row 3 is empty" in err
    assert "Traceback" not in err


def test_an_unmet_requirement_fails_the_build_but_not_the_result(project: MakeProject) -> None:
    score = {"use": "steps.score", "rows": "a", "score": 0.5, "least": 0.9}
    out = {"use": "steps.pack", "needs": ["e"]}
    more = f"evaluate: {json.dumps({'e': score})}\nexport: {json.dumps({'out': out})}\n"
    t = project({"recipe.yaml": recipe({"a": script("")}) + more})
    code, _, err = t.run("build")
    assert code == 1
    assert "accuracy is 0.5, required 0.9" in err
    assert (t.folder / "build/t/e/metrics.json").exists()
    events = t.events()
    assert events[-1]["exit_code"] == 1
    assert [e["step"] for e in events if e["event"] == "step_started"] == []
    assert [e["step"] for e in events if e["event"] == "step_blocked"] == ["out"]
    assert t.ran("--set", "evaluate.e.least=0.4") == ["out"]


@pytest.mark.parametrize(("end", "says"), [
    ("os.kill(os.getpid(), 9)", "killed (SIGKILL)"),
    ("os.kill(os.getpid(), 11)", "SIGSEGV"),
    ("os._exit(3)", "exit code 3"),
    ("raise SystemExit(4)", "calls sys.exit(4)"),
])  # fmt: skip
def test_a_process_that_dies_is_an_error_and_not_a_hang(
    project: MakeProject, end: str, says: str
) -> None:
    t = project({"recipe.yaml": recipe({"a": script(end), "b": script("", "steps.alone")})})
    code, _, err = t.run("build", "-k")
    assert code == 1
    assert says in err
    assert "Traceback" not in err
    assert (t.folder / "build/t/b").exists()


@pytest.mark.parametrize(("method", "code"), [("check", 2), ("verify", 1)])
def test_an_error_in_a_method_of_a_plugin_has_its_line(
    project: MakeProject, method: str, code: int
) -> None:
    t = project({"recipe.yaml": recipe({"a": {"use": "steps.script"}})})
    called = f"    def {method}(self, *outputs: Any) -> None:\n        int('x')\n"
    t.edit("steps.py", "class Alone", f"    pass\n\n{called}\n\nclass Alone")
    ran = t.run("build")
    assert ran.code == code
    assert f"recipe.yaml:4:8: error: `{method}` failed: ValueError: invalid literal" in ran.err
    assert "steps.py:" in ran.err
    assert ": int('x')\n  fix: correct it" in ran.err
    assert "requirement" not in ran.err


def test_a_step_that_returns_the_wrong_kind(project: MakeProject) -> None:
    steps = LIGHT_STEPS.read_text()
    t = project({
        "steps.py": steps.replace("return Bundle(job.out)", "return Dataset(job.out)"),
        "recipe.yaml": recipe({"p": {"use": "steps.pack"}}, "export"),
    })  # fmt: skip
    code, _, err = t.run("build")
    assert code == 1
    assert "returned Dataset, but declares Bundle" in err


def test_what_a_step_prints_goes_to_its_log(project: MakeProject) -> None:
    code = """
import ctypes, subprocess, sys
print('from python'); print('to stderr', file=sys.stderr)
ctypes.CDLL(None).puts(b'from C'); ctypes.CDLL(None).fflush(None)
subprocess.run(['echo', 'from a child'])
job.log('a note')
"""
    t = project(
        {"recipe.yaml": recipe({"a": script(code), "b": script("print('only b')", rows=["a"])})}
    )
    result = t.run("build", "--jobs", "1")
    assert result.code == 0
    logs = {p.stem: p.read_text() for p in (t.folder / ".finery/runs").glob("*/*.log")}
    for text in ("from python", "to stderr", "from C", "from a child"):
        assert text in logs["a"]
        assert text not in result.out + result.err
    assert logs["b"] == "only b\n"
    assert "a note" in result.err


LEAVINGS = """
(job.out / 'sub/deep').mkdir(parents=True)
(job.out / 'sub/deep/a.txt').write_text('a')
(job.out / 'zéro ↦ 文.bin').write_bytes(b'')
(job.out / 'empty').mkdir()
(job.out / 'b.txt').symlink_to('sub/deep/a.txt')
(job.out / 'z.txt').symlink_to('sub/deep/a.txt')
(job.out / 'hard.txt').hardlink_to(job.out / 'sub/deep/a.txt')
(job.scratch / 's').write_text('outside')
(job.out / 'outside.txt').symlink_to(job.scratch / 's')
"""


def test_what_a_step_leaves_is_kept_as_files_of_the_store(project: MakeProject) -> None:
    t = project({"recipe.yaml": recipe({"p": {"use": "steps.pack", "code": LEAVINGS}}, "export")})
    assert t.ran() == ["p"]
    out = t.folder / "build/t/p"
    found = {p.relative_to(out).as_posix(): p.read_text() for p in out.rglob("*") if p.is_file()}
    found.pop("manifest.json")
    assert found == {
        "sub/deep/a.txt": "a", "zéro ↦ 文.bin": "", "b.txt": "a", "z.txt": "a", "hard.txt": "a",
        "outside.txt": "outside",
    }  # fmt: skip
    assert t.ran() == []


@pytest.mark.parametrize(("code", "says"), [
    ("(job.out / 'x').symlink_to('nowhere')", "broken link: x"),
    ("(job.out / 'x').symlink_to('/etc')", "link to a folder: x"),
    ("os.mkfifo(job.out / 'x')", "contains x, which is neither a file nor a folder"),
    ("(job.out / 'manifest.json').write_text('{}')", "manifest.json"),
])  # fmt: skip
def test_what_cannot_be_kept_is_an_error(project: MakeProject, code: str, says: str) -> None:
    t = project({"recipe.yaml": recipe({"p": {"use": "steps.pack", "code": code}}, "export")})
    result = t.run("build", timeout=120)
    assert result.code == 1
    assert says in result.err
    assert "Traceback" not in result.err


def test_a_step_may_hand_on_its_input_and_nothing_else(project: MakeProject) -> None:
    steps = LIGHT_STEPS.read_text()
    t = project({
        "steps.py": steps.replace(
            "return Dataset.write(job.out, list(self.rows)[: self.most])",
            "return self.rows if self.most else Dataset.write(job.scratch, self.rows)"),
        "recipe.yaml": recipe({"a": script("rows.append({'prompt': 'kept'})"),
                               "same": {"use": "steps.limit", "rows": "a"}}),
    })  # fmt: skip
    assert t.ran() == ["a", "same"]
    assert t.rows("same") == t.rows("a") != []
    code, _, err = t.run("build", "--set", "data.same.most=0")
    assert code == 1
    assert "job.out" in err


def test_a_file_changed_or_removed_during_its_step_is_not_published(project: MakeProject) -> None:
    steps = LIGHT_STEPS.read_text()
    t = project({
        "steps.py": steps.replace('count("source")', "exec(os.environ.get('MEDDLE', ''))"),
        "rows.txt": "one",
        "recipe.yaml": recipe({"a": {"use": "steps.source", "path": "rows.txt"}}),
    })  # fmt: skip
    for meddle in (
        "open('rows.txt', 'a').write('more')",
        "os.remove('rows.txt'); self.path.paths = []",
    ):
        t.env["MEDDLE"] = meddle
        code, _, err = t.run("build")
        assert code == 1
        assert "changed while the step was reading it" in err
        assert "rows.txt" in err
    t.env["MEDDLE"] = ""
    t.write({"rows.txt": "one"})
    assert t.ran() == ["a"]


@pytest.mark.parametrize("is_link", [False, True])
def test_a_folder_swapped_and_swapped_back_during_a_step_is_noticed(
    project: MakeProject, is_link: bool
) -> None:
    steps = LIGHT_STEPS.read_text()
    t = project({
        "steps.py": steps.replace('count("source")', "exec(os.environ.get('MEDDLE', ''))"),
        "data/rows.txt": "one", "other/rows.txt": "two",
        "recipe.yaml": recipe({"a": {"use": "steps.source", "path": "data/rows.txt"}}),
    })  # fmt: skip
    if is_link:
        (t.folder / "data").rename(t.folder / "first")
        (t.folder / "data").symlink_to("first")
    swaps = [("data", "kept"), ("other", "data"), ("data", "other"), ("kept", "data")]
    t.env["MEDDLE"] = "\n".join(f"os.rename({old!r}, {new!r})" for old, new in swaps)
    code, _, err = t.run("build")
    assert code == 1
    assert "moved while the step was reading from it: data" in err
    t.env["MEDDLE"] = "open('data/other.txt', 'w').close()"
    assert t.ran() == ["a"]


SECRET = "sk-very-secret-0123456789"


def test_secrets_reach_the_step_and_nothing_else(project: MakeProject) -> None:
    code = """
secret = job.secret('PROBE_API_KEY')
assert os.environ['PROBE_API_KEY'] == secret
job.log(f'log {secret}'); job.progress(1, 2, f'progress {secret}'); print(f'printed {secret}')
rows.append({'prompt': str(len(secret))})
if Path('fail').exists(): raise ValueError(f'refused {secret}')
"""
    look = "rows.append({'prompt': os.environ.get('PROBE_API_KEY', 'nothing')})"
    t = project({"recipe.yaml": recipe({
        "with": script(code, env=["PROBE_API_KEY"]),
        "without": script(look, needs="with"), "alone": script(look, "steps.alone"),
        "asks": script("job.secret('OTHER')"),
    })})  # fmt: skip
    t.env["PROBE_API_KEY"] = SECRET
    first = t.run("build", "-k")
    assert "env: [OTHER]" in first.err
    assert [t.rows(n)[0]["prompt"] for n in ("with", "without", "alone")] == [
        "25",
        "nothing",
        "nothing",
    ]
    (t.folder / "fail").touch()
    t.edit("recipe.yaml", "str(len", "str(1 + len")
    second = t.run("build", "-k", "--json")
    assert "refused ***" in second.out
    assert SECRET not in first.out + first.err + second.out + second.err
    leaks = [p for p in t.folder.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert leaks == []


def test_a_literal_secret_is_in_no_output_and_not_in_the_store(project: MakeProject) -> None:
    """A key that someone wrote into the recipe, or passed by `--set`."""
    plugin = """
from finery import Dataset, Job, Step, hookimpl, setting

class Own(Step, seeded=False):
    '''Rows of an own service.'''
    api_key: str = setting(help="The key.")
    headers: dict[str, str] = setting({}, help="Headers.")
    dsn: str = setting("", help="Where the database is.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [{"prompt": "a", "completion": "b"}])

@hookimpl
def finery_steps():
    return {"plug.own": Own}
"""
    recipe = """
finery: 1
name: s
plugins: [./plug.py]
data:
  rows:
    use: plug.own
    api_key: 9f8e7d6c5b4a3928
    headers: {Authorization: "Bearer abc.def-3927"}
    dsn: "host=db password=pw392 dbname=x"
"""
    made = project({"plug.py": plugin, "recipe.yaml": recipe})
    ran = [
        made.run("build", "--set", "data.rows.api_key=typed39281"),
        made.run("build"),
        made.run("explain", "rows"),
        made.run("explain", "rows", "--all"),
        made.run("diff"),
        made.run("report"),
        made.run("runs", "--json"),
    ]
    assert [r.code for r in ran] == [0] * len(ran)
    assert "setting api_key" in ran[2].out
    texts = [r.out + r.err for r in ran]
    kept = [path for name in (".finery", "build") for path in (made.folder / name).rglob("*")]
    texts += [path.read_bytes().decode(errors="replace") for path in kept if path.is_file()]
    for secret in ("9f8e7d6c5b4a3928", "abc.def-3927", "pw392", "typed39281"):
        assert not [text for text in texts if secret in text], secret


def test_another_value_of_a_secret_reruns_nothing_and_a_missing_one_is_named(
    project: MakeProject,
) -> None:
    t = project({"recipe.yaml": recipe({"a": script("", env=["PROBE_API_KEY"])})})
    code, _, err = t.run("build")
    assert code == 2
    assert "PROBE_API_KEY" in err
    t.env["PROBE_API_KEY"] = "one"
    assert t.ran() == ["a"]
    t.env["PROBE_API_KEY"] = "two"
    assert t.ran() == []


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ("'code'", "recipe.yaml:6:11"),
        ("'rows'", "recipe.yaml:4:3"),  # it has none: the step itself
        ("None", "recipe.yaml:4:3"),
        ("'code.py:3'", "code.py:3"),
    ],
)
def test_an_error_of_a_running_step_has_its_place(
    project: MakeProject, where: str, place: str
) -> None:
    code = f"from finery import DataError; raise DataError('no', where={where})"
    text = (
        f'finery: 1\nplugins: [steps.py]\ndata:\n  a:\n    use: steps.script\n    code: "{code}"\n'
    )
    (failed,) = [e for e in project({"recipe.yaml": text}).events() if e["event"] == "step_failed"]
    assert failed["error"]["where"] == place


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_build_ends_its_workers_and_can_go_on(
    project: MakeProject, number: int
) -> None:
    mark = f"MARK={os.urandom(8).hex()}"
    code = "import subprocess; Path('{0}').touch(); subprocess.run(['sleep', '60'])"
    t = project({"recipe.yaml": recipe({
        "quick": script(""), "light": script(code.format("l"), needs="quick"),
        "heavy": script(code.format("h"), "steps.alone", needs="quick"),
    })})  # fmt: skip
    t.env["MARK"] = mark.removeprefix("MARK=")
    process = t.start("build", "--json")
    until(lambda: (t.folder / "l").exists() and (t.folder / "h").exists())
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted. Finished steps are kept" in err
    assert "Build again to continue" in err
    assert "Traceback" not in err
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["ok"], last["exit_code"]) == ("build_finished", False, 130)
    until(lambda: not running(mark))
    t.edit("recipe.yaml", "'60'", "'0'")
    assert t.ran() == ["heavy", "light"]


INTERRUPTS = """
import os, signal
from finery import hookimpl

@hookimpl
def finery_build_event(event):
    if event["event"] == "build_started":
        os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_build_that_is_interrupted_at_its_start_does_not_succeed(project: MakeProject) -> None:
    text = "finery: 1\nplugins: [steps.py, stop.py]\ndata: {a: {use: steps.script}}\n"
    process = project({"recipe.yaml": text, "stop.py": INTERRUPTS}).start("build", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted. Finished steps are kept" in err
    events = [json.loads(line) for line in out.splitlines()]
    assert [e["event"] for e in events] == ["build_started", "build_finished"]
    assert events[1]["exit_code"] == 130


def test_ctrl_c_in_the_last_moment_of_a_command_ends_it(project: MakeProject) -> None:
    t = project({"recipe.yaml": recipe({"a": {"use": "steps.script"}})})
    last = "import atexit, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
    t.edit("steps.py", "import random\n", f"import random\n{last}")
    process = t.start("check")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "recipe.yaml is valid: 1 step\n", "")


def test_a_folder_that_was_removed_is_an_error(project: MakeProject) -> None:
    t = project({})
    code = "import os, runpy; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); "
    run = "runpy.run_module('finery', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code + run, "build"],
        cwd=t.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: the working folder can't be found: ")


def test_python_without_docstrings_is_refused_once(project: MakeProject) -> None:
    t = project({})
    t.env["PYTHONOPTIMIZE"] = "2"
    process = t.start("build")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("error: ") == err.count("PYTHONOPTIMIZE=2") == 1


class Closing(InProcess):
    """An executor that may be interrupted while it closes."""

    def __init__(self, *, interrupted: bool) -> None:
        super().__init__()
        self.interrupted, self.closed = interrupted, 0

    def close(self) -> None:
        """Count the calls."""
        self.closed += 1
        if self.interrupted:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", ["start", "end"])
def test_the_executor_of_an_interrupted_build_is_closed(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def interrupt(store: Store) -> None:
        raise KeyboardInterrupt

    t = project({"recipe.yaml": recipe({"a": script("rows.append({'prompt': 'p'})")})})
    store = open_store(t.folder / "recipe.yaml")
    executor, events = Closing(interrupted=at == "end"), list[Event]()
    graph = open_graph(t.folder / "recipe.yaml", (), store)
    build = Build(graph, store, executor, [events.append])
    if at == "start":
        monkeypatch.setattr(Store, "sweep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build.run()
    assert (executor.closed, build.outcome.exit_code) == (1, 130)
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("build_finished", 130)
    assert [*build.outcome.results] == ([] if at == "start" else ["a"])
    store.close()


@pytest.mark.parametrize("args", ["build --json", "build", "plugins"])
def test_a_reader_that_leaves_early_is_no_crash(project: MakeProject, args: str) -> None:
    mark = f"MARK={os.urandom(8).hex()}"
    t = project(
        {"recipe.yaml": recipe({f"s{n}": script(f"job.log('x' * 9999) # {n}") for n in range(9)})}
    )
    t.env["MARK"] = mark.removeprefix("MARK=")
    read, write = os.pipe()
    process = t.start(
        *args.split(), stdout=write, stderr=write if args == "build" else subprocess.PIPE
    )
    os.close(write)
    os.read(read, 100)
    os.close(read)
    _, err = process.communicate(timeout=120)
    assert "Traceback" not in (err or "")
    assert "Exception ignored" not in (err or "")
    assert process.returncode in (0, 1)
    until(lambda: not running(mark))
    assert t.run("build").code == 0


def test_scratch_is_kept_until_the_step_succeeds(project: MakeProject) -> None:
    code = """
tries = len(list(job.scratch.iterdir()))
(job.scratch / str(tries)).touch()
if tries < 2: raise ValueError('not yet')
rows.append({'prompt': str(tries)})
"""
    t = project({"recipe.yaml": recipe({"a": script(code)})})
    assert [t.run("build").code for _ in range(3)] == [1, 1, 0]
    assert t.rows("a")[0]["prompt"] == "2"
    assert list((t.folder / ".finery/work").iterdir()) == []


def test_files_of_a_person_in_the_build_folder_are_never_replaced(project: MakeProject) -> None:
    t = project({"recipe.yaml": recipe({"a": script("")})})
    for place in ("build/t/a/mine.txt", "build/t/a", "build/t", "build"):
        if (t.folder / "build").exists():
            subprocess.run(["rm", "-r", t.folder / "build"], check=True)
        t.write({place: "mine"})
        code, _, err = t.run("build")
        assert code in (1, 2), place
        assert "Traceback" not in err
        assert "build" in err
        assert (t.folder / place).read_text() == "mine"


def test_steps_with_one_key_run_once(project: MakeProject) -> None:
    t = project(
        {"recipe.yaml": recipe({f"s{n}": script("rows.append({'prompt': 'x'})") for n in range(4)})}
    )
    assert len(t.ran("--jobs", "4")) == 1
    assert [r["prompt"] for n in range(4) for r in t.rows(f"s{n}")] == ["x"] * 4


ODD_ROWS = """\
from finery import Dataset, Job, Step, hookimpl


class Odd(Step, sections=("data",)):
    \"\"\"Writes a row that isn't JSON.\"\"\"

    def run(self, job: Job) -> Dataset:
        \"\"\"Write it.\"\"\"
        return Dataset.write(job.out, ({"text": text} for text in ("late", object())))


@hookimpl
def finery_steps():
    return {"odd.rows": "odd:Odd"}
"""


def test_a_row_that_cant_be_written_is_named_with_the_line_of_the_plugin(
    project: MakeProject,
) -> None:
    recipe = "finery: 1\nname: t\nplugins: [./odd.py]\ndata: {a: {use: odd.rows}}\n"
    ran = project({"recipe.yaml": recipe, "odd.py": ODD_ROWS}).run("build")
    assert ran.code == 1
    problem = "row 2 can't be written as JSON: Encoding objects of type object is unsupported"
    assert f"step type 'odd.rows' failed: TypeError: {problem}" in ran.err
    assert "odd.py:9: return Dataset.write(job.out" in ran.err
