"""Batches read in parts and answered in rounds have the answers of those that are read whole."""

from typing import Any

import pytest
import torch
from random_model import model_of

from finery_transformers.answering import generation

START = list(range(10, 50))
OTHER = list(range(60, 100))
PROMPTS = [
    [*START, 5],
    [*OTHER, 5, 6, 7],
    [*START, 5, 9, 4, 3],
    [3, 4],
    [*OTHER, 8],
    [*START, 5],
]


def scores(model: Any, batch: generation.Batch) -> torch.Tensor:
    """Logits of the next tokens, [rows, new tokens, vocabulary]."""
    output = model.generate(
        **batch.arguments(), max_new_tokens=4, do_sample=False, eos_token_id=None,
        return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    return torch.stack(output.logits, dim=1)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma", "phi3", "olmo2"])
def test_the_logits_are_those_of_whole_prompts(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(kind)
    with torch.no_grad():
        batch = generation.read(model, PROMPTS, 0)
        assert batch.cache is not None
        monkeypatch.setattr(generation, "WORTH", 2.0)
        whole = generation.read(model, PROMPTS, 0)
        assert whole.cache is None
        torch.testing.assert_close(scores(model, batch), scores(model, whole))


def test_each_distinct_beginning_is_read_once() -> None:
    with torch.no_grad():
        batch = generation.read(model_of("llama"), PROMPTS, 0)
    assert batch.input_ids.shape == (6, 40 + 4)
    read = [row[mask.bool()].tolist() for row, mask in zip(*batch[:2], strict=True)]
    assert read == PROMPTS


def test_a_sliding_window_is_read_whole() -> None:
    model = model_of(
        "gemma3_text", sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    )
    with torch.no_grad():
        assert generation.read(model, PROMPTS, 0).cache is None


SLIDING = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in ("llama", "qwen3", "gemma", "phi3", "olmo2")},
    "a sliding window": ("gemma3_text", SLIDING),
}


def cut(answer: list[int], ends: set[int]) -> list[int]:
    length = next((i for i, token in enumerate(answer) if token in ends), len(answer))
    return answer[: length + 1]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shared", [True, False], ids=["beginnings shared", "read whole"])
def test_rounds_without_ended_rows_give_the_same_answers(
    name: str, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, settings = MODELS[name]
    model = model_of(kind, **settings)
    monkeypatch.setattr(generation, "WORTH", generation.WORTH if shared else 2.0)
    with torch.no_grad():
        given = generation.read(model, PROMPTS, 0).arguments()
        once = model.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=None)
        whole = [row[given["input_ids"].shape[1] :] for row in once.tolist()]
        ends = {whole[0][2], whole[2][4], whole[3][1]}
        sizes = []
        generate = model.generate

        def counted(**arguments: Any) -> Any:
            sizes.append(len(arguments["input_ids"]))
            return generate(**arguments)

        monkeypatch.setattr(model, "generate", counted)
        answers, _ = generation.answers(
            model,
            generation.read(model, PROMPTS, 0),
            ends=ends,
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=sorted(ends),
            pad_token_id=min(ends),
        )
    assert [cut(answer, ends) for answer in answers] == [cut(answer, ends) for answer in whole]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 1 or sizes[1] <= len(PROMPTS) / 2
    assert len(sizes) > 1 or all(ends & set(answer) for answer in whole)


def test_a_stop_string_ends_a_row_for_all_rounds() -> None:
    model = model_of("llama")
    with torch.no_grad():
        batch = generation.read(model, PROMPTS, 0)
        answers, _ = generation.answers(
            model,
            batch,
            ends=(1,),
            stopped=lambda answer: len(answer) >= 1 + answer[0] % 7,
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=[1],
            pad_token_id=1,
        )
    for answer in answers:
        assert 1 in answer or len(answer) >= 1 + answer[0] % 7
        assert 1 in answer or len(answer) < 20
