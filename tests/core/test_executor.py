"""Worker processes: warm or alone, watched, and gone when nobody needs them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from conftest import MakeProject, running, until
from needs import may_lack
from tasks import PID, WORKER, Tasks, ends, need, number_of, text_of

from finery.execute.environment import secrets_for_all, worker_environment
from finery.execute.gpus import cpu_count
from finery.execute.local import LocalExecutor

needs_two_cores = pytest.mark.skipif(
    cpu_count() == 1, reason=may_lack("a worker starts ahead on a core of its own")
)


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    """An executor that runs two steps at once."""
    made = LocalExecutor(2)
    yield made
    made.close()


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Tasks]:
    """Makes tasks of `light_steps.py`."""
    made = Tasks(tmp_path)
    yield made
    made.store.close()


def test_light_steps_share_a_warm_worker(executor: LocalExecutor, task: Tasks) -> None:
    pids = []
    for _ in range(2):
        executor.start(task(WORKER))
        pids += [number_of(e, task) for e in ends(executor, 1).values()]
    assert pids[0] == pids[1]


def test_isolated_steps_get_a_process_that_ends_with_them(
    executor: LocalExecutor, task: Tasks
) -> None:
    pids = []
    for _ in range(2):
        executor.start(task(PID, isolated=True))
        pids += [number_of(e, task) for e in ends(executor, 1).values()]
    assert pids[0] != pids[1]
    until(lambda: not any(alive(pid) for pid in pids))


@needs_two_cores
def test_a_worker_gets_ready_before_there_is_a_step(executor: LocalExecutor, task: Tasks) -> None:
    (ready,) = [worker.process.pid for worker in executor._workers]
    executor.start(task(WORKER))
    (event,) = ends(executor, 1).values()
    assert number_of(event, task) == ready


def test_the_worker_that_got_ready_has_the_environment_of_its_first_step(
    executor: LocalExecutor, task: Tasks
) -> None:
    first = task("rows.append({'prompt': os.environ['GOMP_SPINCOUNT']})")
    executor.start(first)
    (event,) = ends(executor, 1).values()
    wanted = worker_environment(first, alone=False)["GOMP_SPINCOUNT"]
    assert number_of(event, task) == int(wanted)


@needs_two_cores
def test_a_worker_that_got_ready_does_not_wait_beside_a_heavy_step(
    executor: LocalExecutor, task: Tasks
) -> None:
    (ready,) = [worker.process.pid for worker in executor._workers]
    executor.start(task("import time; time.sleep(600)", isolated=True))
    until(lambda: not alive(ready))


def alive(pid: int) -> bool:
    """Whether a process runs (one that is dead and not waited for doesn't)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_room_by_default_is_for_light_steps_on_all_cores_and_one_heavy_one(task: Tasks) -> None:
    executor = LocalExecutor()
    wait = "import time; time.sleep(600)"
    for n in range(cpu_count()):
        assert executor.has_room(need(False)), n
        executor.start(task(wait))
    assert not executor.has_room(need(False))
    assert executor.has_room(need(True))
    executor.start(task(wait, isolated=True))
    assert not executor.has_room(need(True))
    executor.close()


def test_a_step_that_measures_time_runs_alone(task: Tasks) -> None:
    executor, wait = LocalExecutor(4), "import time; time.sleep(600)"
    alone = msgspec.structs.replace(need(True), alone=True)
    assert executor.has_room(alone)
    executor.start(task(wait))
    assert not executor.has_room(alone)
    executor.close()
    executor = LocalExecutor(4)
    executor.start(msgspec.structs.replace(task(wait, isolated=True), alone=True))
    assert not executor.has_room(need(False))
    executor.close()


def test_a_warm_worker_that_died_is_replaced(executor: LocalExecutor, task: Tasks) -> None:
    executor.start(task(WORKER))
    (event,) = ends(executor, 1).values()
    os.kill(number_of(event, task), signal.SIGKILL)
    until(lambda: not alive(number_of(event, task)))
    executor.start(task(PID))
    (then,) = ends(executor, 1).values()
    if then["event"] == "died":  # the task was sent before the death was seen: it is told
        executor.start(task(PID))
        (then,) = ends(executor, 1).values()
    assert then["event"] == "done"


def test_closing_ends_running_steps_and_their_children(task: Tasks, tmp_path: Path) -> None:
    executor = LocalExecutor(2)
    mark = f"probe-{os.urandom(6).hex()}"
    shell = f"touch {tmp_path}/up; exec sleep 60"
    run = f"subprocess.run(['sh', '-c', '{shell}'], env={{'MARK': '{mark}'}})"
    executor.start(task(f"import subprocess; {run}"))
    until(lambda: (tmp_path / "up").exists())
    executor.close()
    until(lambda: not running(mark))


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(1)"])
def test_what_a_step_started_ends_with_its_worker(
    executor: LocalExecutor, task: Tasks, end: str
) -> None:
    mark = f"probe-{os.urandom(6).hex()}"
    child = f"subprocess.Popen(['sleep', '60'], env={{'MARK': '{mark}'}})"
    executor.start(task(f"import subprocess; {child}; {end}"))
    assert ends(executor, 1)["s1"]["event"] == "died"
    until(lambda: not running(mark))


def test_isolated_steps_that_ended_leave_nothing(executor: LocalExecutor, task: Tasks) -> None:
    files, processes = open_files(), children()
    for code in (PID, PID, "os._exit(1)", PID):
        executor.start(task(code, isolated=True))
        ends(executor, 1)

    def is_as_before() -> bool:
        assert not [*executor.poll(0.01)]
        return open_files() <= files and children() <= processes

    until(is_as_before)


def open_files() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd"))


def children() -> int:
    """How many children this process has, with those that ended and weren't waited for."""
    parents = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.append(int(path.read_text().rpartition(")")[2].split()[1]))
    return parents.count(os.getpid())


UNASKED = (
    "OPENAI_API_KEY", "HF_TOKEN", "db_password", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL",
    "GITHUB_PAT", "PIP_INDEX_URL", "API_KEYS", "OPENAI_KEY_2", "MYSQL_PWD", "DB_PASS", "JWT",
    "PRIVATE_KEY_PEM", "NVIDIA_API_KEY", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "SLURM_JWT",
    "FINERY_X_TOKEN", "KEYBOARD",
)  # fmt: skip
TELL = "rows.append({'prompt': ' '.join(f'{k}={v}' for k, v in os.environ.items())})"


def environments(executor: LocalExecutor, task: Tasks) -> list[str]:
    """What a step sees in a warm worker, in the same one later, and in one of its own."""
    texts = []
    for isolated in (False, False, True):
        executor.start(task(TELL, isolated=isolated))
        (event,) = ends(executor, 1).values()
        texts.append(text_of(event, task))
    return texts


def test_steps_inherit_only_what_they_need(task: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in UNASKED:
        monkeypatch.setenv(name, "5ecret")
    monkeypatch.setenv("https_proxy", "http://me:5ecret@proxy:3128")
    monkeypatch.setenv("HF_ENDPOINT", "https://5ecret@hub.example/x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    executor = LocalExecutor(2)
    try:
        for text in environments(executor, task):
            assert "5ecret" not in text
            assert "https_proxy=http://proxy:3128 " in f"{text} "
            assert "HF_ENDPOINT=https://hub.example/x " in f"{text} "
            assert "CUDA_VISIBLE_DEVICES=0 " in f"{text} "
    finally:
        executor.close()


def test_a_user_can_pass_more_by_name(task: Tasks, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SITE", "ACME_MODE", "ACME_API_KEY", "ACMEX", "DATABASE_URL"):
        monkeypatch.setenv(name, f"of {name}")
    monkeypatch.setenv("DATABASE_URL", "postgres://me:5ecret@db/x")
    monkeypatch.setenv("FINERY_PASS_ENV", "SITE, ACME_* DATABASE_URL")
    environment = worker_environment(task(""), alone=True)
    assert (environment["SITE"], environment["ACME_MODE"]) == ("of SITE", "of ACME_MODE")
    assert environment.keys().isdisjoint({"ACMEX", "ACME_API_KEY", "DATABASE_URL"})
    assert secrets_for_all(os.environ).keys() == {"ACME_API_KEY", "DATABASE_URL"}


def test_a_worker_whose_parent_is_gone_runs_nothing(task: Tasks, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    ended = subprocess.Popen(["true"])
    ended.wait()
    from multiprocessing.connection import Connection

    connection = Connection(ours.detach())
    connection.send_bytes(msgspec.msgpack.encode(task(f"Path('{tmp_path}/ran').touch()")))
    command = [sys.executable, "-m", "finery.execute.worker", str(theirs.fileno()), str(ended.pid)]
    done = subprocess.run(command, pass_fds=[theirs.fileno()], timeout=120)
    assert done.returncode == 1
    assert not (tmp_path / "ran").exists()
    connection.close()
    theirs.close()


COLLECTIONS = """
import gc, os, sys, types
from finery.execute.worker import become_worker

def make(count):
    for _ in range(count):
        made = []
        made.append(made)

default = gc.get_threshold()
become_worker(os.getppid())
for number in range(20):
    sys.modules[f"new{number}"] = types.ModuleType("new")
    make(30_000)
rare = gc.get_threshold()
make(150_000)
print(rare[0], gc.get_threshold() == default, gc.callbacks)
"""


def test_collections_are_rare_until_no_more_modules_are_imported() -> None:
    ran = subprocess.run([sys.executable, "-c", COLLECTIONS], capture_output=True, text=True)
    assert ran.stdout == "50000 True []\n", ran.stderr


SURROUNDINGS = """
import sys, time
rows.append({"prompt": repr([
    hash("a"), time.strftime("%H:%M", time.localtime(0)), open(os.devnull).encoding, sys.path[0],
    oct(os.umask(0)), sorted(n for n in os.environ if n.startswith(("LC_", "LANG", "PYTHON"))),
])})
"""


def test_what_a_step_computes_by_default_does_not_depend_on_the_user(
    task: Tasks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []
    for user in (
        {"LC_ALL": "C", "LANGUAGE": "de", "LANG": "de_DE", "TZ": "Asia/Tokyo", "LC_NUMERIC": "C"},
        {"PYTHONHASHSEED": "7", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"PYTHONWARNINGS": "error", "PYTHONINTMAXSTRDIGITS": "700", "FINERY_PASS_ENV": "TZ LC_ALL"},
    ):
        with monkeypatch.context() as patch:
            for name, value in user.items():
                patch.setenv(name, value)
            patch.chdir(tmp_path)
            umask = os.umask(0o077)
            executor = LocalExecutor(1)
            for isolated in (False, True):
                executor.start(task(SURROUNDINGS, isolated=isolated))
                (event,) = ends(executor, 1).values()
                seen.append(text_of(event, task))
            executor.close()
            os.umask(umask)
    assert len({*seen}) == 1
    assert "'00:00', 'utf-8'" in seen[0].lower()
    assert str(tmp_path) not in seen[0]
    assert "'0o22'" in seen[0]


def test_a_recipe_cannot_pass_what_is_the_same_everywhere(project: MakeProject) -> None:
    text = "finery: 1\nname: t\nplugins: [./steps.py]\ndata:\n  a: {use: steps.script, env: [TZ]}\n"
    t = project({"recipe.yaml": text})
    ran = t.run("check")
    assert ran.code == 2
    assert "recipe.yaml:5:32: error: TZ can't be passed to a step: it is UTC" in ran.err


def test_the_working_directory_is_not_searched_for_modules(project: MakeProject) -> None:
    code = '{use: steps.script, code: "import colour; rows.append({})"}'
    text = f"finery: 1\nname: t\nplugins: [./lib/steps.py]\ndata:\n  a: {code}\n"
    t = project({"lib/steps.py": "from light import *\n", "recipe.yaml": text, "colour.py": ""})
    t.write({"lib/light.py": (t.folder / "steps.py").read_text()})
    (event,) = [e for e in t.events() if e["event"] == "step_failed"]
    assert "No module named 'colour'" in event["error"]["what"]
    ran = subprocess.run(
        [sys.executable, "-m", "finery", "--version"], cwd=t.folder, capture_output=True,
        env=t.environment() | {"PYTHONVERBOSE": "1"},
    )  # fmt: skip
    assert f"{t.folder}/".encode() not in ran.stderr
