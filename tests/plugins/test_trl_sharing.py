"""A batch without what its rows repeat has the loss and the gradients of the padded batch."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from finery_trl.rows.example import NO_LOSS
from finery_trl.train import sharing

SHARED, SIZES = 6, [(3, 2), (9, 5), (4, 3)]
MORE = sharing.WORTH + 4
"""Tokens that some rows have in common after those of all."""


def batch() -> dict[str, torch.Tensor]:
    """Rows that begin with the same 6 tokens, then a question and an answer of these sizes."""
    torch.manual_seed(1)
    start, longest = torch.randint(3, 99, (SHARED,)), SHARED + max(q + a for q, a in SIZES)
    ids, labels = torch.zeros(3, longest, dtype=torch.long), torch.full((3, longest), NO_LOSS)
    mask = torch.zeros(3, longest, dtype=torch.long)
    for row, (question, answer) in enumerate(SIZES):
        end = SHARED + question + answer
        ids[row, :end] = torch.cat([start, torch.randint(3, 99, (question + answer,))])
        ids[row, SHARED] = 3 + row  # where the questions begin to differ
        labels[row, end - answer : end] = ids[row, end - answer : end]
        mask[row, :end] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def family() -> dict[str, torch.Tensor]:
    """Rows that begin like different earlier rows, the last one like a whole row."""
    torch.manual_seed(2)
    start, one, other = (torch.randint(3, 99, (n,)) for n in (SHARED, MORE, MORE))
    ends = [torch.tensor([3 + row, 50, 60 + row]) for row in range(5)]
    beginnings = [
        torch.cat([start, one]),
        torch.cat([start, other]),
        torch.cat([start, one]),
        torch.cat([start, other]),
        torch.cat([start, other, ends[1]]),  # goes on from the second row
    ]
    rows = [torch.cat(parts) for parts in zip(beginnings, ends, strict=True)]
    longest = max(map(len, rows))
    ids, labels = torch.zeros(5, longest, dtype=torch.long), torch.full((5, longest), NO_LOSS)
    mask = torch.zeros(5, longest, dtype=torch.long)
    for at, row in enumerate(rows):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
        labels[at, len(row) - 2 : len(row)] = row[-2:]
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def model_of(kind: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, pad_token_id=0,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    make: Any = AutoModelForCausalLM.from_config
    return make(config)


def gradients(model: Any, loss: Any) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("rows", [batch(), family()], ids=["batch", "family"])
@pytest.mark.parametrize(
    ("short", "dtype"),
    [(2**18, torch.float32), (0, torch.float32), (0, torch.float64)],
    ids=["products", "fused", "grouped"],
)
@pytest.mark.parametrize("kind", sorted(sharing.PLAIN))
def test_loss_and_gradients_are_those_of_the_padded_batch(
    kind: str,
    short: int,
    dtype: torch.dtype,
    rows: dict[str, torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "SHORT", short)
    model = model_of(kind).to(dtype)
    asked = {k: v for k, v in rows.items() if k != "labels"}
    logits = model(**asked, use_cache=False).logits[:, :-1]
    targets = rows["labels"][:, 1:].flatten()
    whole = cross_entropy(logits.flatten(0, 1), targets, ignore_index=NO_LOSS, reduction="sum")
    expected = gradients(model, whole)
    assert sharing.fits(model, rows["input_ids"].shape[1])
    sharing.install(model)
    layout = sharing.Layout.of(rows["input_ids"], rows["attention_mask"], rows["labels"])
    loss = cross_entropy(sharing.logits_of(model, layout)[0], layout.targets, reduction="sum")
    found = gradients(model, loss)
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_what_rows_begin_with_stands_once_and_padding_never() -> None:
    rows = batch()
    layout = sharing.Layout.of(rows["input_ids"], rows["attention_mask"], rows["labels"])
    assert layout.tokens.shape == (1, SHARED + sum(q + a for q, a in SIZES))
    assert layout.targets.tolist() == [t for t in rows["labels"].flatten().tolist() if t >= 0]


def test_rows_share_what_each_begins_with_as_an_earlier_one() -> None:
    rows = family()
    layout = sharing.Layout.of(rows["input_ids"], rows["attention_mask"], rows["labels"])
    # The last row takes its first token after `other` from the second row, and then the answer,
    # which has loss there and none here.
    ends = [3, 3, 3, 3, 3]
    assert layout.tokens.shape == (1, SHARED + 2 * MORE + sum(ends))
    assert len(layout.targets) == 10


def test_a_token_with_loss_in_both_rows_counts_twice() -> None:
    ids = torch.arange(40).repeat(2, 1)
    ids[1, -1] = 50
    labels = torch.full_like(ids, NO_LOSS)
    labels[:, 30:] = ids[:, 30:]
    layout = sharing.Layout.of(ids, torch.ones_like(ids), labels)
    assert len(layout.targets) == 20
    assert layout.tokens.shape == (1, 40 + 11)


def test_rows_that_are_one_prompt_share_all_but_its_last_token() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    labels = torch.tensor([[NO_LOSS, NO_LOSS, NO_LOSS, 8], [NO_LOSS, NO_LOSS, NO_LOSS, 9]])
    layout = sharing.Layout.of(ids, torch.ones_like(ids), labels)
    assert layout.tokens.tolist() == [[5, 6, 7, 8, 7, 9]]
    assert layout.targets.tolist() == [8, 9]
