"""GPUs that this machine doesn't have: their number and capabilities are set by the tests."""

import contextlib
import functools
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import until
from tiny_llama import card_rows, tiny_llama

from finery import Dataset, File, Model, StepError, UsageError
from finery.execute.gpus import Gpu
from finery.testing import TestJob
from finery_trl import settings as trl_settings
from finery_trl.model.loading import Prepared
from finery_trl.settings import Launch
from finery_trl.steps import Kto, Sft
from finery_trl.train.launch import _command, launch
from finery_trl.train.messages import check_processes, processes_note
from finery_trl.train.run import select_gpu

pytestmark = pytest.mark.usefixtures("one_thread")

GPU = Gpu("GPU-a", "NVIDIA L4", (8, 9), 24 * 2**30, 0)


class Stopped(Exception):
    """Ends a training where the test has seen enough."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return card_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Show this number of GPUs, or these instances of a GPU."""
    import torch

    def show(number: int, name: str = "GPU-a") -> None:
        monkeypatch.setattr(trl_settings, "usable_gpus", lambda: [GPU._replace(id=name)] * number)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        # Torch isn't asked for their number, since the scheduler doesn't import it.
        monkeypatch.delattr(torch.cuda, "device_count", raising=False)

    return show


def sft(model: Any = None, rows: Any = None, **settings: Any) -> Sft:
    small: dict[str, Any] = {"epochs": 1, "effective_batch_size": 4, "learning_rate": 1e-2}
    return Sft(**{"model": model, "rows": [rows], **small, **settings})


def test_a_training_uses_one_of_several_visible_gpus(
    tiny: Model, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers takes them all, for DataParallel, which TRL refuses after loading the model."""
    from transformers import TrainingArguments

    own: Any = TrainingArguments._setup_devices

    def see_two(self: Any) -> Any:
        device = own.func(self)
        self._n_gpu = 2
        return device

    set_up = functools.cached_property(see_two)
    set_up.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", set_up)
    assert sft(tiny, data).run(TestJob(tmp_path)).meta["steps"] == 2


def test_each_process_selects_its_gpu_before_it_loads_the_model(
    tiny: Model, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: Any
) -> None:
    import torch

    def stop(device: int) -> None:
        raise Stopped(device)

    def load(*_: Any) -> None:
        raise AssertionError("loaded first")

    gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", stop)
    monkeypatch.setattr(Prepared, "of", load)
    with pytest.raises(Stopped, match="1"):
        sft(tiny, data).run(TestJob(tmp_path))


def test_no_gpu_is_selected_without_one(gpus: Any) -> None:
    gpus(0)
    select_gpu()


@pytest.mark.parametrize(
    ("visible", "settings", "expected"),
    [
        (0, {}, 1), (1, {}, 1), (2, {}, 2), (3, {}, 2), (4, {}, 4),
        (4, {"per_device_train_batch_size": 2}, 2), (8, {"effective_batch_size": 6}, 6),
    ],
)  # fmt: skip
def test_auto_takes_all_gpus_that_divide_the_batch(
    visible: int, settings: dict[str, Any], expected: int, gpus: Any
) -> None:
    gpus(visible)
    step = sft(launch=Launch(processes="auto"), **settings)
    step.check()
    assert step.processes == expected
    assert step.is_launched == (expected > 1)
    assert step.resources().gpus == expected
    assert step.cache_key().gpus
    note = processes_note(step)
    assert note is not None
    assert str(expected if visible > 1 else "") in note


@pytest.mark.parametrize(("effective", "expected"), [(2, 1), (4, 2), (6, 3), (16, 4)])
def test_auto_leaves_kto_two_rows_in_each_process(
    effective: int, expected: int, gpus: Any, tmp_path: Path
) -> None:
    gpus(4)
    settings: dict[str, Any] = {"effective_batch_size": effective, "max_length": 8192}
    step = Kto(model=Model(tmp_path), rows=[], launch=Launch(processes="auto"), **settings)
    step.check()
    assert step.processes == expected
    assert step.batch_size(5000) >= 2


def test_accelerate_launches_with_the_given_configuration(tmp_path: Path) -> None:
    config = File(["fsdp.yaml"], [tmp_path / "fsdp.yaml"])
    command = _command(sft(launch=Launch(processes=2, config=config)), tmp_path, [])
    assert f"--config_file={config.path}" in command
    assert "--main_process_port=0" in command


def test_launchers_of_several_nodes_get_their_number(tmp_path: Path) -> None:
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    config = File(["fsdp.yaml"], [tmp_path / "fsdp.yaml"])
    for several, parser in (
        (Launch(nodes=2, processes=8), get_args_parser()),
        (Launch(nodes=2, processes=8, config=config), launch_command_parser()),
    ):
        *before, script = _command(sft(launch=several), tmp_path, ["srun"])
        words = shlex.split(script.replace("$FINERY_NODE", "1"))
        options = vars(parser.parse_args(words[words.index("-m") + 2 :]))
        assert before == ["srun", "sh", "-c"]
        assert 1 in (options.get("node_rank"), options.get("machine_rank"))
        assert options.get("nproc_per_node") == "4" or options["num_processes"] == 8
        assert options.get("nnodes") == "2" or options["num_machines"] == 2


@pytest.mark.parametrize("processes", ["auto", 3])
def test_nodes_have_equal_shares_of_the_processes(processes: Any) -> None:
    with pytest.raises(UsageError, match="can't be divided among 2 nodes"):
        sft(launch=Launch(nodes=2, processes=processes), effective_batch_size=6).check()


def test_processes_of_nodes_need_the_gpus_of_one(
    gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2)
    step, job = sft(launch=Launch(nodes=2, processes=4)), TestJob(tmp_path)
    with pytest.raises(StepError, match="4 processes need 4 GPUs") as raised:
        check_processes(step, job)
    assert "executor slurm" in str(raised.value.fix)
    monkeypatch.setenv("FINERY_ON_NODES", "srun")
    check_processes(step, job)


def fail_elsewhere(step: Any, job: Any) -> None:
    """Raise an error in a process that isn't on the first node."""
    if os.environ["GROUP_RANK"] != "0":
        raise StepError("node 1 has no more space")


def end_launcher_elsewhere(step: Any, job: Any) -> None:
    """Kill the launcher of the other node, and wait for the end of its process."""
    file = job.scratch / "processes"
    if os.environ["GROUP_RANK"] != "0":
        new = file.with_suffix(".new")
        new.write_text(f"{os.getppid()} {os.getpid()}")
        new.rename(file)
        time.sleep(600)
    until(file.exists)
    launcher, process = map(int, file.read_text().split())
    os.kill(launcher, signal.SIGKILL)
    with contextlib.suppress(OSError):
        until(lambda: not Path(f"/proc/{process}/cmdline").read_bytes())
    raise StepError("the process of node 1 has ended")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "both", "error"),
    [
        (
            fail_elsewhere,
            'FINERY_NODE=0 "$@" & FINERY_NODE=1 "$@" || { kill $!; exit 1; }',
            "node 1 has no more space",
        ),
        (
            end_launcher_elsewhere,
            'FINERY_NODE=1 "$@" & FINERY_NODE=0 exec "$@"',
            "the process of node 1 has ended",
        ),
    ],
)
def test_an_error_on_another_node_is_the_steps_error(
    train: Any, both: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command starts both launchers here, as that of an executor would on two machines."""
    folders = (Path(__file__).parent, Path(__file__).parent.parent)
    monkeypatch.setenv("FINERY_ON_NODES", shlex.join(["sh", "-c", both, "sh"]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    with pytest.raises(StepError, match=error):
        launch(train, sft(launch=Launch(nodes=2, processes=2)), TestJob(tmp_path))
