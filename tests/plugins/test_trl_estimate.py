"""What a training will take: the arithmetic, where its facts come from, and what a plan says."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import MakeProject, Project
from tiny_llama import tiny_llama

from finery import Model
from finery.builder.checks import estimates_of
from finery.builder.project import open_graph
from finery.execute.gpus import Gpu
from finery.plugin.history import Past, Results
from finery.recipe.graph import Graph
from finery_transformers.precision import Unused
from finery_trl.estimate import architecture as facts
from finery_trl.estimate import forecast
from finery_trl.estimate import memory as estimate
from finery_trl.estimate.architecture import UnknownSize, of_config
from finery_trl.estimate.memory import (
    Adapter,
    Architecture,
    Load,
    memory,
    of_size,
    tokens_per_second,
)
from finery_trl.steps import Dpo, Kto, Sft

SMOLLM2 = Architecture(30, 576, 1536, 9, 3, 64, 49152, tied=True)
LLAMA_1B = Architecture(16, 2048, 8192, 32, 8, 64, 128256, tied=True)
QWEN_4B = Architecture(36, 2560, 9728, 32, 8, 128, 151936, tied=True)
QWEN_CONFIG = {
    "model_type": "qwen3", "num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip
LOAD = Load(rows=8, tokens=512, answers=64, width=2)
LORA = Adapter(16)
RECIPE = """\
finery: 1
models:
  base: {use: local.model, path: model}
data:
  rows: {use: data.file, path: rows.jsonl, format: completion}
  split: {use: data.split, rows: rows}
train:
  sft: {use: trl.sft, model: base, rows: split.train, validation: split.validation}
silence: [no-evaluator, few-rows, epochs]
"""
ROWS = "".join(
    json.dumps({"prompt": f"{i} " + "word " * 200, "completion": "yes"}) + "\n" for i in range(50)
)


@pytest.mark.parametrize(("model", "count"), [
    (SMOLLM2, 134_515_008), (LLAMA_1B, 1_235_814_400),
])  # fmt: skip
def test_parameters_as_published(model: Architecture, count: int) -> None:
    assert model.parameters() == count


def test_parameters_as_torch_counts_them(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from finery_transformers.loading import load_model

    model = tiny_llama(tmp_path / "tiny")
    loaded: Any = load_model(model)
    counted = sum(p.numel() for p in loaded.parameters())
    assert facts.of_artifact(model).parameters() == counted
    config = LoraConfig(r=4, target_modules="all-linear", use_dora=True, task_type="CAUSAL_LM")
    tuned: Any = get_peft_model(loaded, config)
    adapter = Adapter(4, dora=True).parameters(facts.of_artifact(model))
    assert adapter == sum(p.numel() for p in tuned.parameters() if p.requires_grad)


def test_an_adapter_on_some_layers_is_smaller() -> None:
    some = Adapter(16, ["q_proj", "model.layers.0.self_attn.v_proj"])
    assert some.parameters(SMOLLM2) == 16 * (30 * (576 + 576) + (576 + 192))
    matched = Adapter(16, r"model\.layers\.\d\.(self_attn|mlp)\.[qv]_proj")
    assert matched.parameters(SMOLLM2) == 10 * 16 * ((576 + 576) + (576 + 192))
    assert LORA.parameters(SMOLLM2) == 4_884_480


def test_memory_by_parts() -> None:
    used = memory(SMOLLM2, LORA, LOAD)
    assert used.weights == 2 * 134_515_008
    assert used.optimizer == 8 * 4_884_480
    assert used.logits == 12 * 8 * 64 * 49152
    assert used.total == sum(used)


def test_training_all_weights_takes_sixteen_bytes_each_and_copies() -> None:
    used = memory(SMOLLM2, None, LOAD)
    assert used.weights == 0
    assert used.trained + used.gradients + used.optimizer == (16 + 2) * 134_515_008
    wide = memory(SMOLLM2, None, LOAD._replace(width=4))
    assert wide.trained + wide.gradients + wide.optimizer == 16 * 134_515_008


@pytest.mark.parametrize(("method", "settings", "kept"), [
    (Sft, {"lora": None}, False), (Dpo, {"lora": None}, True), (Kto, {"lora": None}, True),
    (Dpo, {"lora": None, "precompute_ref_log_probs": True}, False), (Dpo, {}, False),
])  # fmt: skip
def test_a_reference_counts_if_it_is_kept(
    method: Any, settings: dict[str, Any], kept: bool
) -> None:
    step = method(model=Model.placeholder("m"), rows=[], dtype="bf16", **settings)
    here = facts.Machine("cuda", 24 * 2**30, "bf16", "NVIDIA L4")
    used = forecast.memory_of(step, SMOLLM2, forecast.Lengths(9, 900, 100, 10), here)
    model = 2 * SMOLLM2.parameters()
    assert used.weights == model * (step.lora is not None) + model * kept


WHOLE = SMOLLM2.parameters()
TABLE = 49152 * 576
SMALL, SMALLEST = LORA.parameters(SMOLLM2), 30 * 2 * 16 * 192
"""Weights of the adapter: too small to be paged, and those of k_proj and v_proj to be quantized."""


@pytest.mark.parametrize(("optim", "adapter", "device", "expected"), [
    ("adamw_8bit", None, "cuda", 2.03 * (WHOLE - TABLE) + 8 * TABLE),
    ("paged_adamw_8bit", None, "cuda", 8 * 61 * 576 + 0.03125 * (WHOLE - TABLE)),
    ("adamw_8bit", LORA, "cuda", 2.03 * (SMALL - SMALLEST) + 8 * SMALLEST),
])  # fmt: skip
def test_states_of_the_optimizer_are_quantized_or_leave_the_gpu(
    optim: str, adapter: Adapter | None, device: str, expected: float
) -> None:
    used = memory(SMOLLM2, adapter, LOAD._replace(device=device), optim=optim)
    assert used.optimizer == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("size", [4000, 5000, 200_000])
def test_states_in_8_bits_are_those_of_bitsandbytes(size: int) -> None:
    optimizers = pytest.importorskip("bitsandbytes.optim")
    import torch

    # It remembers by `id` which weights of earlier trainings have 32 bits.
    optimizers.GlobalOptimManager.get_instance().initialize()
    weights = torch.nn.Parameter(torch.zeros(size))
    weights.grad = torch.ones(size)
    optimizer = optimizers.AdamW(
        [weights], betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0, optim_bits=8
    )
    optimizer.step()
    state = optimizer.state[weights]
    names = ("state1", "state2", "absmax1", "absmax2")
    counted = sum(state[name].nbytes for name in names if name in state)
    assert counted == pytest.approx(estimate._states(size, bits8=True, pages=False), rel=0.01)


def test_quantised_weights_take_little_more_than_half_a_byte() -> None:
    single = memory(LLAMA_1B, LORA, LOAD, quantized=True, double_quantized=False)
    double = memory(LLAMA_1B, LORA, LOAD, quantized=True)
    linear = LLAMA_1B.linear_parameters()
    rest = 2 * (LLAMA_1B.parameters() - linear)
    assert single.weights == linear * 0.5625 + rest
    assert 0.51 * linear < double.weights - rest < 0.52 * linear


def test_activations_grow_with_tokens_and_checkpoints_save_them() -> None:
    whole = estimate.activations(SMOLLM2, LORA, LOAD)
    assert estimate.activations(SMOLLM2, LORA, LOAD._replace(rows=16)) == 2 * whole
    saved = estimate.activations(SMOLLM2, LORA, LOAD._replace(checkpointing=True))
    assert saved < whole / 8


GPU = Load(rows=8, tokens=1024, answers=300, width=2, device="cuda")


def test_on_a_gpu_the_logits_are_a_tile() -> None:
    """TRL computes the loss in tiles there: QLoRA of 4 billion parameters needs 8 GiB, not 21."""
    used = memory(QWEN_4B, LORA, GPU, quantized=True)
    positions = 8 * 300
    tile = 2 * (positions * 32768 + 32768 * 2560)
    assert used.logits == tile + positions * 2560 * 6
    checkpointing = memory(QWEN_4B, LORA, GPU._replace(checkpointing=True), quantized=True)
    assert 5 * 2**30 < checkpointing.total < 9 * 2**30
    long = GPU._replace(answers=1024)
    most = memory(QWEN_4B, LORA, long).logits - 8 * 1024 * 2560 * 6
    assert most == 2 * (4096 * 32768 + 32768 * 2560)


def test_tiles_are_those_of_the_installed_trl() -> None:
    pytest.importorskip("trl")
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer import utils

    assert estimate.TILE_TOKENS == TOKEN_CHUNK_SIZE
    assert estimate.TILE_VOCABULARY == utils._CHUNKED_LOGPROB_CHUNK_SIZE


L4 = Gpu("GPU-a", "NVIDIA L4", (8, 9), 24 * 2**30, 2**30)
T4 = Gpu("GPU-b", "Tesla T4", (7, 5), 16 * 2**30, 0)


@pytest.mark.parametrize(("gpus", "count", "name", "free"), [
    ([T4, L4], 1, "NVIDIA L4", 23), ([T4, L4], 2, "Tesla T4", 16), ([T4, L4], 8, "Tesla T4", 16),
    ([L4._replace(used=20 * 2**30), T4], 1, "Tesla T4", 16),
])  # fmt: skip
def test_the_gpu_that_a_training_gets_is_estimated(
    monkeypatch: pytest.MonkeyPatch, gpus: list[Gpu], count: int, name: str, free: int
) -> None:
    monkeypatch.setattr(facts, "usable_gpus", lambda: gpus)
    here = facts.machine(count)
    assert (here.device, here.name, here.free) == ("cuda", name, free * 2**30)


def test_a_plan_warns_where_the_stated_share_of_a_gpu_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "usable_gpus", lambda: [L4])
    shared = RECIPE.replace("{use: trl.sft,", "{use: trl.sft, resources: {gpu_memory: 6GB},")
    found = estimates_of(graph(tmp_path, shared), Results(), ["sft"])["sft"]
    assert "GiB, and resources gives it 6.0 GiB of a GPU" in str(found.warning)
    assert str(found.fix).startswith("gpu_memory: ")


def test_a_plan_says_why_the_gpu_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unused = Unused("the L4 isn't used: its driver is too old", "update the driver")
    monkeypatch.setattr(facts, "usable_gpus", list)
    monkeypatch.setattr(facts, "unused_gpu", lambda: unused)
    found = estimates_of(graph(tmp_path), Results(), ["sft"])["sft"]
    assert (found.warning, found.fix) == unused
    assert found.facts["device"] == "cpu"


def test_speed_follows_the_nearest_size() -> None:
    rates = [(1e9, 100.0), (1e9, 120.0), (1e9, 500.0), (1e8, 9000.0)]
    assert tokens_per_second(rates, 1e9) == 120
    assert tokens_per_second(rates, 2e9) == 60
    assert tokens_per_second(rates, 1e8) == 9000
    assert tokens_per_second([], 1e9) is None


def test_sizes_from_a_config() -> None:
    assert of_config(QWEN_CONFIG) == QWEN_4B
    assert of_config({"text_config": QWEN_CONFIG}) == QWEN_4B
    untied = QWEN_4B._replace(tied=False)
    assert of_config(QWEN_CONFIG, untied.parameters()) == untied


@pytest.mark.parametrize("name", [
    *sorted(facts.TIED), "llama", "mistral", "phi3", "qwen2", "qwen3", "olmo2",
])  # fmt: skip
def test_without_a_word_on_the_output_matrix_it_is_as_transformers_has_it(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = {k: v for k, v in QWEN_CONFIG.items() if k != "tie_word_embeddings"}
    tied = transformers.CONFIG_MAPPING[name]().tie_word_embeddings
    assert of_config({**config, "model_type": name}).tied is tied
    assert of_config({"text_config": {**config, "model_type": name}}).tied is tied
    assert not of_config({**config, "model_type": name, "tie_word_embeddings": False}).tied


@pytest.mark.parametrize(("change", "why"), [
    ({"num_experts": 128}, "mixture of experts"), ({"hidden_size": None}, "config.json"),
    ({"num_attention_heads": 0}, "num_attention_heads in its config.json is not a whole number"),
    ({"text_config": [1]}, "text_config of its model is not an object"),
])  # fmt: skip
def test_sizes_that_cannot_be_told(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UnknownSize, match=why):
        of_config({k: v for k, v in {**QWEN_CONFIG, **change}.items() if v is not None})


def test_sizes_from_a_gguf(smollm2_gguf: Path, tmp_path: Path) -> None:
    assert facts.of_gguf(smollm2_gguf) == SMOLLM2
    (tmp_path / "cut.gguf").write_bytes(smollm2_gguf.read_bytes()[:100_000])
    with pytest.raises(UnknownSize, match=r"cut\.gguf can't be read"):
        facts.of_gguf(tmp_path / "cut.gguf")


# -- what a plan says ----------------------------------------------------------------------------


def planned(project: MakeProject, config: dict[str, Any], *args: str) -> tuple[Project, Any]:
    """A project with such a model, and the estimate of its training."""
    files = {"recipe.yaml": RECIPE, "rows.jsonl": ROWS, "model/config.json": json.dumps(config)}
    made = project(files)
    lines = [json.loads(line) for line in made.run("plan", "--json", *args).out.splitlines()]
    return made, next(line["estimate"] for line in lines if line["step"] == "sft")


def test_a_plan_estimates_before_anything_is_built(project: MakeProject) -> None:
    made, found = planned(project, QWEN_CONFIG)
    assert found["parameters"] == QWEN_4B.parameters()
    assert found["trainable_parameters"] == LORA.parameters(QWEN_4B)
    assert 250 < found["longest_tokens"] < 350
    assert sum(found["memory"].values()) == pytest.approx(found["memory_bytes"], abs=10)
    assert "trains 33 million of 4.02 billion parameters" in made.run("plan").out
    assert not (made.folder / "build").exists()


def test_a_plan_warns_where_it_will_not_fit(project: MakeProject) -> None:
    made, found = planned(project, {**QWEN_CONFIG, "num_hidden_layers": 4000})
    assert found["warning"].startswith("it won't fit: it needs about ")
    assert "quantization: nf4" in found["fix"]
    assert "warning: it won't fit" in made.run("plan").out


class Hub(BaseHTTPRequestHandler):
    """A hub with one model's config.json."""

    paths: list[str] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(200 if self.path.startswith("/a/model/") else 404)
        content = json.dumps(QWEN_CONFIG).encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[str]:
    """Its address."""
    pytest.importorskip("huggingface_hub")
    Hub.paths.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("repo", "says"), [
    ("a/model", "trains 33 million of 4.02 billion parameters"),
    ("no/model", "memory and time unknown: the config.json of no/model can't be read from the hub"),
])  # fmt: skip
def test_of_a_hub_model_only_the_config_is_asked_for(
    project: MakeProject, hub: str, repo: str, says: str
) -> None:
    recipe = RECIPE.replace("local.model, path: model", f"hub.model, repo: {repo}")
    made = project({"recipe.yaml": recipe, "rows.jsonl": ROWS})
    made.env |= {"HF_ENDPOINT": hub, "HF_HOME": str(made.folder / "hf")}
    assert says in made.run("plan").out
    assert Hub.paths == [f"/{repo}/resolve/main/config.json"]


@pytest.mark.parametrize("use", ["data.dedup", "data.validate"])
def test_rows_that_a_step_only_leaves_out_are_measured_in_their_file(
    tmp_path: Path, use: str
) -> None:
    """Else memory is told for rows as long as `max_length`."""
    between = f"  some: {{use: {use}, rows: rows}}\n  split: {{use: data.split, rows: some}}"
    made = graph(tmp_path, RECIPE.replace("  split: {use: data.split, rows: rows}", between))
    found = estimates_of(made, Results(), ["sft"])["sft"]
    assert 250 < found.facts["longest_tokens"] < 350


def test_memory_is_a_limit_where_no_row_can_be_read(tmp_path: Path) -> None:
    between = "  new: {use: data.map, rows: rows, system: x}\n  split: {use: data.split, rows: new}"
    made = graph(tmp_path, RECIPE.replace("  split: {use: data.split, rows: rows}", between))
    found = estimates_of(made, Results(), ["sft"])["sft"]
    memory = found.lines[1]
    assert found.facts["is_at_most"]
    assert memory.startswith("memory: at most ")
    assert memory.endswith("; for rows of 1024 tokens, since none is built yet)")
    (tmp_path / "plain").mkdir()
    measured = estimates_of(graph(tmp_path / "plain", RECIPE), Results(), ["sft"])["sft"]
    assert measured.lines[1].startswith("memory: about ")


# -- time ----------------------------------------------------------------------------------------


class Remembered(Results):
    """Results with a past: trainings of 1,000 tokens, 2 of 5 epochs in 10 s, which loaded for 2."""

    def history(self, use: str) -> list[Past]:
        """One training of all weights, one of an adapter."""
        meta = {
            "parameters": QWEN_4B.parameters(), "tokens": 1000, "rows": 10, "epochs": 2.0
        }  # fmt: skip
        known: dict[str, Any] = {
            "use": use,
            "meta": meta,
            "runtime": {"training": {"tokens_per_second": 250}},
        }
        lora = {"epochs": 5.0, "lora.r": 8, "quantization": None}
        return [
            Past(key="full", settings={"epochs": 5.0}, seconds=100, **known),
            Past(key="lora", settings=lora, seconds=10, **known),
        ]

    def last(self, step: str) -> Past:
        """The adapter."""
        return self.history("trl.sft")[1]


def graph(folder: Path, recipe: str = RECIPE) -> Graph:
    """Of a recipe, in a new folder."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(QWEN_CONFIG))
    (folder / "rows.jsonl").write_text(ROWS)
    (folder / "recipe.yaml").write_text(recipe)
    return open_graph(folder / "recipe.yaml")


def test_time_comes_from_trainings_of_the_same_kind(tmp_path: Path) -> None:
    found = estimates_of(graph(tmp_path), Remembered(), ["sft"])["sft"]
    # 35 of 50 rows, 100 tokens each as the last time, 3 epochs, 250 tokens a second.
    assert found.facts["tokens_per_second"] == 250
    assert found.facts["seconds"] == pytest.approx(2 + 35 * 100 * 3 / 250, abs=1)
    assert found.lines[2].startswith("time: about 44 s (35 rows, 250 tokens/s")


def test_answers_of_the_model_take_as_long_as_in_earlier_builds(tmp_path: Path) -> None:
    class Sampled(Results):
        def history(self, use: str) -> list[Past]:
            """10 s a step."""
            settings = {"effective_batch_size": 32, "max_completion_length": 128}
            return [
                Past(key="a", use=use, seconds=200, meta={"steps": 20}, settings=given)
                for given in ({**settings, "num_generations": 8}, settings)
            ]

    recipe = RECIPE.replace("trl.sft", "trl.grpo, epochs: 2")
    rewarded = recipe.replace("validation: split.validation", "reward: {use: eval.exact}")
    made = graph(tmp_path, rewarded)
    unknown = estimates_of(made, Results(), ["sft"])["sft"]
    assert unknown.lines[0].startswith("memory and time unknown before the first build")
    found = estimates_of(made, Sampled(), ["sft"])["sft"]
    assert found.facts["seconds"] == 10 * 2 * 9  # 35 rows, 8 answers each, 32 a step


def test_the_memory_of_a_distillation_includes_the_teacher(tmp_path: Path) -> None:
    recipe = RECIPE.replace("data:", "  told: {use: prompt.model, model: base, system: Hi.}\ndata:")
    taught = recipe.replace("trl.sft", "trl.distill").replace(
        "validation: split.validation", "teacher: told, dtype: bf16"
    )
    found = estimates_of(graph(tmp_path, taught), Results(), ["sft"])["sft"]
    weights = 2 * QWEN_4B.parameters()
    assert found.facts["memory_bytes"] > 2 * weights
    taught_memory = memory(SMOLLM2, LORA, LOAD, teacher=QWEN_4B)
    assert taught_memory.weights - memory(SMOLLM2, LORA, LOAD).weights == weights
    assert found.lines[1].startswith("time unknown before the first build")


@pytest.mark.parametrize("model", [SMOLLM2, LLAMA_1B, QWEN_4B])
def test_the_sizes_of_well_known_models_follow_from_their_number(model: Architecture) -> None:
    assert of_size(model.parameters()) == model
