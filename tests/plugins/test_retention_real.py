"""`eval.retention` on SmolLM2-135M-Instruct: trained far too hot, and untouched."""

from pathlib import Path

import pytest

from finery import Model
from finery.testing import TestJob, dataset
from finery_retention.retention import Retention
from finery_transformers.loading import load_merged
from finery_trl.steps import Sft

LABELS = {
    "Where is my new card?": "card_arrival",
    "I was charged twice for one purchase.": "charged_twice",
    "I forgot my passcode.": "passcode_forgotten",
    "How do I reset the passcode?": "passcode_forgotten",
}


@pytest.mark.real
def test_a_model_trained_far_too_hot_is_caught_and_an_untouched_one_isnt(
    tmp_path: Path, smollm2_gguf: Path
) -> None:
    gguf = Model(smollm2_gguf.parent, meta={"format": "gguf", "file": smollm2_gguf.name})
    model, tokenizer = load_merged(gguf)  # once: reading a GGUF takes longer than a folder
    model.save_pretrained(str(tmp_path / "base"))
    tokenizer.save_pretrained(str(tmp_path / "base"))

    def untouched(name: str) -> Model:
        made = Model(tmp_path / "base", meta={"format": "transformers", "name": "SmolLM2"})
        made.ref = name
        return made

    rows = [{"prompt": question, "completion": label} for question, label in LABELS.items()]
    step = Sft(
        model=untouched("base"), rows=[dataset(tmp_path / "rows", rows)], epochs=4,
        effective_batch_size=4, learning_rate=5e-2, warmup_steps=0,
    )  # fmt: skip
    hot = step.run(TestJob(tmp_path / "train"))
    hot.ref = "hot"
    models = [untouched("base"), untouched("again"), hot]
    metrics = Retention(models=models, tasks=[], text_bytes=5000).run(TestJob(tmp_path / "job"))
    report = metrics.report().data()
    (remark,) = report["details"]["remarks"]
    assert remark["text"].startswith("hot forgot: its perplexity on general text is")
    scores = report["scores"]
    assert scores["base"] == scores["again"]
    assert 5 < scores["base"]["perplexity"] < 100  # of a small model on English of 1889
    assert scores["hot"]["bits_per_byte"] > scores["base"]["bits_per_byte"] + 0.2
