"""Configurations of accelerate with which a training can't end, refused before it begins."""

import json
from pathlib import Path
from typing import Any

import pytest

from finery import File, Model, StepError
from finery.builder.plan import Planner
from finery.builder.project import open_graph
from finery.store.database import Store
from finery_trl.settings import Launch
from finery_trl.steps import Sft
from finery_trl.train.messages import check_sharding

FSDP_2 = {"fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"}


def launched(folder: Path, config: Any, *, zero: Any = None, **settings: Any) -> Sft:
    """A training with this configuration of accelerate. zero: of DeepSpeed, in a file."""
    launch = Launch(
        processes=2,
        config=written(folder / "accelerate.yaml", config),
        deepspeed=None if zero is None else written(folder / "zero.json", zero),
    )
    return Sft(model=Model(folder), rows=[], launch=launch, **settings)


def written(file: Path, config: Any) -> File:
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return File([file.name], [file])


def fsdp(**config: Any) -> dict[str, Any]:
    return {"distributed_type": "FSDP", "fsdp_config": config}


def zero(stage: int, **config: Any) -> dict[str, Any]:
    return {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": stage, **config}}


@pytest.mark.parametrize(
    ("config", "settings", "reason", "fix"),
    [
        ({"num_machines": 2}, {}, "the recipe decides that", "launch.nodes: 2"),
        (fsdp(**FSDP_2), {"quantization": "nf4"}, "can't spread 4-bit weights", "remove"),
        (fsdp(), {}, "into one tensor of one dtype", "fsdp_version: 2"),
        (zero(3, zero3_save_16bit_model=True), {}, "weights of different dtypes", "zero_stage: 2"),
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


def test_a_file_of_deepspeed_that_the_key_would_not_see_is_refused(tmp_path: Path) -> None:
    named = {"deepspeed_config_file": "zero.json"}
    config = {"distributed_type": "DEEPSPEED", "deepspeed_config": named}
    with pytest.raises(StepError, match="a change of it would not repeat") as raised:
        check_sharding(launched(tmp_path, config))
    assert "launch.deepspeed: zero.json" in str(raised.value.fix)


RECIPE = """\
finery: 1
models: {base: {use: local.model, path: model}}
data: {rows: {use: data.file, path: rows.jsonl, format: completion}}
train:
  sft:
    use: trl.sft
    model: base
    rows: rows
    launch: {processes: 2, config: accelerate.yaml, deepspeed: zero.json}
"""


def test_a_change_of_the_file_of_deepspeed_repeats_the_training(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "completion": "b"}))
    (tmp_path / "accelerate.yaml").write_text("distributed_type: DEEPSPEED")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    files = set()
    for stage in (1, 2):
        written(tmp_path / "zero.json", {"zero_optimization": {"stage": stage}})
        graph = open_graph(tmp_path / "recipe.yaml")
        planner = Planner(graph, Store(tmp_path / f".finery{stage}"))
        files.add(str(planner.store.digest_files(graph.files(graph.nodes["sft"]))))
        planner.store.close()
    assert len(files) == 2
    assert all("zero.json" in digests for digests in files)
