"""`hub.model` against a stand-in for the hub: its real protocol, on 127.0.0.1.

Each call is a process of its own, as the hub's library reads HF_ENDPOINT and HF_HOME on import.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hub_server import FIRST, SECOND, TOKEN, Caller, Hub, is_large, serving
from needs import need

pytestmark = pytest.mark.slow

need("huggingface_hub")


def weights(value: int = 0, size: int = 8) -> bytes:
    """A safetensors file with one tensor of `size` bytes."""
    tensor = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(tensor).encode()
    return len(header).to_bytes(8, "little") + header + bytes([value]) * size


def model(value: int = 0, files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """The files of a small repository at one commit."""
    card = b"---\nlicense: mit\n---\n"
    config = json.dumps({"architectures": ["LlamaForCausalLM"]}).encode()
    known = {"config.json": config, "model.safetensors": weights(value), "README.md": card}
    return {**known, "onnx/model.onnx": b"onnx", "pytorch_model.bin": b"pickle", **(files or {})}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        server.push("org/small", FIRST, model())
        yield server


@pytest.fixture
def call(hub: Hub, tmp_path: Path) -> Caller:
    return Caller(hub, tmp_path / "hf", "finery_hub.model:HubModel", repo="org/small")


@pytest.mark.quick
def test_only_a_branch_or_tag_floats() -> None:
    from finery_hub.model import HubModel

    assert HubModel(repo="org/small").floating_name() == "hub:org/small@main"
    assert HubModel(repo="org/small", revision=FIRST).floating_name() is None


def test_a_pinned_model_stays_when_main_moves(call: Caller) -> None:
    pinned = call()["pin"]
    assert pinned == FIRST
    before = call(pinned)
    call.hub.push("org/small", SECOND, model(1))
    assert call()["pin"] == SECOND
    assert call(pinned)["meta"] == before["meta"]
    assert call(SECOND)["meta"] != before["meta"]


def test_a_commit_in_the_recipe_needs_no_pin(call: Caller) -> None:
    call.hub.push("org/small", SECOND, model(1))
    assert call("", revision=FIRST)["external"]["config.json"].split("/")[-2] == FIRST


@pytest.mark.quick
def test_what_is_loaded_is_fetched_and_stays_in_the_cache(call: Caller) -> None:
    made = call(FIRST)
    assert set(made["external"]) == {"config.json", "model.safetensors"}
    assert all(Path(path).is_relative_to(call.home) for path in made["external"].values())
    assert not [r for r in call.hub.requests if "onnx" in r or "pytorch_model" in r]
    meta = made["meta"]
    assert (meta["format"], meta["license"], meta["repo"]) == ("transformers", "mit", "org/small")
    assert meta["files"]["model.safetensors"]["size"] == len(weights())


def test_a_broken_transfer_goes_on_where_it_stopped(call: Caller) -> None:
    large = weights(size=22 * 2**20)  # the library keeps what it got in pieces of 10 MiB
    call.hub.push("org/large", FIRST, model(files={"model.safetensors": large}))
    call.hub.cut.add("model.safetensors")
    made = call(FIRST, repo="org/large")
    assert made["meta"]["files"]["model.safetensors"]["blake3"] == blake3(large).hexdigest()
    assert call.hub.ranges == [f"bytes={10 * 2**20}-"]


def test_what_is_cached_is_built_offline(call: Caller) -> None:
    online = call(FIRST)
    call.env["HF_HUB_OFFLINE"] = "1"
    assert call(FIRST)["meta"] == online["meta"]
    del call.env["HF_HUB_OFFLINE"]
    call.env["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody listens
    assert call(FIRST)["meta"] == online["meta"]


def test_offline_without_the_cache_says_so(call: Caller) -> None:
    call.env["HF_HUB_OFFLINE"] = "1"
    error = call(FIRST)
    assert error["error"] == "StepError"
    assert "can't be reached, and the cache" in error["what"]
    assert "HF_HUB_OFFLINE is set" in error["details"]


def test_a_gated_repository_needs_a_token(call: Caller) -> None:
    call.hub.gated.add("org/small")
    error = call(FIRST)
    assert error["what"].startswith("org/small is gated")
    assert f"{call.hub.url}/org/small" in error["fix"]
    assert "env: [HF_TOKEN]" in error["fix"]


@pytest.mark.parametrize("passed", ["by the recipe", "by the library's own login"])
def test_a_token_opens_a_gated_repository(call: Caller, passed: str) -> None:
    call.hub.gated.add("org/small")
    if passed == "by the recipe":
        made = call(FIRST, secrets={"HF_TOKEN": TOKEN})
    else:
        call.home.mkdir()
        (call.home / "token").write_text(TOKEN)  # what `hf auth login` leaves
        made = call(FIRST)
    assert made["meta"]["format"] == "transformers"
    assert TOKEN not in json.dumps(made)
    assert set(call.hub.tokens_at_storage) == {None}


def test_pickled_weights_are_refused(call: Caller) -> None:
    files = model()
    del files["model.safetensors"]
    call.hub.push("org/old", FIRST, files)
    error = call(FIRST, repo="org/old")
    assert "org/old has only pickled weights (pytorch_model.bin)" in error["what"]
    assert not [r for r in call.hub.requests if "resolve" in r and "pytorch_model" in r]


def test_patterns_choose_the_files(call: Caller) -> None:
    call.hub.push("org/small", SECOND, model(files={"extra.json": b"{}"}))
    made = call(SECOND, files=["config.json", "extra.json", "*.safetensors", "*.bin"])
    assert set(made["external"]) == {"config.json", "extra.json", "model.safetensors"}


def test_own_code_is_refused_until_it_is_trusted(call: Caller) -> None:
    config = json.dumps({"auto_map": {"AutoModelForCausalLM": "mine.Mine"}}).encode()
    call.hub.push("org/own", FIRST, model(files={"config.json": config, "mine.py": b"x = 1"}))
    assert "brings its own code (mine.Mine)" in call(FIRST, repo="org/own")["what"]
    assert "mine.py" in call(FIRST, repo="org/own", trust_remote_code=True)["external"]


def test_an_adapter_needs_its_base(call: Caller) -> None:
    config = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "org/small"}).encode()
    files = {"adapter_config.json": config, "adapter_model.safetensors": weights()}
    call.hub.push("org/lora", FIRST, files)
    assert "trained on: org/small" in call(FIRST, repo="org/lora")["fix"]
    made = call(FIRST, repo="org/lora", base={"format": "transformers", "architecture": "A"})
    assert (made["meta"]["format"], made["meta"]["architecture"]) == ("adapter", "A")


def test_one_gguf_file_of_several(call: Caller, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="needs the package gguf")
    np = pytest.importorskip("numpy", reason="needs numpy")
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("w", np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    content = (tmp_path / "x.gguf").read_bytes()
    call.hub.push("org/gguf", FIRST, {"q/a[1].gguf": content, "b.gguf": b"not asked for"})
    made = call(FIRST, repo="org/gguf", file="q/a[1].gguf")
    assert (made["meta"]["format"], made["meta"]["file"]) == ("gguf", "a[1].gguf")
    assert not [r for r in call.hub.requests if "b.gguf" in r]
    missing = call(FIRST, repo="org/gguf", file="c.gguf")
    assert missing["fix"] == "one of: b.gguf, q/a[1].gguf"
    assert call(FIRST, repo="org/gguf")["fix"] == (
        "name one of its GGUF files: b.gguf, q/a[1].gguf"
    )


def test_a_sketch_fetches_no_weights(call: Caller) -> None:
    call.hub.push("org/small", SECOND, model(files={"tokenizer.json": b"{}"}))
    made = call(SECOND, sketch=True, files=["*"], chat_template_kwargs={"think": False})
    assert made["files"] == ["README.md", "config.json", "tokenizer.json"]
    assert made["meta"] == {
        "repo": "org/small", "format": "transformers", "trust_remote_code": False,
        "chat_template_kwargs": {"think": False},
    }  # fmt: skip
    assert not [r for r in call.hub.requests if "resolve" in r and is_large(r)]


def test_a_sketch_of_own_code_is_refused_until_it_is_trusted(call: Caller) -> None:
    config = json.dumps({"auto_map": {"AutoModelForCausalLM": "mine.Mine"}}).encode()
    call.hub.push("org/own", FIRST, model(files={"config.json": config}))
    assert "brings its own code" in call(FIRST, repo="org/own", sketch=True)["what"]


def test_a_full_disk_is_named() -> None:
    from finery_hub.client import explain

    error = explain(OSError(28, "No space left on device"), "org/small", FIRST)
    assert error.what == "no disk space left for org/small"
    assert "HF_HOME" in (error.fix or "")


def test_a_hub_that_drips_is_not_waited_for(call: Caller) -> None:
    call.patience = 1.0
    call.hub.slow.add("model.safetensors")
    assert "sent less than 65,536 B in 1 s" in call(FIRST)["what"]
    call.hub.slow = {"main"}  # the facts about the repository
    assert "sent less than 65,536 B in 1 s" in call()["what"]


def test_no_more_is_fetched_than_was_announced(call: Caller) -> None:
    call.hub.endless.add("model.safetensors")
    assert "more of org/small than" in call(FIRST)["what"]
    assert call.hub.requests.count(f"GET /storage/org/small/{FIRST}/model.safetensors") <= 1
