"""Which layers get an adapter in models with Mamba layers."""

from pathlib import Path
from typing import Any

import pytest
from models.families import SHAPES
from models.tiny import SHAPE
from tiny_llama import tiny_tokenizer

from finery import Model, UsageError
from finery.testing import dataset
from finery_trl.model.loading import check_targets, exclude_unadaptable
from finery_trl.settings import Lora
from finery_trl.steps import Sft


@pytest.fixture
def mamba(tmp_path: Path) -> Model:
    """The configuration of a Nemotron-H, without weights."""
    from transformers import NemotronHConfig

    shape: dict[str, Any] = {**SHAPE, **SHAPES["NemotronHConfig"]}
    config = NemotronHConfig(**shape, architectures=["NemotronHForCausalLM"])
    config.save_pretrained(tmp_path / "mamba")
    tiny_tokenizer().save_pretrained(tmp_path / "mamba")
    return Model(tmp_path / "mamba", meta={"format": "transformers"})


def sft(model: Model, folder: Path, **lora: Any) -> Sft:
    row = {"prompt": "a", "completion": "b"}
    return Sft(model=model, rows=[dataset(folder / "rows", [row])], lora=Lora(**lora))


def test_all_linear_leaves_out_what_cannot_be_adapted(mamba: Model, tmp_path: Path) -> None:
    from finery_transformers.loading import load_skeleton

    config = sft(mamba, tmp_path).peft_config()
    assert config is not None
    exclude_unadaptable(config, load_skeleton(mamba))
    assert config.exclude_modules == ["out_proj"]


def test_a_named_layer_that_cannot_be_adapted_is_refused(mamba: Model, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'out_proj' of a Mamba layer") as caught:
        check_targets(sft(mamba, tmp_path, target_modules=["q_proj", "out_proj"]))
    assert caught.value.fix is not None
    assert "all-linear" in caught.value.fix
    check_targets(sft(mamba, tmp_path, target_modules=["q_proj"]))
