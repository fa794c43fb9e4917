"""Export: real conversion of small models, proven, the same bytes every time."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import smollm2_tokenizer
from tiny_gguf import CHATML, tiny_tokenizer, write_tiny_gguf

from finery import DataError, Dataset, Model, Request, Sampling, UsageError
from finery.testing import TestJob, dataset, run_step
from finery_gguf.engine import GgufEngine
from finery_gguf.export import Export, Quantization, _corrections
from finery_gguf.llama import Gguf
from finery_gguf.prompts import chat_template, tokenize
from finery_gguf.proof import prove
from finery_gguf.quantise import quantise
from finery_transformers.chat import PromptTemplate
from finery_transformers.frozen.proof import conversations
from finery_transformers.frozen.template import FrozenTemplate
from finery_transformers.loading import load_tokenizer

pytestmark = pytest.mark.slow  # its fixtures convert a model three times

ALL: list[Quantization] = ["bf16", "f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "iq4_xs"]
ROWS = [{"prompt": f"Where is parcel {i}?", "completion": "On its way."} for i in range(9)]
TALK = [{"role": "user", "content": "Why?"}]


@pytest.fixture(scope="module")
def tokenizer(smollm2_gguf: Path) -> Any:
    """SmolLM2's: the converter knows tokenizers by how they split text, so no toy would do."""
    return smollm2_tokenizer(smollm2_gguf)


def write_llama(folder: Path, tokenizer: Any, hidden_size: int) -> None:
    """Write a random Llama of two layers, with this tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=hidden_size,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=2,
        dtype="bfloat16",
    )  # fmt: skip
    made = LlamaForCausalLM._from_config(config)  # type: ignore[no-untyped-call]
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Model:
    """A random model."""
    folder = tmp_path_factory.mktemp("base")
    write_llama(folder, tokenizer, hidden_size=256)
    meta = {"format": "transformers", "repo": "who/Tiny-1M", "license": "apache-2.0"}
    return Model(folder, meta=meta)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory, base: Model) -> Model:
    """A LoRA of `base` that changes its answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(base.path), config)
    folder = tmp_path_factory.mktemp("adapter")
    tuned.save_pretrained(str(folder))
    return Model(folder, meta={"format": "adapter"}, refs={"base": base})


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> TestJob:
    return TestJob(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def exported(job: TestJob, adapter: Model) -> dict[str, Model]:
    adapter.digest = "of the adapter"
    rows = [dataset(job.out.parent / "rows", ROWS)]
    return dict(Export(model=adapter, quantization=ALL, imatrix=rows).run(job))


def answer(model: Model) -> str:
    engine = GgufEngine(model, TestJob())
    return engine.generate([Request(TALK)], Sampling(max_tokens=12))[0].text


@pytest.mark.quick
def test_outputs_are_the_first_and_each() -> None:
    step = Export(model=Model.placeholder("sft"), quantization=["q4_k_m", "q8_0"])
    assert step.outputs() == {"": Model, "q4_k_m": Model, "q8_0": Model}


@pytest.mark.quick
def test_types_are_taken_as_llama_cpp_writes_them() -> None:
    step = Export(model=Model.placeholder("sft"), quantization=["Q4_K_M", "q4_K_M", "Q8_0"])
    assert step.quantization == ["q4_k_m", "q8_0"]
    assert step.outputs() == {"": Model, "q4_k_m": Model, "q8_0": Model}


def test_what_is_known_of_each_file(exported: dict[str, Model]) -> None:
    meta = dict(exported["q4_k_m"].meta)
    assert meta.pop("size") == exported["q4_k_m"].file("model-q4_k_m.gguf").stat().st_size
    assert len(meta.pop("chat_template_digest")) == 64
    assert meta.pop("parameters") > 1_000_000
    matrix = meta.pop("imatrix")
    assert matrix["rows"] == len(ROWS)
    assert 20 * len(ROWS) < matrix["tokens"] < 60 * len(ROWS)
    assert meta == {
        "format": "gguf",
        "file": "model-q4_k_m.gguf",
        "quantization": "q4_k_m",
        "dtype": "q4_k_m",
        "architecture": "llama",
        "base": "Tiny-1M",
        "license": "apache-2.0",
        "chat_template": True,
        "exported_from": "of the adapter",
    }
    assert "imatrix" not in exported["q6_k"].meta
    assert exported["q5_k_m"].meta["imatrix"] == exported["iq4_xs"].meta["imatrix"]


def test_a_matrix_is_neither_missing_nor_without_use() -> None:
    model, rows = Model.placeholder("sft"), [Dataset.placeholder("split.train")]
    with pytest.raises(UsageError, match="iq4_xs needs an importance matrix") as raised:
        Export(model=model, quantization=["q8_0", "IQ4_XS"]).check()
    assert "imatrix: split.train" in str(raised.value.fix)
    with pytest.raises(UsageError, match="an importance matrix isn't for q8_0, q6_k"):
        Export(model=model, quantization=["q8_0", "q6_k"], imatrix=rows).check()
    Export(model=model, quantization=["q8_0", "iq4_xs"], imatrix=rows).check()
    Export(model=model, quantization=["q4_k_m", "q6_k"]).check()


@pytest.mark.parametrize("quantization", ALL)
def test_every_file_answers(exported: dict[str, Model], quantization: str) -> None:
    assert answer(exported[quantization])


def test_the_adapter_is_in_the_weights(
    exported: dict[str, Model], base: Model, tmp_path: Path
) -> None:
    plain = run_step(Export(model=base, quantization=["bf16"]), tmp_path)
    assert answer(plain["bf16"]) != answer(exported["bf16"])
    gguf = Gguf(plain["bf16"].file("model-bf16.gguf"), vocab_only=True)
    assert gguf.metadata("general.name") == "Tiny-1M"


def test_the_bytes_are_the_same_every_time(
    exported: dict[str, Model], adapter: Model, tmp_path: Path
) -> None:
    rows = [dataset(tmp_path / "rows", ROWS[::-1])]
    step = Export(model=adapter, quantization=["bf16", "q4_k_m"], imatrix=rows)
    again = run_step(step, tmp_path)
    for name in ("bf16", "q4_k_m"):
        file = f"model-{name}.gguf"
        assert again[name].file(file).read_bytes() == exported[name].file(file).read_bytes()


def test_a_second_attempt_takes_what_the_first_converted(
    base: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Export(model=base, quantization=["q8_0"])
    first = step.run(TestJob(tmp_path))["q8_0"].file("model-q8_0.gguf").read_bytes()
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")  # were the converter needed, this would fail
    second = step.run(TestJob(tmp_path))["q8_0"].file("model-q8_0.gguf").read_bytes()
    assert second == first


def test_tokens_that_training_had_not_are_switched_off(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    flags = {"add_bos_token": True, "add_eos_token": True}
    source = write_tiny_gguf(tmp_path / "f32.gguf", template=template, flags=flags)
    job, tokenizer = TestJob(tmp_path), tiny_tokenizer(template)
    frozen = FrozenTemplate(template, tokenizer, {}, tools=False)
    found = _corrections(Gguf(source), frozen, job)
    quantise(source, tmp_path / "t.gguf", "q8_0", flags=found)
    gguf = Gguf(tmp_path / "t.gguf", vocab_only=True)
    assert (gguf.adds_bos, gguf.adds_eos) == (False, False)
    assert prove(gguf, frozen) > 0
    assert len(job.events) == 2


@pytest.mark.real
@pytest.mark.quick
def test_smollm2_is_exported_and_answers(smollm2_gguf: Path, tmp_path: Path) -> None:
    model = Model(smollm2_gguf.parent, meta={"format": "gguf", "file": smollm2_gguf.name})
    made = run_step(Export(model=model, quantization=["bf16", "q8_0", "q4_k_m"]), tmp_path)
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    for name in ("bf16", "q8_0"):
        engine = GgufEngine(made[name], TestJob())
        (answer,) = engine.generate([Request(talk)], Sampling(max_tokens=30))
        assert "Paris" in answer.text
        assert answer.finish_reason == "stop"
        assert engine.generate([Request(talk)], Sampling(max_tokens=30)) == [answer]


def test_what_the_training_used_is_all_that_a_server_can_write(tmp_path: Path, base: Model) -> None:
    used = {"tools": False, "thinking": False, "switched": False}
    model = Model(base.path, meta={**base.meta, "prompts": used})
    rows = [dataset(tmp_path / "rows", [{"prompt": "Where is it?", "completion": "Here."}])]
    job = TestJob(tmp_path)
    exported = Export(model=model, quantization=["bf16"], rows=rows).run(job)["bf16"]
    assert exported.meta["frozen"] == {"tools": False}
    gguf = Gguf(exported.file(exported.meta["file"]), vocab_only=True)
    template = chat_template(gguf, {})
    assert tokenize(gguf, template, TALK).text == PromptTemplate(load_tokenizer(model)).prompt(TALK)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with pytest.raises(DataError, match="trained without tools"):
        tokenize(gguf, template, TALK, tools)
    logged = [str(e.get("message")) for e in job.events]
    assert "the chat template refuses tools, since the training rows have none" in logged
    assert any(f"{len(conversations('')) + 1} conversations give" in line for line in logged)


def test_tools_are_kept_if_the_recipe_says_so(tmp_path: Path, base: Model) -> None:
    template = "{% if tools %}{{ tools | tojson }}{% endif %}" + CHATML
    folder = tmp_path / "with tools"
    shutil.copytree(base.path, folder)
    (folder / "chat_template.jinja").write_text(template)
    used = {"tools": False, "thinking": False, "switched": False}
    model = Model(folder, meta={**base.meta, "prompts": used})
    step = Export(model=model, quantization=["bf16"], keep=["tools"])
    exported = step.run(TestJob(tmp_path))["bf16"]
    gguf = Gguf(exported.file(exported.meta["file"]), vocab_only=True)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    text = tokenize(gguf, chat_template(gguf, {}), TALK, tools).text
    assert text == PromptTemplate(load_tokenizer(model)).prompt(TALK, tools=tools)
    assert text.startswith('[{"type": "function"')
