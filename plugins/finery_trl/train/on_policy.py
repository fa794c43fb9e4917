"""Reproducible versions of TRL's trainers whose model writes the answers that it learns from.

Imports torch, so import it inside a function.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from finery_trl.rows.tokens import Prompt
from finery_trl.train.trainers import Reproducible

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens


class PromptOrder:
    """Random indices of prompts for each epoch, repeated as TRL's generation needs them.

    It replaces TRL's `RepeatSampler`, whose order is that of its only epoch after an interruption,
    and which drops prompts that don't fill a batch. Here, the last optimizer step of an epoch is
    filled with the first prompts of the epoch. accelerate calls `set_epoch`.

    prompts: their number. together: prompts that are answered at once. answers: of each prompt.
    uses: how often TRL takes the prompts of a generation from the data loader.
    """

    def __init__(self, prompts: int, together: int, answers: int, uses: int, seed: int) -> None:
        self._prompts = prompts
        self._together = together
        self._answers = answers
        self._uses = uses
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        batches = -(-self._prompts // self._together)
        return batches * self._together * self._answers * self._uses

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        count = self._prompts
        order = random.Random(f"{self._seed} {self._epoch}").sample(range(count), count)
        for start in range(0, count, self._together):
            places = range(start, start + self._together)
            batch = [order[place % count] for place in places]
            for _ in range(self._uses):
                yield from (prompt for prompt in batch for _ in range(self._answers))


class OnPolicyTrainer(Reproducible):
    """Mixin for TRL's trainers that sample answers from the model in training.

    The prompts are the tokens used at inference, and answers end where they end at inference. What
    is sampled depends only on the seed and the optimizer step, so an interrupted training samples
    the same answers. Checkpoints are only saved where new answers follow (`Schedule.shared`).
    """

    def __init__(
        self,
        examples: Sequence[Prompt],
        held_out: None,
        *rest: Any,
        tokens: "Tokens",
        model: Any,
        **named: Any,
    ) -> None:
        self._prompts = examples
        generation = model.generation_config
        ends = generation.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        generation.eos_token_id = sorted(tokens.ends | {e for e in ends if e is not None})
        super().__init__(examples, held_out, *rest, model=model, **named)

    def prove_rows(self, tokens: "Tokens") -> None:
        """Nothing to verify: batches have no loss before the model answers."""

    def training_step(self, model: Any, inputs: Any, *rest: Any) -> Any:
        """Run a batch forward and backward, and count the tokens of prompts and new answers."""
        trainer: Any = self
        before = trainer.state.num_input_tokens_seen
        above: Any = super(Reproducible, trainer)
        loss = above.training_step(model, inputs, *rest)
        self._callback.tokens += trainer.state.num_input_tokens_seen - before
        return loss

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        trainer: Any = self
        with seeded(f"{trainer.args.seed} {trainer.state.global_step}"):
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]

    def _generate_single_turn(self, *rest: Any, **named: Any) -> Any:
        """Sample answers; autocast matches the dtypes of adapter and base, as in the loss."""
        above: Any = super()
        with self.accelerator.autocast():  # type: ignore[attr-defined]
            return above._generate_single_turn(*rest, **named)

    def _tokenize_prompts(self, prompts: Sequence[str]) -> Any:
        """The tokens of prompts that `Prompt.columns` names, without images and other fields."""
        return [self._prompts[int(number)].tokens for number in prompts], None, {}

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        args: Any = self.args  # type: ignore[attr-defined]
        step = args.per_device_train_batch_size * args.gradient_accumulation_steps
        answers = getattr(args, "num_generations", 1)
        uses = args.gradient_accumulation_steps * getattr(args, "num_iterations", 1)
        return PromptOrder(len(self._prompts), step // answers, answers, uses, args.seed)


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Draw the random numbers that belong to a name, then restore the state of torch."""
    with torch.random.fork_rng():
        torch.manual_seed(random.Random(name).getrandbits(63))
        yield
