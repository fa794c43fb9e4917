"""`onnx.export`: graphs with the logits of the model, their answers without torch, their server."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import Project
from embedding import tiny_bert
from safetensors.torch import save_file
from transformers import AutoModel, DebertaV2Config, ModernBertConfig

from finery import Model, StepError
from finery.testing import dataset, run_step
from finery_encoder.network import INPUTS, Answers, Classifier, Field, load
from finery_encoder.steps import Classify
from finery_onnx.export import Export
from finery_serve.command import introduction
from finery_serve.guide import request_for
from finery_serve.servers import Serving
from finery_serve.standalone import StandaloneBundle, serve_bundle
from finery_transformers.frozen.template import ClientFacts

TEXTS = [
    " ".join(words)
    for words in product(("where is", "q :"), ("my", "card", "is my"), ("q", "card"))
]
RECIPE = """\
finery: 1
name: t
data:
  rows: {use: data.file, path: rows.jsonl}
models:
  linear: {use: baseline.linear, rows: rows}
export:
  onnx: {use: onnx.export, model: linear}
"""
SMALL: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A trained classifier with two fields and windows."""
    folder = tmp_path_factory.mktemp("classifier")
    base = Model(tiny_bert(folder / "bert"), meta={"format": "transformers"})
    answers = [f"topic: {t.split()[-1]}\nasks: {'where' in t}" for t in TEXTS]
    pairs = zip(TEXTS, answers, strict=True)
    rows = dataset(folder / "rows", [{"prompt": p, "completion": c} for p, c in pairs])
    step = Classify(model=base, rows=rows, validation=rows, max_length=8, windows=3)
    model: Model = run_step(step, folder / "out")
    return model


def test_the_graph_answers_as_the_model_and_int8_nearly(classifier: Model, tmp_path: Path) -> None:
    exported = run_step(Export(model=classifier), tmp_path / "none")
    assert {path.name for path in exported.path.iterdir()} == {
        "model.onnx", "tokenizer.json", "classifier.json",
    }  # fmt: skip
    assert exported.meta["format"] == "onnx"
    assert exported.meta["training_example"] == classifier.meta["training_example"]
    texts = [*TEXTS, "where is my card q " * 9]
    trained, graph = Answers(classifier.path), Answers(exported.path)
    for one, other in zip(trained.answered(texts), graph.answered(texts), strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], abs=1e-5)
    rounded = run_step(Export(model=classifier, quantization="int8"), tmp_path / "int8")
    logits = [np.array([*answers.logits(texts)]) for answers in (graph, Answers(rounded.path))]
    assert 0 < np.abs(logits[0] - logits[1]).max() < 0.1 * np.abs(logits[0]).max()


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_bytes_are_the_same_again(classifier: Model, tmp_path: Path, quantization: Any) -> None:
    files = []
    for name in ("first", "second"):
        model = run_step(Export(model=classifier, quantization=quantization), tmp_path / name)
        files.append({path.name: path.read_bytes() for path in model.path.iterdir()})
    assert files[0] == files[1]
    assert str(tmp_path).encode() not in files[0]["model.onnx"]


@pytest.mark.parametrize(
    "config",
    [
        ModernBertConfig(**SMALL, local_attention=8),
        pytest.param(
            DebertaV2Config(**SMALL, relative_attention=True, pos_att_type=["c2p", "p2c"]),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["modernbert", "deberta"],
)
def test_graphs_take_padded_windows_of_any_number_and_length(
    config: Any, classifier: Model, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    run_step(Export(model=classifier), tmp_path / "bert")  # its tokenizer
    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer = load(classifier.path)[2]
    tokenizer.save_pretrained(folder)
    head = {"weight": torch.randn(3, 16), "bias": torch.randn(3)}
    save_file(head, folder / "head.safetensors")
    Classifier("whole", [Field("answer", ["a", "b", "c"])], "cls", True, 60).write(folder)
    meta = {"format": "encoder", "training_example": classifier.meta["training_example"]}
    exported = run_step(Export(model=Model(folder, meta=meta)), tmp_path / "out")
    network = load(folder)[1]
    session = onnxruntime.InferenceSession(exported.path / "model.onnx")
    for shape in ((1, 3), (3, 9), (2, 60)):
        ids = torch.randint(5, 99, shape)
        mask = torch.ones_like(ids)
        mask[1:, 2:] = 0
        with torch.inference_mode():
            expected = network(ids, mask).numpy()
        (logits,) = session.run(None, dict(zip(INPUTS, (ids.numpy(), mask.numpy()), strict=True)))
        assert logits == pytest.approx(expected, abs=1e-4)


def test_a_graph_with_other_logits_is_an_error(
    classifier: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.onnx import export as written

    def wrong(network: Any, *args: Any, **settings: Any) -> None:
        with torch.no_grad():
            network.head.bias += 0.1
        written(network, *args, **settings)

    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(StepError, match=r"other logits than the model: they differ by 0\.1"):
        run_step(Export(model=classifier), tmp_path / "out")


def test_the_bundle_needs_only_its_runtime_and_gives_probabilities(
    classifier: Model, tmp_path: Path
) -> None:
    pytest.importorskip("openai")
    exported = run_step(Export(model=classifier), tmp_path / "onnx")
    step = StandaloneBundle(model=exported, name="topics", abstain_below=1.0)
    bundle = run_step(step, tmp_path / "bundle")
    required = (bundle.path / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in required] == ["onnxruntime", "numpy", "tokenizers"]
    request = json.loads((bundle.path / "request.json").read_text())
    ((answer, probability),) = Answers(classifier.path).answered([TEXTS[0]])
    assert request["messages"][0]["content"] == TEXTS[0]
    code = (
        "import json, sys\n"
        "sys.modules.update(dict.fromkeys(('finery', 'torch', 'transformers', 'onnx')))\n"
        "import server\n"
        "choice = server.Server('127.0.0.1', 0, '', '').choice(sys.argv[1], {})\n"
        "print(json.dumps(choice))"
    )
    ran = subprocess.run(
        [sys.executable, "-B", "-c", code, TEXTS[0]], cwd=bundle.path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    choice = json.loads(ran.stdout or ran.stderr)
    assert choice["message"]["content"] == answer
    assert choice["probability"] == pytest.approx(probability, abs=1e-5)
    assert choice["abstained"] is True
    serving = Serving(name="topics", log=tmp_path / "log")
    with serve_bundle(bundle, serving) as running:
        request, file = request_for("topics", ClientFacts()), bundle.path / "request.json"
        told = introduction(running, serving, request, file, ClientFacts())
        assert "answers  with `abstained: true` below a probability of 1\n" in told
        ran = subprocess.run(
            [sys.executable, str(bundle.path / "client.py")], check=False, capture_output=True,
            text=True, env={**os.environ, "BASE_URL": f"{running.address}/v1"},
        )  # fmt: skip
    assert ran.stdout.strip() == answer, ran.stderr
    sure = f"probability {choice['probability']:.3f}"
    assert ran.stderr.splitlines() == [sure, "abstained: leave it to a person"]


def test_other_models_are_refused_before_a_build(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.write({"rows.jsonl": "", "recipe.yaml": RECIPE})
    for command in ("check", "plan"):
        ran = project.here(command)
        assert ran.code == 2
        assert ran.err.startswith("recipe.yaml:8:35")
        words = " ".join(ran.err.split())
        assert "expects a classifier on an encoder, but 'linear' has the format 'base" in words
        assert "name a step of encoder.classify" in words
