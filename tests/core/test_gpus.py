"""GPUs: what NVML says, what `CUDA_VISIBLE_DEVICES` leaves of it, and which step gets which."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import LIGHT_STEPS, MakeProject, until
from tasks import PID, Tasks, ends, text_of

from finery.execute import gpus
from finery.execute.gpus import Gpu, driver_cuda, visible_gpus
from finery.execute.local import LocalExecutor

GIB = 2**30
L4 = Gpu("GPU-aaa", "NVIDIA L4", (8, 9), 24 * GIB, GIB)
OTHER_L4 = L4._replace(id="GPU-abb")
T4 = Gpu("GPU-ccc", "Tesla T4", (7, 5), 16 * GIB, 2 * GIB)
PARTS = [
    Gpu("MIG-1", "NVIDIA H100 MIG 3g.40gb", (9, 0), 40 * GIB, 0),
    Gpu("MIG-2", "NVIDIA H100 MIG 3g.40gb", (9, 0), 40 * GIB, 0),
]


class Nvml:
    """NVML with these devices, each a list of one GPU or of the parts of one."""

    def __init__(self, *devices: list[Gpu]) -> None:
        self._devices = devices

    def nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> int:
        version._obj.value = 12040
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self._devices)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:
        handle._obj.value = 100 * (index + 1)
        return 0

    def nvmlDeviceGetMigMode(self, device: Any, mode: Any, pending: Any) -> int:
        mode._obj.value = self._of(device)[0].id.startswith("MIG")
        return 0

    def nvmlDeviceGetMaxMigDeviceCount(self, device: Any, count: Any) -> int:
        count._obj.value = 7
        return 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: Any, index: int, part: Any) -> int:
        part._obj.value = device.value + 1 + index
        return 0 if index < len(self._of(device)) else 6

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

    def _of(self, device: Any) -> list[Gpu]:
        return self._devices[int(device.value) // 100 - 1]

    def _gpu(self, device: Any) -> Gpu:
        return self._of(device)[max(0, int(device.value) % 100 - 1)]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives this machine GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)

    def give(*devices: list[Gpu]) -> None:
        monkeypatch.setattr(gpus, "_nvml", lambda: Nvml(*devices))

    return give


@pytest.fixture
def task(tmp_path: Path) -> Iterator[Tasks]:
    """Makes tasks of `light_steps.py`."""
    made = Tasks(tmp_path)
    yield made
    made.store.close()


def test_gpus_as_nvml_lists_them(machine: Any) -> None:
    machine([L4], PARTS, [T4])
    assert visible_gpus() == [L4, *PARTS, T4]
    assert L4.free == 23 * GIB
    assert driver_cuda() == (12, 4)


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_nvml", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert visible_gpus() == []
    assert driver_cuda() is None


@pytest.mark.parametrize(("variable", "expected"), [
    ("1,0", [OTHER_L4._replace(id="1"), L4._replace(id="0")]),
    ("", []), ("-1", []), ("NoDevFiles", []),
    ("0,7,1", [L4._replace(id="0")]),
    ("0,0", []),
    ("GPU-ab", [OTHER_L4._replace(id="GPU-ab")]),
    ("GPU-a", []),
])  # fmt: skip
def test_the_user_decides_which_gpus_are_used(
    machine: Any, variable: str, expected: list[Gpu]
) -> None:
    machine([L4], [OTHER_L4])
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": variable}) == expected


def test_an_index_among_different_gpus_promises_only_what_all_have(machine: Any) -> None:
    """CUDA sorts them by speed, unless told otherwise."""
    machine([L4], [T4])
    (gpu,) = visible_gpus({"CUDA_VISIBLE_DEVICES": "0"})
    assert gpu == Gpu("0", "", (7, 5), 16 * GIB, 2 * GIB)
    (gpu,) = visible_gpus({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert gpu == T4._replace(id="1")


SEES = "rows.append({'prompt': os.environ.get('CUDA_VISIBLE_DEVICES', 'all')})"
SEES_AND_WAITS = f"{SEES}; import time; time.sleep(0.5)"


def started(executor: LocalExecutor, task: Tasks, code: str, gpus: int) -> None:
    """Start a step that uses so many GPUs."""
    made = task(code, isolated=True)
    made.gpus = gpus
    executor.start(made)


def test_two_steps_at_once_get_a_gpu_each(machine: Any, task: Tasks) -> None:
    machine([T4], [L4])
    executor = LocalExecutor(3)
    try:
        for _ in range(2):
            assert executor.has_room(True, 1)
            started(executor, task, SEES_AND_WAITS, 1)
        assert not executor.has_room(True, 1)  # two trainings never share a GPU
        assert executor.has_room(True)
        texts = [text_of(event, task) for event in ends(executor, 2).values()]
        assert sorted(texts) == ["GPU-aaa", "GPU-ccc"]
        until(lambda: executor.has_room(True, 2))
    finally:
        executor.close()


def test_the_first_step_gets_the_gpu_with_the_most_free_memory(machine: Any, task: Tasks) -> None:
    machine([T4], [L4])
    executor = LocalExecutor(1)
    try:
        started(executor, task, SEES, 1)
        assert [text_of(e, task) for e in ends(executor, 1).values()] == ["GPU-aaa"]
    finally:
        executor.close()


def test_a_step_with_several_processes_gets_as_many_gpus(machine: Any, task: Tasks) -> None:
    machine([L4], [OTHER_L4], [T4])
    executor = LocalExecutor(1)
    try:
        for wanted, got in ((2, "GPU-aaa,GPU-abb"), (8, "all")):
            until(partial(executor.has_room, True, wanted))
            started(executor, task, SEES, wanted)
            assert [text_of(e, task) for e in ends(executor, 1).values()] == [got]
    finally:
        executor.close()


def test_of_the_users_gpus_each_step_gets_one(
    machine: Any, task: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine([L4], [OTHER_L4])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    executor = LocalExecutor(2)
    try:
        started(executor, task, SEES, 1)
        assert not executor.has_room(True, 1)
        assert [text_of(e, task) for e in ends(executor, 1).values()] == ["1"]
    finally:
        executor.close()


def test_a_gpu_is_free_once_the_process_has_ended(machine: Any, task: Tasks) -> None:
    machine([L4])
    executor = LocalExecutor(2)
    lingers = "import atexit, time; atexit.register(time.sleep, 1.5)"
    try:
        started(executor, task, f"{SEES}; {lingers}", 1)
        ends(executor, 1)
        assert not executor.has_room(True, 1)
        until(lambda: executor.has_room(True, 1))
    finally:
        executor.close()


def test_without_gpus_steps_run_as_usual(machine: Any, task: Tasks) -> None:
    machine()
    executor = LocalExecutor(2)
    try:
        started(executor, task, SEES, 4)
        assert executor.has_room(True, 4)
        assert [text_of(e, task) for e in ends(executor, 1).values()] == ["all"]
    finally:
        executor.close()


STEPS = """

class Train(Script):
    "Uses GPUs."

    processes: int = setting(1, help="GPUs.")

    def gpu_count(self) -> int:
        return self.processes


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


def steps(*devices: list[Gpu]) -> str:
    """`light_steps.py` with further step types, on a machine with these GPUs."""
    text = LIGHT_STEPS.read_text().replace("from finery import", "from finery import Engine,")
    text = text.replace(
        '"steps.adapter": Adapter', '"steps.train": Train, "steps.answers": Answers'
    )
    plain = [[tuple(gpu) for gpu in parts] for parts in devices]
    found = f"[[gpus.Gpu(*gpu) for gpu in parts] for parts in {plain}]"
    return f"{text}{STEPS}\n\nfrom finery.execute import gpus\n\ngpus._devices = lambda: {found}\n"


def test_a_build_gives_each_step_its_gpus(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE, "steps.py": steps([L4], [T4]), "weights": "w"})
    made.env["CUDA_VISIBLE_DEVICES"] = "GPU-a,GPU-c"
    made.ran("--jobs", "4")
    seen = {name: made.rows(name)[0]["prompt"] for name in ("both", "one", "other")}
    assert seen["both"] == "GPU-a,GPU-c"
    assert sorted((seen["one"], seen["other"])) == ["GPU-a", "GPU-c"]


def test_a_step_with_a_local_engine_has_a_process_of_its_own(project: MakeProject) -> None:
    made = project({"recipe.yaml": RECIPE, "steps.py": steps(), "weights": "w"})
    made.ran("first", "second")
    assert made.rows("first") != made.rows("second")
