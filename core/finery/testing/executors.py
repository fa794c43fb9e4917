"""The tests that every executor must pass, to inherit."""

import re
import signal
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from blake3 import blake3

from finery.artifact.manifest import Manifest
from finery.execute.executor import Detached
from finery.testing import given
from finery.testing.checks import problems_of_executor
from finery.testing.imports import (
    HEAVY_FIX,
    REQUIRE_FIX,
    problems_of_loading,
    problems_of_requirements,
)
from finery.util.events import Event

if TYPE_CHECKING:
    import pytest

    from finery.execute.executor import Executor, Task

CLOSING = ("done", "failed", "died")
SECRET = "FINERY_CONTRACT_API_KEY"
SECRET_VALUE = "executor-secret-77b1f0c2d4e9"
TELLS_PROCESS = """
import socket, subprocess
job.log(f"{socket.gethostname()} {os.getpid()}")
"""
STARTS_CHILD = f"""{TELLS_PROCESS}
child = subprocess.Popen(["sleep", "600"])
job.log(f"{{socket.gethostname()}} {{child.pid}}")
"""


class ExecutorContract:
    """The tests that every executor must pass. Subclass it and create the executor.

        class TestSlurm(ExecutorContract):
            def executor(self, jobs):
                return SlurmExecutor(jobs)

    The contract is described in `finery.execute.executor`. The tests start tasks that run a few
    lines of Python, and check the events.

    patience: the most seconds between two events. own_lines: a pattern of the log lines that come
    from the executor and not from the step.
    """

    patience: ClassVar[float] = 60.0
    own_lines: ClassVar[str] = "$."

    def executor(self, jobs: int | None) -> "Executor":
        """A new executor. jobs: the most steps at a time; None lets the executor choose."""
        raise NotImplementedError

    def test_it_is_described(self) -> None:
        """The class has a docstring and the methods of an executor."""
        cls = type(self.executor(None))
        problems = list(problems_of_executor(cls, "the executor"))
        assert not problems, problems

    def test_loading_it_imports_nothing_heavy(self) -> None:
        """Commands load the module before a step runs."""
        problems = list(problems_of_loading([type(self.executor(None)).__module__]))
        assert not problems, f"{problems}: {HEAVY_FIX}"

    def test_what_it_imports_is_required(self) -> None:
        """The metadata of the plugin requires what its package imports."""
        problems = problems_of_requirements(type(self.executor(None)).__module__)
        assert not problems, f"{problems}: {REQUIRE_FIX}"

    def test_reports_come_in_order_and_then_one_end(self, tmp_path: Path) -> None:
        """Reports keep their order, and `done` follows with the outputs."""
        code = """
job.log("one")
job.progress(1, 2, "half")
job.metric("loss", 0.5, 10)
job.log("two")
rows.append({"prompt": "p"})
"""
        with self._running({"a": _task(tmp_path, "a", code)}) as events:
            *reports, end = list(events)
        assert [event for _, event in reports] == [
            {"event": "log", "message": "one"},
            {"event": "progress", "done": 1, "total": 2, "text": "half"},
            {"event": "metric", "name": "loss", "value": 0.5, "at": 10},
            {"event": "log", "message": "two"},
        ]
        assert end[1]["event"] == "done"
        manifest = _manifest(end[1]["outputs"][""])
        assert (manifest.kind, manifest.meta["rows"]) == ("Dataset", 1)
        (digest, _), *_ = manifest.files.values()
        assert (tmp_path / "store" / "objects" / digest[:2] / digest[2:]).is_file()

    def test_reports_come_while_the_step_runs(self, tmp_path: Path) -> None:
        """Reports arrive before the step has ended."""
        code = f"""
import time
job.log("ready")
while not os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.01)
"""
        with self._running({"a": _task(tmp_path, "a", code)}) as events:
            assert next(events)[1] == {"event": "log", "message": "ready"}
            (tmp_path / "go").touch()
            assert [event["event"] for _, event in events] == ["done"]

    def test_each_task_ends_once(self, tmp_path: Path) -> None:
        """Each task, failed or not, has one closing event and none after it."""
        codes = {
            "fine": "rows.append({'prompt': 'p'})",
            "refused": "from finery import DataError\nraise DataError('no rows', fix='add some')",
            "broken": "raise KeyError('oh')",
            "also": "job.log('x')",
        }
        tasks = {name: _task(tmp_path, name, code) for name, code in codes.items()}
        with self._running(tasks) as events:
            heard = [(step, event["event"]) for step, event in events]
        ends = {step: [e for s, e in heard if s == step and e in CLOSING] for step in codes}
        assert ends == {
            "fine": ["done"], "refused": ["failed"], "broken": ["failed"], "also": ["done"]
        }  # fmt: skip
        assert all([e for s, e in heard if s == step][-1] in CLOSING for step in codes)

    def test_a_failure_says_what_is_wrong(self, tmp_path: Path) -> None:
        """`failed` contains the error as plain data."""
        code = "from finery import DataError\nraise DataError('no rows', fix='add some')"
        with self._running({"a": _task(tmp_path, "a", code)}) as events:
            ((_, event),) = events
        error = event["error"]
        assert (error["error"], error["what"], error["fix"]) == ("DataError", "no rows", "add some")

    def test_a_task_that_cannot_be_run_fails(self, tmp_path: Path) -> None:
        """`start` doesn't raise; the closing event contains the error."""
        task = _task(tmp_path, "a", "")
        task.use = "given.nothing"
        with self._running({"a": task}) as events:
            assert [event["event"] for _, event in events] == ["failed"]

    def test_a_killed_step_died(self, tmp_path: Path) -> None:
        """A killed step ends with `died`, and the processes that it started end, too."""
        code = f"{STARTS_CHILD}\nos.kill(os.getpid(), {int(signal.SIGKILL)})"
        with self._running({"a": _task(tmp_path, "a", code)}) as events:
            *reports, (_, end) = list(events)
            assert (end["event"], end.get("code")) == ("died", -signal.SIGKILL)
            self._assert_gone([event["message"] for _, event in reports])

    def test_others_go_on_after_a_killed_step(self, tmp_path: Path) -> None:
        """A killed step doesn't affect other steps."""
        killed = _task(tmp_path, "killed", f"os.kill(os.getpid(), {int(signal.SIGKILL)})")
        with self._running({"killed": killed, "other": _task(tmp_path, "other", "")}) as events:
            ends = {step: event["event"] for step, event in events}
        assert ends == {"killed": "died", "other": "done"}

    def test_close_ends_what_runs(self, tmp_path: Path) -> None:
        """`close` ends running steps and the processes that they started."""
        code = f"{STARTS_CHILD}\nimport time\ntime.sleep(600)"
        with self._running({"a": _task(tmp_path, "a", code)}) as events:
            messages = [next(events)[1]["message"] for _ in range(2)]
            assert len(_alive(messages)) in (0, 2)  # none of them on this machine, or both
        self._assert_gone(messages)  # jobs of a `Detached` one end by `cancel`

    def test_events_arrive_while_a_step_waits(self, tmp_path: Path) -> None:
        """All events that a step has sent arrive, even if it sends no more for now."""
        code = "import time\nfor number in range(50):\n    job.log(str(number))\ntime.sleep(600)"
        with self._running({"a": _task(tmp_path, "a", code)}) as events:
            assert [next(events)[1]["message"] for _ in range(50)] == [str(n) for n in range(50)]

    def test_room_follows_jobs(self, tmp_path: Path) -> None:
        """With `jobs=1`, the executor has room for one step at a time."""
        with closing(self.executor(1)) as executor:
            for _ in range(2):
                task = _task(tmp_path, "a", "")
                assert executor.has_room(task)
                executor.start(task)
                assert not executor.has_room(task)
                while not any(event["event"] in CLOSING for _, event in executor.poll(1.0)):
                    pass

    def test_an_idle_executor_has_no_events(self) -> None:
        """`poll` returns without events if nothing runs."""
        with closing(self.executor(None)) as executor:
            assert list(executor.poll(0.01)) == []

    def test_isolated_steps_have_a_process_each(self, tmp_path: Path) -> None:
        """An isolated step shares its process with no other step."""
        places = set()
        with closing(self.executor(1)) as executor:
            for number, isolated in enumerate((False, True, True, False)):
                task = _task(tmp_path, f"t{number}", TELLS_PROCESS, isolated=isolated)
                ((_, report), _) = list(self._events(executor, {task.step: task}))
                if isolated:
                    assert report["message"] not in places
                places.add(report["message"])

    def test_what_a_step_prints_is_in_its_log(self, tmp_path: Path) -> None:
        """`task.log` contains standard output and error of the step and its child processes."""
        task = _task(tmp_path, "a", "print('hello')\nos.system('echo from below >&2')")
        with self._running({"a": task}) as events:
            list(events)
        text = Path(task.log).read_text(encoding="utf-8")
        assert "hello" in text
        assert "from below" in text

    def test_a_secret_reaches_its_step_alone(self, tmp_path: Path) -> None:
        """The step gets its secret. Later steps don't, and no file contains it afterwards."""
        code = f"job.log(str(len(os.environ.get({SECRET!r}, ''))))"
        tasks = [_task(tmp_path, name, code) for name in ("gets", "later")]
        tasks[0].env = {SECRET: SECRET_VALUE}
        lengths = []
        with closing(self.executor(1)) as executor:
            for task in tasks:
                report, _ = list(self._events(executor, {task.step: task}))
                lengths.append(report[1]["message"])
        assert lengths == [str(len(SECRET_VALUE)), "0"]
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in files if SECRET_VALUE.encode() in path.read_bytes()]

    def test_secrets_of_the_build_do_not_reach_steps(
        self, tmp_path: Path, monkeypatch: "pytest.MonkeyPatch"
    ) -> None:
        """A step doesn't inherit environment variables that it doesn't need."""
        for name in (SECRET, "DATABASE_URL"):
            monkeypatch.setenv(name, SECRET_VALUE)
        code = f"job.log(str({SECRET_VALUE!r} in os.environ.values()))"
        with self._running({"a": _task(tmp_path, "a", code)}) as events:
            assert next(events)[1] == {"event": "log", "message": "False"}
            list(events)

    def _assert_gone(self, processes: Sequence[str]) -> None:
        """Wait until killed processes are gone, since signals take a moment."""
        deadline = time.monotonic() + self.patience
        while alive := _alive(processes):
            assert time.monotonic() < deadline, f"still running: {alive}"
            time.sleep(0.01)

    @contextmanager
    def _running(self, tasks: "Mapping[str, Task]") -> "Iterator[Iterator[tuple[str, Event]]]":
        """Run tasks with a new executor; their events. Closes the executor afterwards."""
        executor = self.executor(None)
        try:
            yield self._events(executor, tasks)
        finally:
            executor.close()
            if isinstance(executor, Detached):
                executor.cancel()

    def _events(
        self, executor: "Executor", tasks: "Mapping[str, Task]"
    ) -> "Iterator[tuple[str, Event]]":
        """Start tasks when the executor has room; (step, event) until all have ended."""
        waiting, running = list(tasks.values()), set[str]()
        deadline = time.monotonic() + self.patience
        while waiting or running:
            while waiting and executor.has_room(waiting[0]):
                running.add(waiting[0].step)
                executor.start(waiting.pop(0))
            for task, event in executor.poll(0.1):
                deadline = time.monotonic() + self.patience
                assert task.step in running, f"an event after the last of '{task.step}': {event}"
                if event["event"] in CLOSING:
                    running.remove(task.step)
                if event["event"] != "log" or not re.match(self.own_lines, event["message"]):
                    yield task.step, dict(event)
            assert time.monotonic() < deadline, f"no event of {running} in {self.patience:g} s"


class DetachedContract(ExecutorContract):
    """The tests of an executor whose jobs continue without the build."""

    def test_a_job_outlives_its_executor(self, tmp_path: Path) -> None:
        """Another executor finds the job by its key, and gets all events and the result."""
        code = f"""
import time
job.log("ready")
while not os.path.exists({str(tmp_path / "go")!r}):
    time.sleep(0.01)
rows.append({{"prompt": str(os.getpid())}})
"""
        task, first, second = _task(tmp_path, "a", code), self.executor(None), self.executor(None)
        assert next(self._events(first, {"a": task}))[1] == {"event": "log", "message": "ready"}
        first.close()
        assert isinstance(first, Detached)
        assert len(first.left()) == 1
        events = self._events(second, {"a": task})
        assert next(events)[1] == {"event": "log", "message": "ready"}
        (tmp_path / "go").touch()
        assert [event["event"] for _, event in events] == ["done"]
        second.close()


def _task(folder: Path, name: str, code: str, *, isolated: bool = False) -> "Task":
    """A task that runs some Python."""
    from finery.execute.executor import Task
    from finery.store.database import Store

    store = folder / "store"
    if not store.exists():
        Store(store).close()
    out = folder / name / "out"
    out.mkdir(parents=True, exist_ok=True)
    return Task(
        key=blake3(name.encode()).hexdigest(), step=name, use="given.script", isolated=isolated,
        settings={"code": code}, nested={}, inputs={}, files={}, seed=None, pinned=None, env={},
        engines={}, plugins=[given.__file__], store=str(store), out=str(out),
        scratch=str(folder / name / "scratch"), log=str(folder / f"{name}.log"),
    )  # fmt: skip


def _manifest(output: Any) -> Manifest:
    """A manifest as it is, or as plain data."""
    return output if isinstance(output, Manifest) else msgspec.convert(output, Manifest)


def _alive(processes: Iterable[str]) -> list[str]:
    """Those of `host pid` that are running on this machine. A zombie has ended."""
    running = []
    for process in processes:
        host, pid = process.split()
        if host == socket.gethostname():
            try:
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state != "Z":
                running.append(process)
    return running
