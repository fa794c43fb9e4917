"""The loss of conversations: that of a plain loop over the same tokens and the same mask."""

from pathlib import Path
from typing import Any

import pytest
from tiny_llama import tiny_llama

from finery import Model
from finery.rows import Row, with_id
from finery.testing import TestJob, dataset
from finery_trl.rows.example import NO_LOSS, Example
from finery_trl.steps.sft import Sft
from finery_trl.train.run import _trainer, read
from finery_trl.train.schedule import Schedule

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ["late", "wrong", "card_arrival", "my card is late", "where"]


def conversation(number: int, turns: int = 5) -> Row:
    messages = []
    for i in range(turns):
        user = f"{'my card ' * (number % 3)}{i}"
        answer = " ".join(WORDS[(number + i + j) % 5] for j in range(1 + (number + i) % 3))
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return with_id({"messages": messages})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama(tmp_path_factory.mktemp("tiny"))


def plain_losses(model: Any, examples: list[Example]) -> list[Any]:
    """The sum of the losses of each conversation, with nothing of finery or TRL."""
    import torch
    from torch.nn.functional import cross_entropy

    losses = []
    for example in examples:
        ids, labels = torch.tensor([example.tokens]), torch.tensor([example.labels])
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses.append(cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="sum"))
    return losses


def gradients(model: Any, loss: Any) -> Any:
    import torch

    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_a_batch_has_the_loss_and_gradients_of_a_plain_loop(
    packing: bool, tiny: Model, tmp_path: Path
) -> None:
    rows = dataset(tmp_path / "rows", [conversation(i) for i in range(4)])
    step = Sft(
        model=tiny, rows=[rows], lora=None, packing=packing, dtype="fp32",
        effective_batch_size=4, per_device_train_batch_size=4,
    )  # fmt: skip
    job = TestJob(tmp_path / "job")
    tokens, read_rows = read(step, job)
    examples: list[Any] = read_rows.learned
    schedule = Schedule.of_rows(step, examples, job)
    trainer = _trainer(step, schedule, tokens, read_rows, job)
    (batch,) = list(trainer.get_train_dataloader())
    count = sum(e.loss_tokens for e in examples)
    assert (batch["labels"] != NO_LOSS).sum().item() == count
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=count)
    found = gradients(trainer.model, loss)
    plain = sum(plain_losses(trainer.model, examples)) / count
    expected = gradients(trainer.model, plain)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_a_training_on_conversations_learns_every_turn(
    packing: bool, tiny: Model, tmp_path: Path
) -> None:
    row = {
        "messages": [
            turn
            for number, answer in enumerate(["late", "wrong", "card_arrival"])
            for turn in (
                {"role": "user", "content": f"{number}"},
                {"role": "assistant", "content": answer},
            )
        ]
    }
    rows = dataset(tmp_path / "rows", [with_id(row)] * 8)
    settings: dict[str, Any] = {"epochs": 30, "effective_batch_size": 4, "learning_rate": 1e-2}
    step = Sft(model=tiny, rows=[rows], lora=None, packing=packing, **settings)
    model = step.run(TestJob(tmp_path / "job"))
    prompts = [row["messages"][: 2 * i + 1] for i in range(3)]
    answers = TestJob(seed=None).engine(model).generate(prompts, max_tokens=16)
    assert [a.text for a in answers] == ["late", "wrong", "card_arrival"]
    assert {a.finish_reason for a in answers} == {"stop"}
