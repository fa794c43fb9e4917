"""Configurations of accelerate with which a training can't end, refused before it begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from finery import Model, OneFile, StepError, UsageError
from finery_trl.settings import Launch
from finery_trl.steps.dpo import Dpo
from finery_trl.steps.sft import Sft
from finery_trl.train.devices.sharding import check_sharding

FSDP_2 = {"fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"}


def launched(folder: Path, config: Any, **settings: Any) -> Sft:
    file = folder / "accelerate.yaml"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    launch = Launch(processes=2, config=OneFile([file.name], [file]))
    return Sft(model=Model(folder), rows=[], launch=launch, **settings)


def fsdp(**config: Any) -> dict[str, Any]:
    return {"distributed_type": "FSDP", "fsdp_config": config}


def zero(stage: int, **config: Any) -> dict[str, Any]:
    return {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": stage, **config}}


@pytest.mark.parametrize(
    ("config", "settings", "reason", "fix"),
    [
        ({"num_machines": 2}, {}, "processes of one machine", "num_machines: 1"),
        (fsdp(**FSDP_2), {"quantization": "nf4"}, "can't spread 4-bit weights", "remove"),
        (fsdp(), {}, "into one tensor of one dtype", "fsdp_version: 2"),
        (fsdp(fsdp_version=2), {}, "SHARDED_STATE_DICT saves parts", "FULL_STATE_DICT"),
        (
            fsdp(fsdp_state_dict_type="SHARDED_STATE_DICT"), {"lora": None},
            "SHARDED_STATE_DICT saves parts", "FULL_STATE_DICT",
        ),
        (zero(3, zero3_save_16bit_model=True), {}, "weights of different dtypes", "zero_stage: 2"),
        (zero(3), {"lora": None}, "would save parts", "zero3_save_16bit_model: true"),
    ],
)  # fmt: skip
def test_a_training_that_could_not_end_is_refused(
    config: Any, settings: dict[str, Any], reason: str, fix: str, tmp_path: Path
) -> None:
    with pytest.raises(StepError, match=reason) as raised:
        check_sharding(launched(tmp_path, config, **settings))
    assert raised.value.where == "launch.config"
    assert fix in str(raised.value.fix)


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"distributed_type": "MULTI_GPU", "num_machines": 1}, {}),
        (fsdp(**FSDP_2), {}),
        (fsdp(), {"lora": None}),
        (zero(2), {}),
        (zero(3, zero3_save_16bit_model=True), {"lora": None}),
    ],
)
def test_what_can_end_is_accepted(config: Any, settings: dict[str, Any], tmp_path: Path) -> None:
    check_sharding(launched(tmp_path, config, **settings))


@pytest.mark.parametrize("gathers", [True, False])
def test_the_file_of_deepspeed_counts(gathers: bool, tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    name = "stage3_gather_16bit_weights_on_model_save"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, name: gathers}}))
    config = {
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {"deepspeed_config_file": str(file)},
    }
    step = launched(tmp_path, config, lora=None)
    if gathers:
        check_sharding(step)
    else:
        with pytest.raises(StepError, match="would save parts"):
            check_sharding(step)


@pytest.mark.parametrize("text", ["a: [", "- a list"])
def test_a_file_of_another_kind_is_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"accelerate\.yaml isn't"):
        check_sharding(launched(tmp_path, text))


def test_a_reference_computed_before_needs_one_process(tmp_path: Path) -> None:
    step = Dpo(
        model=Model(tmp_path), rows=[], launch=Launch(processes=2), precompute_ref_log_probs=True
    )
    with pytest.raises(UsageError, match="precompute_ref_log_probs needs one process"):
        step.check()
