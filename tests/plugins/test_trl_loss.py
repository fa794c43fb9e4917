"""The loss of conversations: that of a plain loop over the same tokens and the same mask."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_llama import tiny_llama, tiny_tokenizer

from finery import Model
from finery.rows import Row, with_id
from finery.step.inspect import FILE_MODULE
from finery.testing import TestJob, dataset
from finery_trl.rows.example import NO_LOSS, Example
from finery_trl.settings import Launch
from finery_trl.steps import Sft
from finery_trl.train.run import _trainer, read
from finery_trl.train.schedule import Schedule
from finery_trl.train.trainers import Comparing, SftTrainer

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


@pytest.mark.parametrize("fused", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_a_batch_has_the_loss_and_gradients_of_a_plain_loop(
    packing: bool, fused: bool, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SftTrainer, "_uses_fused_head", lambda self: fused)
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
    assert not trainer._metrics["train"]  # each of TRL's would let the CPU wait for a GPU
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("fused", [False, True], ids=["as on a CPU", "as on a GPU"])
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_rows_that_fill_the_batches_of_several_processes_change_nothing(
    packing: bool, fused: bool, tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SftTrainer, "_uses_fused_head", lambda self: fused)
    rows = dataset(tmp_path / "rows", [conversation(i) for i in range(3)])
    step = Sft(model=tiny, rows=[rows], lora=None, packing=packing, dtype="fp32")
    job = TestJob(tmp_path / "job")
    tokens, read_rows = read(step, job)
    examples: list[Any] = read_rows.learned
    trainer = _trainer(step, Schedule.of_rows(step, examples, job), tokens, read_rows, job)
    assert not trainer.fillers
    trainer._processes = 2
    fillers = trainer._fillers(examples, 4)
    assert len(fillers) == 5
    trainer.model.train()
    for real in (examples, []):
        batch = trainer.data_collator([e.columns() for e in [*real, *fillers]])
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=7)
        found = gradients(trainer.model, loss)
        assert len(found) == sum(p.numel() for p in trainer.model.parameters())
        plain: Any = sum(plain_losses(trainer.model, real)) / 7
        assert loss.item() == pytest.approx(plain.item() if real else 0, rel=1e-5)
        expected = gradients(trainer.model, plain) if real else 0 * found
        assert (found - expected).norm() <= 1e-4 * expected.norm()


def tiny_mixture(folder: Path) -> Model:
    """A model with experts, whose loss TRL computes on a CPU, too."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=2, num_experts_per_tok=1,
        max_position_embeddings=256, eos_token_id=0, bos_token_id=None, sliding_window=None,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return Model(folder, meta={"format": "transformers", "name": "mixture"})


@pytest.mark.slow
def test_the_validation_loss_is_the_same_with_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL multiplies a loss by the number of processes, which only undoes DDP's mean."""
    for name in [name for name in sys.modules if name.startswith(FILE_MODULE)]:
        monkeypatch.delitem(sys.modules, name)  # files of other tests that no process could load
    model = tiny_mixture(tmp_path / "model")
    rows = dataset(tmp_path / "rows", [conversation(i) for i in range(4)])
    losses = []
    for launch in (None, Launch(processes=2)):
        job = TestJob(tmp_path / str(launch is None))
        Sft(
            model=model, rows=[rows], validation=rows, lora=None, dtype="fp32", launch=launch,
            epochs=1, effective_batch_size=2, per_device_train_batch_size=1,
        ).run(job)  # fmt: skip
        losses.append([e["value"] for e in job.events if e.get("name") == "eval_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.01)  # the router's loss differs by batches


@pytest.mark.parametrize(
    ("rows", "values", "mean"), [(4, [1.0, 0.5], 0.75), (5, [1.0, 1.0, 0.0], 0.8)]
)
def test_metrics_of_preferences_are_means_over_rows(
    rows: int, values: list[float], mean: float
) -> None:
    """A value of TRL is the mean over a batch, and the last batch is smaller."""

    class Base:
        def log(self, logs: dict[str, float]) -> None: ...

    class Trainer(Comparing, Base):
        def __init__(self) -> None:
            self.args = SimpleNamespace(per_device_eval_batch_size=2)
            self.model = SimpleNamespace(training=False)
            self._held_out = [None] * rows  # type: ignore[list-item]
            self._metrics = {"eval": {"accuracy": values}}

    trainer = Trainer()
    trainer.log({})
    assert trainer._metrics["eval"]["accuracy"] == [pytest.approx(mean)]


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
