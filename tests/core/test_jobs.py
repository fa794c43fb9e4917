"""Where and when steps run: their resources, their executors, and jobs that outlive a build."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from background import Background
from conftest import MakeProject, until
from tasks import Tasks, ends, need, text_of

from finery import StepError, UsageError
from finery.config import settings_in_force
from finery.execute import detached, local
from finery.execute.executor import Expects, Task
from finery.execute.job import JobFolder, environment_differences, supervise
from finery.execute.local import LocalExecutor, fits_machine
from finery.execute.routing import Router, check_executors
from finery.inference.records import SqliteRecords
from finery.plugin.manager import load_plugins
from finery.recipe.document import load
from finery.step.resources import Reservation

GIB = 2**30
A_STEP = "  a: {use: steps.script, resources: {memory: 24GB, cpus: 8, time: 1h30m}}\n"
RECIPE = f"""\
finery: 1
name: t
plugins: [./steps.py]
data:
{A_STEP}\
  b: {{use: steps.script, code: "1"}}
"""


def test_resources_are_read_and_written() -> None:
    read = Reservation.read({
        "gpus": 2, "gpu_memory": "20GB", "memory": "1.5GB", "cpus": 1, "time": "1d2h30m"
    })  # fmt: skip
    assert read == Reservation(
        gpus=2, gpu_memory=20 * GIB, memory=3 * GIB // 2, cpus=1, time=95_400
    )
    assert str(read) == "2 GPUs, 20GB on a GPU, 1.5GB of memory, 1 core, 26h30m"
    assert str(Reservation()) == ""


@pytest.mark.parametrize("written", ["500MB", "1500MB", "1.7GB", "24GB", "1.25TB", "0.50MB"])
def test_memory_is_shown_as_recipes_write_it(written: str) -> None:
    assert str(Reservation.read({"memory": written})) == f"{written} of memory"


def test_resources_change_no_key_and_are_in_the_plan(project: MakeProject) -> None:
    t = project({"recipe.yaml": RECIPE})
    assert "asks for 24GB of memory, 8 cores, 1h30m" in t.run("plan").out
    assert t.ran("--set", "data.a.resources={cpus: 1}") == ["a", "b"]
    assert t.ran() == []
    assert "asks for" not in t.run("plan").out
    assert t.run("plan", "--json").out.count('"resources":{"memory":25769803776') == 1


GPU_STEP = """

class Uses(Script, gpus=1):
    "Uses GPUs."

    processes: int = setting(1, help="GPUs.")

    def resources(self):
        from finery import Resources

        return Resources(gpus=self.processes)


@hookimpl
def finery_steps() -> dict[str, Any]:
    "With the new one."
    return {"steps.uses": Uses}
"""


@pytest.mark.parametrize(
    ("written", "error"),
    [
        ("resources: {gpus: 2}", "resources asks for 2 GPUs, but the step uses 1"),
        ("processes: 2, gpus: [0], resources: {gpus: 2}", "for 2 GPUs, but gpus lists 1"),
        ("resources: {memory: 24}", "resources.memory"),
        ("resources: {memory: 24 gigs}", "'resources.memory' can't be '24 gigs'"),
        ("resources: {time: fast}", "'resources.time' can't be 'fast'"),
    ],
)
def test_resources_that_contradict_are_errors(
    project: MakeProject, written: str, error: str
) -> None:
    t = project({"recipe.yaml": RECIPE.replace("b: {use: steps.script", "b: {use: steps.uses")})
    steps = (t.folder / "steps.py").read_text().partition("@hookimpl")[0]
    t.write({"steps.py": steps + GPU_STEP})
    t.edit(
        "recipe.yaml",
        "  a: {use: steps.script, resources: {memory: 24GB, cpus: 8, time: 1h30m}}",
        "",
    )
    t.edit("recipe.yaml", 'uses, code: "1"', f"uses, {written}")
    ran = t.run("check")
    assert ran.code == 2
    assert error in ran.err


def test_steps_on_a_machine_ask_for_no_more_than_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cpu_count", lambda: 8)
    monkeypatch.setattr(local, "memory_bytes", lambda: 16 * GIB)
    small, large, huge = (need(True, memory=n * GIB, cpus=2) for n in (4, 12, 20))
    assert fits_machine(small, [large])
    assert not fits_machine(small, [large, small])
    assert not fits_machine(need(True, cpus=7), [small])
    assert fits_machine(need(False), [large, small]), "which says nothing of itself"
    assert not fits_machine(huge, [need(False)]), "it runs alone"
    assert not fits_machine(need(False), [huge])


def test_isolated_steps_with_cores_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(local, "cpu_count", lambda: 4)
    monkeypatch.setattr(local, "memory_bytes", lambda: 4 * GIB)
    task, executor = Tasks(tmp_path), LocalExecutor()
    try:
        threads = "rows.append({'prompt': os.environ['OMP_NUM_THREADS']})"
        first = task(threads, isolated=True)
        first.resources = Reservation(cpus=2)
        executor.start(first)
        assert executor.has_room(need(True, cpus=2))
        assert not executor.has_room(need(True, cpus=3))
        assert not executor.has_room(need(True)), "which may use all cores"
        assert [text_of(e, task) for e in ends(executor, 1).values()] == ["2"]
        large = task("", isolated=True)
        large.resources = Reservation(memory=9 * GIB)
        executor.start(large)
        (_, event), *_ = executor.poll(1)
        assert event.get("message") == (
            "asks for 9GB of memory, and this machine has 4GB of memory: it runs alone"
        )
    finally:
        executor.close()
        task.store.close()


# -- routing ---------------------------------------------------------------------------------------


def router(t: Any, configuration: str, option: str | None = None) -> Router:
    t.write({"finery.toml": configuration})
    made = Router(settings_in_force(t.folder / "recipe.yaml"), t.folder / ".finery", 1, option)
    made.close()
    return made


@pytest.mark.parametrize(
    ("routes", "option", "name"),
    [
        ("b = 'x'\n'steps.script' = 'y'\ndata = 'z'", None, "x"),
        ("'steps.script' = 'y'\ndata = 'z'", None, "y"),
        ("data = 'z'\ndefault = 'd'", None, "z"),
        ("train = 'z'\ndefault = 'd'", None, "d"),
        ("train = 'z'\ndefault = 'd'", "e", "e"),
        ("data = 'z'", "e", "z"),
        ("train = 'z'", None, "local"),
    ],
)
def test_name_beats_type_beats_section_beats_default(
    project: MakeProject, routes: str, option: str | None, name: str
) -> None:
    made = router(project({"recipe.yaml": RECIPE}), f"[executors]\n{routes}\n", option)
    step = need(False)
    step.step, step.origin, step.section = "b@r=8", "b", "data"
    assert made.name_for(step) == name


@pytest.mark.parametrize(
    ("configuration", "option", "where", "fix"),
    [
        ("[executors]\ndata = 'slurn'\n", None, "finery.toml:1", "did you mean 'slurm'?"),
        ("[slurn]\ntime = '1h'\n", None, "finery.toml:1", "did you mean 'slurm'?"),
        ("[executors]\ndata = 'slurm'\n[slurm]\ntme = '1h'\n", None, "finery.toml:3", "'time'?"),
        ("[executors]\ndata = 'slurm'\n[slurm]\ntime = 9\n", None, "finery.toml:3", "correct it"),
        ("[local]\njobs = 3\n", None, "finery.toml:1", "remove"),
        ("", "moon", "--executor", "one of: local, ray, slurm"),
    ],
)
def test_wrong_executors_and_options_are_errors(
    project: MakeProject, configuration: str, option: str | None, where: str, fix: str
) -> None:
    t = project({"recipe.yaml": RECIPE})
    made = router(t, configuration, option)
    step = need(False)
    step.section = "data"
    with pytest.raises(UsageError) as raised:
        made.use(load_plugins(()), [step])
    made.close()
    assert str(raised.value.where).endswith(where)
    assert fix in (raised.value.fix or "")


def test_a_name_that_no_recipe_has_is_pointed_out(
    project: MakeProject, capsys: pytest.CaptureFixture[str]
) -> None:
    t = project({"recipe.yaml": RECIPE, "other.yaml": "finery: 1\ndata:\n  elsewhere: {}\n"})
    t.write({"finery.toml": "[executors]\nelsewhere = 'local'\nb = 'local'\nbb = 'local'\n"})
    recipe, settings = load(t.folder / "recipe.yaml"), settings_in_force(t.folder / "recipe.yaml")
    check_executors(settings, load_plugins(()), recipe)
    (warning,) = capsys.readouterr().err.splitlines()
    assert "finery.toml:1: executors: there is no section, step type or step 'bb'" in warning


def test_a_plan_names_executors(project: MakeProject) -> None:
    t = project({"recipe.yaml": RECIPE, "finery.toml": "[executors]\na = 'slurm'\n"})
    plan = t.run("plan")
    assert "         runs on slurm; asks for 24GB of memory, 8 cores, 1h30m\n" in plan.out, plan.err
    assert plan.out.count("runs on") == 1
    lines = [json.loads(line) for line in t.run("plan", "--json").out.splitlines()]
    assert [line["executor"] for line in lines] == ["slurm", "local"]


def test_a_full_executor_holds_up_only_its_own_steps(project: MakeProject) -> None:
    """While an isolated step runs here, a step for another executor starts."""
    other = "\n\nclass Other(InProcess):\n    'Runs steps where it stands.'\n\n"
    other += "    def __init__(self, jobs):\n        super().__init__()\n\n\n"
    other += "@hookimpl\ndef finery_executors():\n    return {'other': Other}\n"
    t = project({"recipe.yaml": RECIPE, "finery.toml": "[executors]\nc = 'other'\n"})
    t.edit("steps.py", "\nimport random\n", "\nimport random\nfrom in_process import InProcess\n")
    t.write({"steps.py": (t.folder / "steps.py").read_text() + other})
    waits = "import time\\nwhile not os.path.exists('go'): time.sleep(0.01)"
    codes = {"a": waits, "b": f"{waits}#", "c": "Path('go').touch()"}
    steps = "".join(f'  {n}: {{use: steps.alone, code: "{c}"}}\n' for n, c in codes.items())
    t.write({"recipe.yaml": RECIPE.partition("  a:")[0] + steps})
    t.env["PYTHONPATH"] = str(Path(__file__).parents[1])
    ran = t.run("build", timeout=60)
    assert ran.code == 0, ran.err


# -- jobs ------------------------------------------------------------------------------------------


def test_an_environment_is_compared_before_work_starts() -> None:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    code = {"finery/errors.py": "0" * 64, "finery/gone.py": ""}
    expects = Expects(python="2.7", packages={"blake3": "0.1", "msgspec": "9"}, code=code)
    said = list(environment_differences(expects))
    assert said[0] == f"Python is {python} there and 2.7 here"
    assert said[1].endswith("there and 0.1 here")
    assert said[3:] == [
        "the code in finery/errors.py differs between there and here",
        "the code in finery/gone.py is missing there",
    ]
    assert list(environment_differences(Expects(python=python))) == []


@pytest.fixture
def job(tmp_path: Path) -> tuple[Tasks, Task]:
    """A task of a job, and what makes it."""
    tasks = Tasks(tmp_path)
    task = tasks("rows.append({'prompt': os.environ['TOKEN'][:3]}); print(os.environ['TOKEN'])")
    task.env = {"TOKEN": "abc-secret-xyz"}
    return tasks, task


def test_a_secret_can_reach_a_job_in_a_file(job: tuple[Tasks, Task], tmp_path: Path) -> None:
    """It is gone when the step starts."""
    folder = JobFolder.of_task(job[1])
    about = folder.create(job[1], "test")
    secrets = folder.path / "secrets"
    secrets.write_text('{"TOKEN": "abc-secret-xyz"}')
    supervise(str(folder.path), about.token)
    *_, end = folder.read()
    assert (end["event"], text_of(end, job[0])) == ("done", "abc")
    assert not secrets.exists()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if b"abc-secret-xyz" in path.read_bytes()]
    assert "***" in (folder.path / "log").read_text()


def test_a_job_that_was_replaced_does_not_start(job: tuple[Tasks, Task]) -> None:
    folder = JobFolder.of_task(job[1])
    old = folder.create(job[1], "test")
    folder.create(job[1], "test")
    supervise(str(folder.path), old.token)
    assert list(folder.read()) == []


def test_a_job_may_be_told_to_end_when_its_step_has_ended(
    job: tuple[Tasks, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray tells both at once."""
    folder, wait = JobFolder.of_task(job[1]), subprocess.Popen.wait

    def told(process: "subprocess.Popen[str]", timeout: float | None = None) -> int:
        if "finery.execute.job" not in str(process.args):  # of a thread that an earlier test left
            return wait(process, timeout)
        monkeypatch.undo()
        wait(process)
        raise SystemExit(128 + signal.SIGTERM)

    monkeypatch.setattr(subprocess.Popen, "wait", told)
    with pytest.raises(SystemExit):
        supervise(str(folder.path), folder.create(job[1], "test").token)


def test_what_a_job_leaves_is_safe_from_the_next_build(job: tuple[Tasks, Task]) -> None:
    """A sweep keeps its folders, and so does a build that looks for its scratch."""
    store, task = job[0].store, job[1]
    JobFolder.of_task(task).create(task, "test")
    (Path(task.out) / "half").touch()
    store.sweep()
    store.sweep_abandoned()
    assert store.work(task.key) == (Path(task.out), Path(task.scratch))
    assert (Path(task.out) / "half").exists()
    store.clear_work(task.key)
    assert not os.listdir(store.root / "work")


def test_answers_of_a_job_on_another_machine_come_into_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite can't share a database between machines."""
    monkeypatch.setattr(socket, "gethostname", lambda: "login-node")
    tasks, executor = Tasks(tmp_path), Background(None)
    task = tasks("job.records.put({b'k' * 32: b'v'}); rows.append({'prompt': 'p'})")
    executor.start(task)
    assert [e["event"] for e in ends(executor, 1).values()] == ["done"]
    assert (JobFolder.of_task(task).path / "records.db").exists()
    assert SqliteRecords(tasks.store.database).get([b"k" * 32]) == {b"k" * 32: b"v"}


def test_a_job_that_was_told_to_end_is_submitted_again(tmp_path: Path) -> None:
    """As if it was preempted. Its scratch is kept."""
    tasks, executor = Tasks(tmp_path), Background(None)
    mark = "job.scratch.mkdir(exist_ok=True)\n(job.scratch / str(os.getpid())).touch()\n"
    ends_once = "if len(list(job.scratch.iterdir())) < 2: os.kill(os.getpid(), 15)\n"
    executor.start(tasks(f"{mark}{ends_once}rows.append({{'prompt': 'p'}})"))
    assert [e["event"] for e in ends(executor, 1).values()] == ["done"]


def test_a_lost_job_has_died_and_files_that_changed_end_another(tmp_path: Path) -> None:
    tasks, first, second = Tasks(tmp_path), Background(None), Background(None)
    task = tasks("import time; time.sleep(600)")
    read = tmp_path / "read.txt"
    read.write_text("1")
    task.files = {"path": [("read.txt", str(read))]}
    first.start(task)
    said: Any = next(iter(first.poll(10)))[1]
    read.write_text("22")
    second.start(task)
    why: Any = next(iter(second.poll(0)))[1]
    assert why["message"].endswith("of an earlier build doesn't count: files that it reads changed")
    old = said["message"].split()[-1]
    assert first.states([old]) == {old: "ended"}
    until(lambda: [*second.poll(0.1)] or second.left())
    second.end([second.left()[0].split()[-1]])
    ((_, end),) = ends(second, 1).items()
    assert end["event"] == "died"
    assert end["reason"].endswith("ended")


def test_a_job_is_not_outdated_by_code_that_changes_after_it_began(tmp_path: Path) -> None:
    """Before, it would refuse to start, also for a comment, which doesn't change the key."""
    tasks, code = Tasks(tmp_path), tmp_path / "helper.py"
    code.write_text("A = 1\n")
    task = tasks("import time; time.sleep(600)")
    task.code = [str(code)]
    folder = JobFolder.of_task(task)
    about = folder.create(task, "test")
    assert folder.outdated(about) == ""
    code.write_text("A = 1  # one\n")
    assert folder.outdated(about).endswith("helper.py changed before it began")
    folder.append({"event": "began", "host": "there", "at": 0.0})
    assert folder.outdated(about) == ""


def test_a_job_is_kept_while_its_engine_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is waited for. If it lasts, the step fails, and a later build finds the job."""

    def refuse(self: Background, ids: object) -> None:
        raise StepError("no controller", fix="start it")

    tasks, first, second, third = Tasks(tmp_path), *(Background(None) for _ in range(3))
    task = tasks(
        f"import time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)"
    )
    first.start(task)
    until(lambda: [*first.poll(0.1)])
    (named,) = first.left()
    with monkeypatch.context() as outage:
        outage.setattr(Background, "states", refuse)
        third.start(task)
        outage.setattr(detached, "ANSWER_SECONDS", 0)
        second.start(task)
        end: Any = [event for _, event in second.poll(0)][-1]
    assert (end["event"], end["continues"]) == ("failed", True)
    assert end["error"]["what"].endswith(f"({named[4:]} of an earlier build may still run)")
    assert third.left() == [named]
    (tmp_path / "go").touch()
    assert [e["event"] for e in ends(third, 1).values()] == ["done"]
