"""Importance matrices: what they are computed from, and that quantisation uses them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_gguf import CHATML, tiny_tokenizer, tiny_weights, tokens, write_tiny_gguf
from user_llama_cpp import write_programs

from finery import StepError
from finery.testing import dataset
from finery_gguf import importance as matrices
from finery_gguf.importance import Importance, calibration, importance_of
from finery_gguf.llama import CHUNK, Gguf
from finery_gguf.pace import Pace
from finery_gguf.quantise import FILE_TYPES, quantise, quantise_by_library
from finery_transformers.frozen.template import FrozenTemplate

ROWS: list[Any] = [
    {"prompt": f"Where is parcel {i}?", "completion": f"In van {i}."} for i in range(12)
]
FROZEN = FrozenTemplate(CHATML, tiny_tokenizer(), {}, tools=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "t.gguf")


def computed(path: Path, texts: list[list[int]], threads: int = 1) -> Importance:
    return importance_of(path, texts, pace=Pace(threads), progress=lambda *_: None)


def test_a_column_counts_as_the_mean_square_of_its_activations(tiny: Path) -> None:
    texts = [[5, 6, 7, 8], [9, 10, 11]]
    found = computed(tiny, texts)
    assert (found.rows, found.tokens) == (2, 7)
    # The first attention gets the embeddings, normalised: its norm has weights of 1.
    # All but the first token of a text count.
    embedded = tiny_weights()["token_embd.weight"][[t for text in texts for t in text[1:]]]
    normed = embedded / np.sqrt(np.mean(embedded**2, axis=1, keepdims=True) + 1e-5)
    for name in ("attn_q", "attn_k", "attn_v"):
        expected = np.mean(normed**2, axis=0)
        assert found.columns[f"blk.0.{name}.weight"] == pytest.approx(expected, rel=1e-4)
    assert len(found.columns) == 2 * 7
    assert not any(name.startswith(("token_embd", "output")) for name in found.columns)


def test_every_other_token_of_a_long_text_counts_once(tiny: Path) -> None:
    text = [5 + i % 200 for i in range(CHUNK + 100)]
    found = computed(tiny, [text])
    embedded = tiny_weights()["token_embd.weight"][text[1:]]
    normed = embedded / np.sqrt(np.mean(embedded**2, axis=1, keepdims=True) + 1e-5)
    assert found.columns["blk.0.attn_q.weight"] == pytest.approx(
        np.mean(normed**2, axis=0), rel=1e-4
    )
    # The last layer sees all of them too, not only those after which a token is drawn.
    assert not np.allclose(
        found.columns["blk.1.ffn_up.weight"],
        computed(tiny, [text[-2:]]).columns["blk.1.ffn_up.weight"],
    )


def test_the_matrix_is_the_same_for_any_number_of_threads(tiny: Path) -> None:
    texts = [[5, 6, 7, 8] * 20, [9, 10, 11]]
    assert computed(tiny, texts).facts() == computed(tiny, texts, threads=2).facts()


def test_experts_have_columns_of_their_own(tmp_path: Path) -> None:
    path = write_tiny_gguf(tmp_path / "experts.gguf", experts=4)
    found = computed(path, [[5, 6, 7, 8] * 8])
    gates, downs = (found.columns[f"blk.0.ffn_{name}_exps.weight"] for name in ("gate", "down"))
    assert (len(gates), len(downs)) == (4 * 64, 4 * 128)
    assert len({bytes(part) for part in np.split(gates, 4)}) == 4
    quantise(path, tmp_path / "q.gguf", "q4_k_m", importance=found)
    assert Gguf(tmp_path / "q.gguf").parameters > 0


def test_another_layout_of_tensors_is_noticed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = matrices._LAYOUT.replace("int32_t flags;", "int32_t flags; int64_t more[2];")
    monkeypatch.setattr(matrices, "_LAYOUT", moved)
    with pytest.raises(StepError, match="its tensors have another layout"):
        computed(tiny, [[5, 6]])


def test_files_are_rounded_with_the_matrix(tiny: Path, tmp_path: Path) -> None:
    matrix = computed(
        tiny, calibration(dataset(tmp_path, ROWS), FROZEN, tokens=512, context=0).texts
    )
    made = {}
    for name in FILE_TYPES:
        for importance in (None, matrix):
            path = tmp_path / f"{name}-{importance is not None}.gguf"
            quantise(tiny, path, name, importance=importance)
            made[name, importance is not None] = path.read_bytes()
    changed = {name for name in FILE_TYPES if made[name, True] != made[name, False]}
    assert {"q4_k_m", "q5_k_m", "iq4_xs"} <= changed
    assert not changed & {"bf16", "f16", "q8_0"}


def test_the_users_llama_quantize_gets_the_same_matrix(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINERY_LLAMA_CPP", str(write_programs(tmp_path / "llama.cpp")))
    importance = computed(tiny, [[5, 6, 7, 8]])
    quantise(tiny, tmp_path / "a.gguf", "q4_k_m", importance=importance)
    quantise_by_library(tiny, tmp_path / "b.gguf", "q4_k_m", importance=importance)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert [path.name for path in tmp_path.glob("tmp*")] == []


def test_rows_are_rendered_with_their_answers_as_in_training(tmp_path: Path) -> None:
    rows = dataset(tmp_path, [ROWS[3]])
    found = calibration(rows, FROZEN, tokens=512, context=0)
    text = "".join(tokens()[token] for token in found.texts[0])
    assert text == (
        "<|im_start|>userĊWhereĠisĠparcelĠ3?<|im_end|>Ċ<|im_start|>assistantĊInĠvanĠ3.<|im_end|>"
    )
