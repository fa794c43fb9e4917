"""Verifies that the batches of a training match its rows, before the model sees them.

Imports torch inside functions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finery import StepError

if TYPE_CHECKING:
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Tokens


def prove_batches(trainer: Any, examples: "Sequence[Proven]", tokens: "Tokens") -> None:
    """Check all batches of the first epoch as the model will see them.

    The loss of each row must be on its own tokens, begin after the first one and end with an end of
    turn, and the batches of all processes must contain exactly the loss tokens of all rows, except
    where accelerate repeats rows. Raises `StepError` otherwise.
    """
    import torch

    loss_tokens = sequences = 0
    with torch.random.fork_rng():  # a data loader uses the random state of torch
        for batch in trainer.get_train_dataloader():
            for ids, learned in trainer.learned(batch):
                if not learned and trainer.fillers:
                    continue
                if not learned or learned[0] == 0 or ids[learned[-1]] not in tokens.ends:
                    raise StepError(
                        "a batch doesn't match its rows: the collator of this version of TRL isn't "
                        "supported",
                        details=[repr(tokens.tokenizer.decode(ids))],
                        fix="install a version of trl that finery supports",
                    )
                loss_tokens, sequences = loss_tokens + len(learned), sequences + 1
    if trainer.accelerator.num_processes > 1:
        if not trainer.fills:
            return
        share = torch.tensor([sequences, loss_tokens], device=trainer.accelerator.device)
        sequences, loss_tokens = trainer.accelerator.reduce(share, "sum").tolist()
    expected = (sum(e.sequences for e in examples), sum(e.loss_tokens for e in examples))
    if (sequences, loss_tokens) != expected:
        raise StepError(
            f"an epoch has {sequences} sequences with {loss_tokens} loss tokens, not "
            f"{expected[0]} with {expected[1]}",
            fix="install a version of trl that finery supports",
        )


def prove_apart(trainer: Any, examples: "Sequence[Proven]") -> None:
    """Run a row after two different neighbors: its logits must not differ.

    Only positions separate packed rows, and the attention has to respect them. The model runs under
    autocast as in the training, since FlashAttention takes no fp32, in which trained weights are.
    Raises `StepError` if it doesn't.
    """
    import torch

    columns = sorted((e.columns()["input_ids"] for e in examples), key=len)
    row, neighbour = columns[0], columns[-1]
    model = trainer.model
    logits = []
    for before in (neighbour, neighbour[::-1]):
        ids = torch.tensor([[*before, *row]], device=model.device)
        places = torch.tensor([[*range(len(before)), *range(len(row))]], device=model.device)
        with torch.no_grad(), trainer.accelerator.autocast():
            output = model(input_ids=ids, position_ids=places, use_cache=False)
        logits.append(output.logits[0, len(before) :].float())
    # Bit-equal with most kernels; a contaminated row differs by far more than rounding.
    if (logits[0] - logits[1]).abs().max() > 0.01 * logits[0].abs().max():
        raise StepError(
            "packing would let rows see their neighbors: this model's attention doesn't separate "
            "the rows of a sequence",
            fix="packing: false",
        )
