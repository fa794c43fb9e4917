"""`local.model`: which folders and files are models, what is refused, what `meta` says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from safetensors.numpy import save_file

from finery import DataError, Files, Model, UsageError
from finery.testing import TestJob
from finery_local.model import LocalModel

CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}


def files(*paths: Path) -> Files:
    """The setting as a running step sees it: what the folders hold, file by file."""
    found = [f for p in paths for f in (sorted(p.rglob("*")) if p.is_dir() else [p]) if f.is_file()]
    return Files([str(p) for p in paths], found)


def take(*paths: Path, job: TestJob | None = None, **settings: Any) -> Model:
    return LocalModel(path=files(*paths), **settings).run(job or TestJob())


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files of a model: ten 16-bit numbers as its weights."""
    root = tmp_path / "model"
    write(root / "config.json", CONFIG)
    write(root / "tokenizer_config.json", {"chat_template": "{{ messages }}"})
    save_file({"w": np.ones((2, 5), np.float16)}, root / "model.safetensors")
    return root


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    root = tmp_path / "adapter"
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    write(root / "adapter_config.json", config)
    save_file({"a": np.ones((2, 2), np.float32)}, root / "adapter_model.safetensors")
    return root


def test_meta_says_what_the_headers_say(folder: Path) -> None:
    meta = take(folder).meta
    known = {k: meta[k] for k in ("format", "architecture", "parameters", "dtype", "chat_template")}
    assert known == {
        "format": "transformers",
        "architecture": "LlamaForCausalLM",
        "parameters": 10,
        "dtype": "float16",
        "chat_template": True,
    }
    assert meta["trust_remote_code"] is False
    assert "license" not in meta


def test_files_stay_where_they_are_and_are_identified_by_content(folder: Path) -> None:
    model = take(folder)
    weights = folder / "model.safetensors"
    assert model.file("model.safetensors") == weights
    assert not list(model.path.iterdir())
    assert model.meta["files"]["model.safetensors"] == {
        "blake3": blake3(weights.read_bytes()).hexdigest(),
        "size": weights.stat().st_size,
    }


def test_a_readme_gives_the_licence_and_is_not_the_model(folder: Path) -> None:
    write(folder / "README.md", "---\nlicense: apache-2.0\ntags: [a]\n---\n# Model\n")
    model = take(folder)
    assert model.meta["license"] == "apache-2.0"
    assert "README.md" not in model.external


def test_shards_count_together(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for shard in shards:
        save_file({shard: np.ones(7, np.float32)}, folder / shard)
    write(folder / "model.safetensors.index.json", {"weight_map": {s: s for s in shards}})
    model = take(folder)
    assert model.meta["parameters"] == 14
    assert {*shards, "model.safetensors.index.json"} < set(model.external)


def test_a_missing_shard_is_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    write(folder / "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors"}})
    with pytest.raises(DataError, match=r"1 of them are missing \(model-1.safetensors\)"):
        take(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(DataError, match="only pickled weights") as refused:
        take(folder)
    assert name in refused.value.what
    assert "safetensors" in (refused.value.fix or "")


def test_a_pickle_named_directly_is_refused(folder: Path) -> None:
    write(folder / "pytorch_model.bin", "pickle")
    with pytest.raises(DataError, match=r"pytorch_model.bin is a pickle"):
        take(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("", "not a safetensors file"),
        ("\x02" + "\0" * 7 + "[]", "header that isn't"),
    ],
)
def test_what_is_no_safetensors_file_is_refused(folder: Path, content: str, message: str) -> None:
    write(folder / "model.safetensors", content)
    with pytest.raises(DataError, match=message):
        take(folder)


def test_own_code_is_refused_until_it_is_trusted(folder: Path) -> None:
    write(folder / "config.json", {**CONFIG, "auto_map": {"AutoModel": "modeling.Mine"}})
    write(folder / "modeling.py", "raise SystemExit")
    with pytest.raises(DataError, match="brings its own code") as refused:
        take(folder)
    assert "trust_remote_code: true" in (refused.value.fix or "")
    trusted = take(folder, trust_remote_code=True)
    assert trusted.meta["trust_remote_code"] is True
    assert "modeling.py" in trusted.external


def test_code_from_another_repository_is_refused(folder: Path) -> None:
    write(folder / "config.json", {**CONFIG, "auto_map": {"AutoModel": "org/x--modeling.Mine"}})
    with pytest.raises(DataError, match="another repository"):
        take(folder, trust_remote_code=True)


def test_an_adapter_refers_to_its_base(adapter: Path, folder: Path) -> None:
    base = take(folder)
    model = take(adapter, base=base)
    assert model.refs == {"base": base}
    assert (model.format, model.meta["parameters"], model.meta["peft"]) == ("adapter", 4, "LORA")
    assert model.meta["architecture"] == "LlamaForCausalLM"
    assert model.meta["chat_template"] is True


def test_a_base_that_the_adapter_was_not_trained_on_is_refused(adapter: Path, folder: Path) -> None:
    base = take(folder)
    base.meta["repo"] = "org/other"
    with pytest.raises(DataError, match=r"trained on 'org/base', .* another model: 'org/other'"):
        take(adapter, base=base)
    base.meta["repo"] = "else/Base-bnb-4bit"  # the same model, in another place
    assert take(adapter, base=base).refs == {"base": base}


@pytest.mark.parametrize(
    ("sizes", "said"),
    [({"hidden_size": 16}, "features in"), ({"num_hidden_layers": 1}, "has fewer layers")],
)
def test_an_adapter_that_does_not_fit_its_base_is_refused(
    tmp_path: Path, sizes: dict[str, int], said: str
) -> None:
    peft = pytest.importorskip("peft", reason="needs peft")
    llama(tmp_path / "other", **sizes)
    lora = peft.get_peft_model(
        llama(tmp_path / "base"), peft.LoraConfig(r=2, target_modules="all-linear")
    )
    lora.save_pretrained(tmp_path / "lora")
    with pytest.raises(
        DataError, match=r"trained on '.*base', .* another model: '.*other'"
    ) as error:
        take(tmp_path / "lora", base=take(tmp_path / "other"))
    assert said in error.value.details[0]
    assert take(tmp_path / "lora", base=take(tmp_path / "base")).format == "adapter"


def llama(folder: Path, **sizes: int) -> Any:
    """A tiny model, saved."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    usual = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "vocab_size": 16}
    config = transformers.LlamaConfig(**{**usual, **sizes}, num_attention_heads=2)
    made = transformers.LlamaForCausalLM(config)
    made.save_pretrained(folder)
    made.name_or_path = str(folder)
    return made


def test_a_pickled_adapter_is_refused(adapter: Path, folder: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(DataError, match=r"only pickled weights \(adapter_model.bin\)"):
        take(adapter, base=take(folder))


def test_what_transformers_and_peft_save_is_read_back(tmp_path: Path) -> None:
    """The files that are chosen are enough for both libraries to load what they saved."""
    torch = pytest.importorskip("torch", reason="needs torch")
    peft = pytest.importorskip("peft", reason="needs peft")
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2)
    whole = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    whole.save_pretrained(tmp_path / "whole")
    lora = peft.get_peft_model(whole, peft.LoraConfig(r=2, target_modules="all-linear"))
    lora.save_pretrained(tmp_path / "lora")

    base = take(tmp_path / "whole")
    adapter = take(tmp_path / "lora", base=base)
    loaded = transformers.LlamaForCausalLM.from_pretrained(view(base, tmp_path / "view"))
    assert base.meta["parameters"] == loaded.num_parameters()
    assert base.meta["dtype"] == "bfloat16"
    tuned = peft.PeftModel.from_pretrained(loaded, view(adapter, tmp_path / "tuned"))
    trained = sum(p.numel() for n, p in tuned.named_parameters() if "lora_" in n)
    assert adapter.meta["parameters"] == trained


def view(model: Model, folder: Path) -> Path:
    """The artifact's folder as a build shows it: links to the files that stay outside."""
    for name, path in model.external.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path)
    return folder


def test_the_chat_template_is_called_as_the_recipe_says(folder: Path) -> None:
    made = take(folder, chat_template_kwargs={"enable_thinking": False})
    assert made.meta["chat_template_kwargs"] == {"enable_thinking": False}
    assert "chat_template_kwargs" not in take(folder).meta
    with pytest.raises(UsageError, match="finery sets 'tools' itself") as caught:
        LocalModel(path=files(folder), chat_template_kwargs={"tools": []}).check()
    assert caught.value.where == "chat_template_kwargs.tools"
