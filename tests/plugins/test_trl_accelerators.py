"""Kernels that are used only if they are installed, suit the model, and work: all simulated."""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_llama

from finery.testing import TestJob
from finery_trl.model import accelerators
from finery_trl.model.accelerators import Accelerators


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoModelForCausalLM

    folder = tiny_llama(tmp_path_factory.mktemp("tiny")).path
    return AutoModelForCausalLM.from_pretrained(str(folder))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tiny: Any) -> Callable[..., None]:
    """Show torch a GPU with this capability, and both kernels installed and working."""
    import torch
    from transformers.utils import import_utils

    def show(capability: tuple[int, int] = (9, 0), known: bool = True) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(accelerators, "_is_installed", lambda: True)
        monkeypatch.setattr(import_utils, "is_flash_attn_2_available", lambda: known)
        monkeypatch.setattr(accelerators, "_fails", lambda dtype: None)
        monkeypatch.setattr(accelerators, "_has_liger", lambda model, job: False)

        def switch(name: str) -> None:
            tiny.config._attn_implementation_internal = name

        monkeypatch.setattr(tiny, "set_attn_implementation", switch)

    tiny.config._attn_implementation_internal = "sdpa"
    return show


@pytest.fixture
def job(tmp_path: Path) -> TestJob:
    return TestJob(tmp_path)


def logged(job: TestJob) -> str:
    return "\n".join(str(event.get("message", "")) for event in job.events)


def test_flash_attention_is_used_where_it_works(
    gpu: Callable[..., None], tiny: Any, job: TestJob
) -> None:
    import torch

    gpu()
    used = Accelerators.of(tiny, torch.bfloat16, job)
    assert used == Accelerators(flash=True)
    assert tiny.config._attn_implementation == "flash_attention_2"
    assert used.names(padding_free=True) == ["FlashAttention 2, without padding"]
    assert used.names(padding_free=False) == ["FlashAttention 2"]  # DPO and KTO


@pytest.mark.parametrize(
    ("shown", "broken", "reason"),
    [
        ({"known": False}, None, "transformers finds no FlashAttention 2"),
        ({"capability": (7, 5)}, None, "compute capability 7.5, and it needs 8.0"),
        ({}, ("_fails", "it fails on this machine (undefined symbol)"), "undefined symbol"),
        ({}, ("_refuses", "LlamaForCausalLM does not support it"), "does not support it"),
    ],
)
def test_otherwise_torch_computes_attention_and_the_log_says_why(
    shown: dict[str, Any], broken: tuple[str, str] | None, reason: str, tiny: Any, job: TestJob,
    gpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import torch

    gpu(**shown)
    if broken is not None:
        monkeypatch.setattr(accelerators, broken[0], lambda _: broken[1])
    assert not Accelerators.of(tiny, torch.bfloat16, job).flash
    assert tiny.config._attn_implementation == "sdpa"
    assert reason in logged(job)


def test_a_broken_build_fails_when_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("libcudart.so.12: cannot open shared object file\nmore")

    module = types.ModuleType("flash_attn")
    module.flash_attn_func = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device, **named: ones(*shape, **named))
    reason = accelerators._fails(torch.bfloat16)
    assert reason is not None
    assert reason.endswith("cannot open shared object file)")


def test_liger_is_used_only_for_models_that_it_patches(
    tiny: Any, job: TestJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import import_utils

    patch = types.ModuleType("liger_kernel.transformers.monkey_patch")
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": print}  # type: ignore[attr-defined]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, patch.__name__, patch)
    monkeypatch.setattr(import_utils, "is_liger_kernel_available", lambda: True)
    assert accelerators._has_liger(tiny, job)
    patch.MODEL_TYPE_TO_APPLY_LIGER_FN.clear()
    assert not accelerators._has_liger(tiny, job)
    assert "no kernels for llama models" in logged(job)


def test_nothing_is_used_without_a_gpu(tiny: Any, job: TestJob) -> None:
    import torch

    assert Accelerators.of(tiny, torch.bfloat16, job) == Accelerators()
