"""Apple's GPUs (MPS), by a torch that claims to have one: none of this has run on one."""

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_llama

from finery import Model, StepError
from finery_transformers import hardware, loading
from finery_transformers.hardware import accelerator, exhausted
from finery_trl.model.accelerators import Accelerators
from finery_trl.steps import Sft
from finery_trl.train import run
from finery_trl.train.messages import check_half, check_optimizer


@pytest.fixture(autouse=True)
def apple(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that finds MPS and no CUDA."""
    import torch

    monkeypatch.delenv("FINERY_MPS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)


def test_a_model_moves_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accelerator() == "mps"
    assert hardware._device() == {"device": "mps"}
    monkeypatch.setattr(loading, "accelerator", lambda: "meta")  # a device that torch has here
    model = loading.load_model(tiny_llama(tmp_path))
    loading.to_device(model)
    assert model.device.type == "meta"
    monkeypatch.setenv("FINERY_MPS", "0")
    assert accelerator() == "cpu"


def test_what_a_training_may_use(tmp_path: Path) -> None:
    import torch

    settings: dict[str, Any] = {"model": Model(Path()), "rows": []}
    for setting, value in (("quantization", "nf4"), ("optim", "adamw_8bit")):
        with pytest.raises(StepError, match="doesn't train on Apple's GPUs") as raised:
            check_optimizer(Sft(**settings | {setting: value}))
        assert raised.value.where == setting
    check_optimizer(Sft(**settings))
    check_half(Sft(**settings, dtype="fp16"))  # accelerate scales gradients there, too
    schedule: Any = type(
        "Schedule", (), {"folder": tmp_path, "steps": 2, "size": 1, "grouped": 1, "accumulated": 1}
    )
    given = run._arguments(Sft(**settings), schedule, torch.float32, Accelerators(), 1)
    assert not any(given[name] for name in ("use_cpu", "dataloader_pin_memory", "fp16", "bf16"))
    lacking = exhausted(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), "here")
    assert "GPU memory" in str(lacking)
