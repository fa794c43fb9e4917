"""Fine-tuning a real model, SmolLM2-135M-Instruct, on a few rows."""

from pathlib import Path

import pytest

from finery import Model
from finery.rows import Row
from finery.testing import TestJob, dataset
from finery_trl.steps import Sft

LABELS = {
    "Where is my new card?": "card_arrival",
    "My card hasn't come in the post.": "card_arrival",
    "How long until the card gets here?": "card_arrival",
    "I was charged twice for one purchase.": "charged_twice",
    "The same payment shows up two times.": "charged_twice",
    "You took the money two times!": "charged_twice",
    "I forgot my passcode.": "passcode_forgotten",
    "How do I reset the passcode?": "passcode_forgotten",
}


def row(question: str) -> Row:
    return {
        "prompt": [
            {"role": "system", "content": "Name the intent."},
            {"role": "user", "content": question},
        ],
        "completion": [{"role": "assistant", "content": LABELS[question]}],
    }


@pytest.mark.real
@pytest.mark.quick
def test_a_real_model_learns_labels_it_never_says_by_itself(
    tmp_path: Path, smollm2_folder: Path
) -> None:
    rows = [row(question) for question in LABELS]
    step = Sft(
        model=Model(smollm2_folder, meta={"format": "transformers"}),
        rows=[dataset(tmp_path / "rows", rows)],
        epochs=6,
        effective_batch_size=4,
        learning_rate=2e-3,
    )
    trained = step.run(TestJob(tmp_path / "job"))
    prompts = [r["prompt"] for r in rows]
    answers = TestJob(seed=None).engine(trained).generate(prompts, max_tokens=12)
    assert [a.text for a in answers] == list(LABELS.values())
    assert {a.finish_reason for a in answers} == {"stop"}
