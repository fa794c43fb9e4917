"""GPUs: what NVML says, what `CUDA_VISIBLE_DEVICES` leaves of it, and which step gets which."""

import json
import os
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import LIGHT_STEPS, MakeProject, Project, until
from tasks import PID, Tasks, ends, need, text_of

from finery.errors import UsageError
from finery.execute import gpus
from finery.execute.executor import Need
from finery.execute.gpu import CHOICES, Gpu
from finery.execute.gpus import driver_cuda, named_gpus, visible_gpus
from finery.execute.local import LocalExecutor
from finery.execute.sharing import SHARE_VARIABLE

GIB = 2**30
L4 = Gpu("GPU-aaa", "NVIDIA L4", (8, 9), 24 * GIB, GIB, "GPU-aaa", 0)
OTHER_L4 = L4._replace(id="GPU-abb", uuid="GPU-abb", number=1)
T4 = Gpu("GPU-ccc", "Tesla T4", (7, 5), 16 * GIB, 2 * GIB, "GPU-ccc", 1)


class Nvml:
    """NVML with these devices."""

    def __init__(self, *devices: Gpu) -> None:
        self._devices = devices

    def nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> int:
        version._obj.value = 12040
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._devices)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetCudaComputeCapability(self, device: Any, major: Any, minor: Any) -> int:
        major._obj.value, minor._obj.value = self._gpu(device).capability
        return 0

    def nvmlDeviceGetMemoryInfo(self, device: Any, memory: Any) -> int:
        gpu = self._gpu(device)
        memory._obj[:] = [gpu.memory, gpu.free, gpu.used]
        return 0

    def nvmlDeviceGetName(self, device: Any, text: Any, size: Any) -> int:
        text.value = self._gpu(device).name.encode()
        return 0

    def nvmlDeviceGetUUID(self, device: Any, text: Any, size: Any) -> int:
        text.value = self._gpu(device).id.encode()
        return 0

    def _gpu(self, device: Any) -> Gpu:
        return self._devices[int(device.value) - 1]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Gives this machine GPUs that no other test uses."""
    for name in (*CHOICES, SHARE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def give(*devices: Gpu) -> None:
        monkeypatch.setattr(gpus, "_nvml", lambda: Nvml(*devices))

    return give


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Tasks]:
    """Makes tasks of `light_steps.py`."""
    made = Tasks(tmp_path)
    yield made
    made.store.close()


def test_gpus_as_nvml_lists_them(machine: Any) -> None:
    machine(L4, OTHER_L4, T4)
    assert visible_gpus() == [L4, OTHER_L4, T4._replace(number=2)]
    assert L4.free == 23 * GIB
    assert driver_cuda() == (12, 4)


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_nvml", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus() == []
    assert driver_cuda() is None


@pytest.mark.parametrize(("variable", "expected"), [
    ("1,0", [OTHER_L4._replace(id="1"), L4._replace(id="0")]),
    ("", []), ("0,7,1", [L4._replace(id="0")]),
    ("GPU-ab", [OTHER_L4._replace(id="GPU-ab")]),
    ("MIG-1", [Gpu("MIG-1", "", (8, 9), 24 * GIB, GIB)]),
])  # fmt: skip
def test_the_user_decides_which_gpus_are_used(
    machine: Any, variable: str, expected: list[Gpu]
) -> None:
    machine(L4, OTHER_L4)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": variable}) == expected


@pytest.mark.parametrize(("names", "expected"), [
    ([1], [T4]), ([1, 0], [T4, L4]), (["GPU-c", 1], [T4]), ([0, "GPU-ccc"], [L4, T4]),
])  # fmt: skip
def test_a_step_names_gpus_by_number_or_uuid(
    machine: Any, names: list[int | str], expected: list[Gpu]
) -> None:
    machine(L4, T4)
    assert named_gpus(names, {}) == expected


@pytest.mark.parametrize(("variable", "name", "what", "fix"), [
    (None, 7, "there is no GPU 7 on this machine", "name one of: 0 (NVIDIA L4, GPU-aaa), 1 (NVIDI"),
    (None, "GPU-a", "GPU-a is the beginning of several UUIDs: GPU-aaa, GPU-abb", "write more"),
    ("1", 0, "GPU 0 is hidden by CUDA_VISIBLE_DEVICES=1", "or name one of: 1 (NVIDIA L4, GPU-abb)"),
])  # fmt: skip
def test_a_gpu_that_is_not_visible_is_an_error_in_words(
    machine: Any, variable: str | None, name: int | str, what: str, fix: str
) -> None:
    machine(L4, OTHER_L4)
    environment = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    with pytest.raises(UsageError) as caught:
        named_gpus([name], environment)
    assert caught.value.what == what
    assert fix in str(caught.value.fix)


SEES = "rows.append({'prompt': os.environ.get('CUDA_VISIBLE_DEVICES', 'all')})"
SEES_AND_WAITS = f"{SEES}; import time; time.sleep(0.5)"


def started(
    executor: LocalExecutor, task: Tasks, code: str, gpus: int, names: Sequence[int | str] = ()
) -> None:
    """Start a step that uses so many GPUs. names: its setting `gpus`."""
    made = task(code, isolated=True)
    made.gpus, made.gpu_names = gpus, list(names)
    executor.start(made)


def test_two_steps_at_once_get_a_gpu_each(machine: Any, task: Tasks) -> None:
    machine(T4, L4)
    executor = LocalExecutor(3)
    try:
        for _ in range(2):
            assert executor.has_room(need(True, 1))
            started(executor, task, SEES_AND_WAITS, 1)
        assert not executor.has_room(need(True, 1))  # two trainings never share a GPU
        assert executor.has_room(need(True))
        texts = [text_of(event, task) for event in ends(executor, 2).values()]
        assert sorted(texts) == ["GPU-aaa", "GPU-ccc"]
        until(lambda: executor.has_room(need(True, 2)))
    finally:
        executor.close()


def test_the_first_step_gets_the_gpu_with_the_most_free_memory(machine: Any, task: Tasks) -> None:
    machine(T4, L4)
    executor = LocalExecutor(1)
    try:
        started(executor, task, SEES, 1)
        assert [text_of(e, task) for e in ends(executor, 1).values()] == ["GPU-aaa"]
    finally:
        executor.close()


def test_a_step_with_several_processes_gets_as_many_gpus(machine: Any, task: Tasks) -> None:
    machine(L4, OTHER_L4, T4)
    executor = LocalExecutor(1)
    try:
        for wanted, got in ((2, "GPU-aaa,GPU-abb"), (8, "all")):
            until(partial(executor.has_room, need(True, wanted)))
            started(executor, task, SEES, wanted)
            assert [text_of(e, task) for e in ends(executor, 1).values()] == [got]
    finally:
        executor.close()


def logged(executor: LocalExecutor) -> list[str]:
    """The log lines of steps until the next one ends."""
    lines, over = [], False
    while not over:
        for _, event in executor.poll(1):
            over |= event["event"] in ("done", "failed", "died")
            lines += [event["message"]] if event["event"] == "log" else []
    return lines


def test_a_step_waits_for_the_gpu_that_it_names(machine: Any, task: Tasks) -> None:
    """The other one stays free for a third step."""
    machine(L4, OTHER_L4)
    executor = LocalExecutor(3)
    try:
        started(executor, task, SEES_AND_WAITS, 1, [0])
        started(executor, task, SEES, 1, [0])
        started(executor, task, SEES, 1)
        assert logged(executor) == [
            "running on GPU 0 (NVIDIA L4)",
            "waiting for a GPU: GPU 0 (NVIDIA L4) is used by step 's1'",
            "running on GPU 1 (NVIDIA L4)",
        ]
        assert len(ends(executor, 2)) == 2
    finally:
        executor.close()


def test_a_step_that_needs_several_gpus_is_not_overtaken(machine: Any, task: Tasks) -> None:
    machine(L4, OTHER_L4)
    executor = LocalExecutor(3)
    try:
        started(executor, task, SEES_AND_WAITS, 1)
        started(executor, task, SEES, 2, [0, 1])
        started(executor, task, SEES, 1)
        lines = logged(executor)
        assert "waiting for 2 GPUs: GPU 0 (NVIDIA L4) is used by step 's1'" in lines
        waiting = "step 's2' waits for GPU 1 (NVIDIA L4), too"
        assert any(line.startswith("waiting for a GPU") and waiting in line for line in lines)
        assert list(ends(executor, 1)) == ["s2"]
        assert list(ends(executor, 1)) == ["s3"]
    finally:
        executor.close()


def shares(gib: int) -> Need:
    """What a step needs that states so much memory of a GPU."""
    return need(True, 1, gpu_memory=gib * GIB)


def start_sharing(executor: LocalExecutor, task: Tasks, gib: int, until_file: str = "") -> None:
    """Start such a step. until_file: it ends once that file exists."""
    wait = f"import time\nwhile not os.path.exists({until_file!r}): time.sleep(0.05)"
    made = task(f"{SEES}\n{wait if until_file else ''}", isolated=True)
    made.gpus, made.resources = 1, shares(gib).resources
    executor.start(made)


def test_steps_share_a_gpu_if_their_memory_fits(machine: Any, task: Tasks, tmp_path: Path) -> None:
    """Of its 24 GiB, another program uses one at first."""
    machine(L4)
    executor, end = LocalExecutor(), tmp_path / "end"
    try:
        start_sharing(executor, task, 10, str(end))
        assert not executor.has_room(need(True, 1))
        assert executor.has_room(shares(13))
        assert not executor.has_room(shares(15))
        start_sharing(executor, task, 13, str(end))
        assert not executor.has_room(shares(2))
        start_sharing(executor, task, 4)
        events = [event for _, event in executor.poll(0)]
        (line,) = [event["message"] for event in events if event["event"] == "log"]
        user = "GPU 0 (NVIDIA L4) is used by step"
        assert line == f"waiting for a GPU: {user} 's1'; {user} 's2'"
        end.touch()
        assert {text_of(e, task) for e in ends(executor, 3).values()} == {"all"}
        until(lambda: executor.has_room(need(True, 1)))
    finally:
        executor.close()


def test_steps_share_no_gpu_while_another_is_free(
    machine: Any, task: Tasks, tmp_path: Path
) -> None:
    machine(L4, OTHER_L4)
    executor, end = LocalExecutor(), tmp_path / "end"
    try:
        for _ in range(3):
            start_sharing(executor, task, 8, str(end))
        end.touch()
        seen = [text_of(e, task) for e in ends(executor, 3).values()]
        assert set(seen) == {"GPU-aaa", "GPU-abb"}
    finally:
        executor.close()


def test_other_builds_wait_for_the_last_step_that_shares(
    machine: Any, task: Tasks, tmp_path: Path
) -> None:
    machine(L4)
    ours, theirs, end = LocalExecutor(), LocalExecutor(), tmp_path / "end"
    try:
        start_sharing(ours, task, 8)
        start_sharing(ours, task, 8, str(end))
        assert list(ends(ours, 1)) == ["s1"]
        start_sharing(theirs, task, 8)
        assert [e["event"] for _ in range(3) for _, e in theirs.poll(1)] == ["log"]
        end.touch()
        assert list(ends(ours, 1)) == ["s2"]
        until(lambda: ours.has_room(need(True, 1)))
        assert list(ends(theirs, 1)) == ["s3"]
    finally:
        ours.close()
        theirs.close()


STEPS = """

class Train(Script, gpus=1):
    "Uses GPUs."

    processes: int = setting(1, help="GPUs.")

    def resources(self) -> Resources:
        return Resources(gpus=self.processes)


class Answers(Step, engines=True, seeded=False):
    "Asks a model."

    model: Model
    tag: int = setting(0, help="Any.")

    def run(self, job: Job) -> Dataset:
        return Dataset.write(job.out, [{"prompt": str(os.getpid())}])


class Local(Engine):
    local = True


@hookimpl
def finery_engines():
    return {"light": Local}
"""
RECIPE = f"""\
finery: 1
name: t
plugins: [steps.py]
models: {{base: {{use: steps.outside, path: weights}}}}
data:
  both: {{use: steps.train, processes: 2, code: "{SEES}"}}
  one: {{use: steps.train, code: "{SEES_AND_WAITS}"}}
  other: {{use: steps.train, code: "{SEES_AND_WAITS} "}}
  light: {{use: steps.script, code: "{PID}"}}
  first: {{use: steps.answers, model: base}}
  second: {{use: steps.answers, model: base, tag: 1, needs: [first]}}
"""


def steps(*devices: Gpu) -> str:
    """`light_steps.py` with further step types, on a machine with these GPUs."""
    text = LIGHT_STEPS.read_text().replace(
        "from finery import", "from finery import Engine, Resources,"
    )
    text = text.replace(
        '"steps.adapter": Adapter', '"steps.train": Train, "steps.answers": Answers'
    )
    found = f"[gpus.Gpu(*gpu) for gpu in {[tuple(gpu) for gpu in devices]}]"
    return (
        f"{text}{STEPS}\n\nfrom finery.execute import gpus\n\ngpus._detect_gpus = lambda: {found}\n"
    )


def test_a_build_gives_each_step_its_gpus(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE, "steps.py": steps(L4, T4), "weights": "w"})
    made.env["CUDA_VISIBLE_DEVICES"] = "GPU-a,GPU-c"
    made.ran("--jobs", "4")
    seen = {name: made.rows(name)[0]["prompt"] for name in ("both", "one", "other")}
    assert seen["both"] == "GPU-a,GPU-c"
    assert sorted((seen["one"], seen["other"])) == ["GPU-a", "GPU-c"]


ONE = f"""\
finery: 1
name: t
plugins: [steps.py]
data: {{one: {{use: steps.train, gpus: GPUS, code: "{SEES}; CODE"}}}}
"""


def project_of(make: MakeProject, name: str, code: str = "pass", gpus: str = "[0, 1]") -> Project:
    """A project with a step that uses one of two GPUs, beside others of the same user."""
    recipe = ONE.replace("GPUS", gpus).replace("CODE", code)
    files = {"recipe.yaml": recipe, "steps.py": steps(L4, T4)}
    made = make({f"{name}/{path}": text for path, text in {**files, ".git/x": ""}.items()})
    made.env["XDG_CACHE_HOME"] = str(made.folder / "cache")
    made.folder = made.folder / name
    return made


def test_a_recipe_selects_the_gpus_of_a_step(project: MakeProject) -> None:
    made = project_of(project, "a", gpus="[1]")
    made.ran()
    assert made.rows("one") == [{**made.rows("one")[0], "prompt": "GPU-ccc"}]
    # It is not part of the key.
    assert made.ran("--set", "data.one.gpus=[GPU-a]") == []
    for names, what, fix in (
        ("[7]", "there is no GPU 7 on this machine", "name one of: 0 (NVIDIA L4, GPU-aaa), 1"),
        ("1", "'gpus' can't be 1", "write gpus: [1]"),
        ("[]", "'gpus' can't be an empty list", "at least 1 of them"),
        ("[fast]", "'gpus[0]' can't be 'fast'", "`nvidia-smi -L` lists them"),
    ):
        ran = made.run("build", "--set", f"data.one.gpus={names}", "--set", "data.one.code=''")
        assert ran.code == 2, ran
        assert what in ran.err
        assert fix in ran.err
    ran = made.run("check", "--set", "data.one.gpus=[7]")
    assert "one: there is no GPU 7 on this machine" in ran.out


def holder(make: MakeProject, name: str, gpus: str = "[0, 1]") -> tuple[Project, Any]:
    """A build that uses a GPU until it is killed, and its process."""
    code = "open('running', 'w').close(); import time; time.sleep(600)"
    busy = project_of(make, name, code, gpus)
    process = busy.start("build")
    until((busy.folder / "running").exists)
    return busy, process


def test_two_builds_use_a_gpu_each(project: MakeProject) -> None:
    _, process = holder(project, "a")
    try:
        other = project_of(project, "b")
        other.ran()
        assert other.rows("one")[0]["prompt"] == "GPU-ccc"  # "a" got the one with more memory
    finally:
        process.terminate()
        process.communicate()


def test_a_build_waits_for_the_gpu_of_another_until_that_is_killed(project: MakeProject) -> None:
    busy, process = holder(project, "a", "[0]")
    other = project_of(project, "b", gpus="[0]")
    waiting = other.start("build", "--json")
    lines: list[str] = []
    try:
        for text in waiting.stdout or ():
            event = json.loads(text)
            lines += [event["message"]] if event["event"] == "step_log" else []
            if event["event"] == "step_log" and "waiting" in event["message"]:
                os.kill(process.pid, signal.SIGKILL)
        assert lines[:2] == [
            f"waiting for a GPU: GPU 0 (NVIDIA L4) is used by step 'one' of {busy.folder} (process "
            f"{process.pid}); FINERY_SHARE_GPUS=1 shares GPUs with other builds",
            "running on GPU 0 (NVIDIA L4)",
        ]
        assert waiting.wait() == 0
    finally:
        process.kill()
        process.communicate()
        waiting.kill()
        waiting.communicate()


def test_a_user_may_share_gpus(project: MakeProject) -> None:
    _, process = holder(project, "a", "[0]")
    try:
        other = project_of(project, "b", gpus="[0]")
        other.env[SHARE_VARIABLE] = "1"
        other.ran()
        assert other.rows("one")[0]["prompt"] == "GPU-aaa"
    finally:
        process.terminate()
        process.communicate()


def test_a_step_runs_where_no_file_can_be_locked(
    machine: Any, task: Tasks, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine(L4)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    executor = LocalExecutor(1)
    try:
        started(executor, task, SEES, 1)
        (line,) = logged(executor)
        assert line.startswith("warning: GPU 0 (NVIDIA L4): other builds can't see that it is used")
    finally:
        executor.close()
