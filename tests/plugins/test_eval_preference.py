"""`eval.preference` on a tiny model: the likelihoods are the model's own."""

from pathlib import Path

import pytest
from tiny_llama import tiny_llama

from finery import DataError, Model
from finery.rows import Row
from finery.testing import TestJob, dataset
from finery_eval.steps.preference import Preference

ROWS: list[Row] = [
    {
        "prompt": [{"role": "user", "content": f"where is my card {i}"}],
        "chosen": [{"role": "assistant", "content": "late" * (i + 1)}],
        "rejected": [{"role": "assistant", "content": "wrong rate" * (3 - i)}],
    }
    for i in range(3)
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    model = tiny_llama(tmp_path_factory.mktemp("tiny"))
    model.ref = "base"
    return model


def test_likelihoods_are_those_of_the_model_row_by_row(tmp_path: Path, tiny: Model) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    metrics = Preference(models=[tiny], rows=dataset(tmp_path / "rows", ROWS)).run(
        TestJob(tmp_path / "job")
    )
    tokenizer = AutoTokenizer.from_pretrained(tiny.path)
    model = AutoModelForCausalLM.from_pretrained(tiny.path)
    for prediction, row in zip(metrics.predictions(), ROWS, strict=True):
        for side in ("chosen", "rejected"):
            asked = tokenizer.apply_chat_template(
                row["prompt"], add_generation_prompt=True, return_dict=False
            )
            ids = [*asked, *tokenizer(row[side][0]["content"] + "<|im_end|>")["input_ids"]]
            with torch.no_grad():
                logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            wanted = sum(float(logprobs[i - 1, ids[i]]) for i in range(len(asked), len(ids)))
            assert prediction[f"{side}_logprob"] == pytest.approx(wanted, rel=0.02)
            assert prediction[f"{side}_tokens"] == len(ids) - len(asked)


def test_scores_are_shares_of_rows_with_intervals(tmp_path: Path, tiny: Model) -> None:
    metrics = Preference(models=[tiny], rows=dataset(tmp_path / "rows", ROWS)).run(
        TestJob(tmp_path / "job")
    )
    report = metrics.report()
    right = [p["correct"] for p in metrics.predictions()]
    assert report["scores"]["base"]["accuracy"] == sum(right) / 3
    assert list(report["scores"]["base"]) == ["accuracy", "a_token", "margin"]
    assert set(report["intervals"]["base"]) == {"accuracy", "a_token"}


def test_rows_that_are_no_preferences_are_named(tmp_path: Path, tiny: Model) -> None:
    rows = dataset(tmp_path / "rows", [*ROWS, {"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match="no prompt, no chosen or no rejected") as error:
        Preference(models=[tiny], rows=rows).run(TestJob(tmp_path / "job"))
    assert list(rows)[-1]["id"] in str(error.value.details)
