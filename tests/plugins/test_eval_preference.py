"""`eval.preference` on a tiny model: the likelihoods are the model's own."""

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_llama

from finery import DataError, Model, RequirementError
from finery.rows import Row
from finery.testing import TestJob, dataset
from finery_eval.steps.preference import Preference
from finery_transformers import scoring

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


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "qwen3_moe"])
def test_a_few_positions_at_a_time_give_the_same_likelihoods(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    """Also where a model caps or scales the logits."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "logits_scaling": 3.0,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "pad_token_id": 0,
        "eos_token_id": 1, "bos_token_id": 2, "final_logit_softcapping": 2.0,
    }  # fmt: skip
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    model = auto.from_config(AutoConfig.for_model(family, **sizes)).eval()
    model.get_output_embeddings().weight.data *= 20
    ids = torch.randint(3, 64, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, 4:-1]
        expected = logits.log_softmax(-1).gather(-1, ids[:, 5:, None])[..., 0]
        computed = []
        model.get_output_embeddings().register_forward_hook(
            lambda module, args, output: computed.append(output.numel())
        )
        monkeypatch.setattr(scoring, "LOGITS", 2 * 64 * 3)
        actual = scoring._log_probs(model, ids, mask, 4)
    assert torch.allclose(actual[0], expected[0], atol=1e-5)
    assert torch.allclose(actual[1, :4], expected[1, :4], atol=1e-5)
    assert max(computed) == scoring.LOGITS
    assert "forward" not in vars(model.base_model)


def test_scores_are_shares_of_rows_with_intervals(tmp_path: Path, tiny: Model) -> None:
    metrics = Preference(models=[tiny], rows=dataset(tmp_path / "rows", ROWS)).run(
        TestJob(tmp_path / "job")
    )
    report = metrics.report().data()
    right = [p["correct"] for p in metrics.predictions()]
    assert report["scores"]["base"]["accuracy"] == sum(right) / 3
    assert list(report["scores"]["base"]) == ["accuracy", "a_token", "margin"]
    margins = [p["chosen_logprob"] - p["rejected_logprob"] for p in metrics.predictions()]
    assert report["scores"]["base"]["margin"] == pytest.approx(sum(margins) / 3)
    low, high = report["intervals"]["base"]["margin"]
    assert min(margins) <= low < report["scores"]["base"]["margin"] < high <= max(margins)


def test_margins_are_compared_and_required(tmp_path: Path, tiny: Model) -> None:
    other = tiny_llama(tmp_path / "other", width=64)
    other.ref = "dpo"
    rows = dataset(tmp_path / "rows", ROWS)
    metrics = Preference(models=[tiny, other], rows=rows).run(TestJob(tmp_path / "job"))
    report = metrics.report().data()
    (pair,) = report["details"]["pairs"]
    assert list(pair["metrics"]) == ["accuracy", "a_token", "margin"]
    base, dpo = (report["scores"][name]["margin"] for name in ("base", "dpo"))
    assert pair["metrics"]["margin"]["difference"] == pytest.approx(dpo - base)
    require = {"dpo.margin": f"< base.margin - {abs(base - dpo) + 0.5:.3f}"}
    step = Preference(models=[tiny, other], rows=rows, require=require)
    with pytest.raises(RequirementError) as caught:
        step.verify({"": metrics})
    assert caught.value.details[0].startswith(f"dpo.margin is {dpo:.4g} (95 % CI ")


def test_pairs_with_one_prompt_count_as_one(tmp_path: Path, tiny: Model) -> None:
    rows = [{**row, "parents": ["one prompt"]} for row in ROWS]
    metrics = Preference(models=[tiny], rows=dataset(tmp_path / "rows", rows)).run(
        TestJob(tmp_path / "job")
    )
    report = metrics.report().data()
    assert report["details"]["groups"] == 1
    low, high = report["intervals"]["base"]["accuracy"]
    assert high - low > 0.7
    assert set(report["intervals"]["base"]) == {"accuracy", "a_token"}  # one margin
    assert {line["group"] for line in metrics.predictions()} == {
        min("one prompt", *(row["id"] for row in dataset(tmp_path / "rows", rows)))
    }


def test_rows_that_are_no_preferences_are_named(tmp_path: Path, tiny: Model) -> None:
    rows = dataset(tmp_path / "rows", [*ROWS, {"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError, match="no prompt, no chosen or no rejected") as error:
        Preference(models=[tiny], rows=rows).run(TestJob(tmp_path / "job"))
    assert list(rows)[-1]["id"] in str(error.value.details)
