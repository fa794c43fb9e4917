"""Reproducible versions of TRL's trainers whose model writes the answers that it learns from.

GRPO and RLOO reward the answers, distillation compares them with a teacher. Imports torch, so
import it inside a function.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_trainer import RLOOTrainer

from finery import Completion, Job, Request
from finery.rows import Turns
from finery_transformers.answering.answers import TokenReader
from finery_trl.rows.example import NO_LOSS
from finery_trl.rows.tokens import Prompt
from finery_trl.train import sharing
from finery_trl.train.teacher import Teacher
from finery_trl.train.trainers import Reproducible

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens
    from finery_trl.train.rewards import Rewards

SAMPLES = 10
"""Answers that are kept at each validation."""
TILE = 1024
"""Answer tokens whose logits are computed at once, to compare the likeliest tokens."""


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
        *arguments: Any,
        tokens: "Tokens",
        model: Any,
        **named: Any,
    ) -> None:
        self._prompts = examples
        generation = model.generation_config
        ends = generation.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        generation.eos_token_id = sorted(tokens.ends | {e for e in ends if e is not None})
        super().__init__(examples, held_out, *arguments, model=model, **named)

    def prove_rows(self, tokens: "Tokens") -> None:
        """Nothing to verify: batches have no loss before the model answers."""

    def training_step(self, model: Any, inputs: Any, *arguments: Any) -> Any:
        """Run a batch forward and backward, and count the tokens of prompts and new answers."""
        trainer: Any = self
        before = trainer.state.num_input_tokens_seen
        above: Any = super(Reproducible, trainer)
        loss = above.training_step(model, inputs, *arguments)
        self._callback.tokens += trainer.state.num_input_tokens_seen - before
        return loss

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        trainer: Any = self
        with seeded(f"{trainer.args.seed} {trainer.state.global_step}"):
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]

    def _generate_single_turn(self, *arguments: Any, **named: Any) -> Any:
        """Sample answers; autocast matches the dtypes of adapter and base, as in the loss."""
        above: Any = super()
        with self.accelerator.autocast():  # type: ignore[attr-defined]
            return above._generate_single_turn(*arguments, **named)

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


class Rewarded(OnPolicyTrainer):
    """Mixin that reads answers as engines do, and rewards them.

    rewards: what rewards an answer to a row.
    """

    reward_func_names: list[str]

    def __init__(
        self, *arguments: Any, tokens: "Tokens", rewards: "Rewards", job: Job, **named: Any
    ) -> None:
        self._rewards = rewards
        self._job = job
        self._reader = TokenReader(tokens.template)
        self._samples: list[dict[str, Any]] = []
        functions = [rewards.of] * len(rewards.weights)
        super().__init__(*arguments, tokens=tokens, reward_funcs=functions, **named)
        self.reward_func_names = list(rewards.weights)

    def prove_rows(self, tokens: "Tokens") -> None:
        """Verify the rewards with expected answers and with those of the model."""
        self._rewards.try_out(self, tokens, [prompt.row for prompt in self._prompts], self._job)

    def _calculate_rewards(
        self, inputs: Any, prompts: Sequence[str], completions: Any, completion_ids: Any
    ) -> torch.Tensor:
        """[answers, rewards], NaN where a reward doesn't apply."""
        asked_prompts = [self._prompts[int(number)] for number in prompts]
        pairs = zip(asked_prompts, completion_ids, strict=True)
        answers = [self._answer(prompt, ids) for prompt, ids in pairs]
        values = self._rewards.of([prompt.row for prompt in asked_prompts], answers)
        groups = self.args.num_generations  # type: ignore[attr-defined]
        self._samples = [
            {
                "row": asked_prompts[i].row_id,
                "prompt": str(Turns.of(asked_prompts[i].row).prompt[-1].get("content")),
                "answer": answers[i].text,
                "rewards": {name: values_of_reward[i] for name, values_of_reward in values.items()},
            }
            for i in spread(len(answers), groups)
        ]
        columns = [[float("nan") if v is None else v for v in column] for column in values.values()]
        return torch.tensor(columns, dtype=torch.float32).T

    def _answer(self, prompt: Prompt, ids: Sequence[int]) -> Completion:
        turns, tools = Turns.of(prompt.row).prompt, prompt.row.get("tools")
        ends: Any = self.eos_token_ids  # type: ignore[attr-defined]
        request = Request(messages=turns, tools=tools)
        return self._reader.completion(ids, ends, prompt=prompt.tokens, request=request, stop=())

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """Add samples to the history where the training validates."""
        above: Any = super()
        above.log(logs, *arguments)
        state: Any = self.state  # type: ignore[attr-defined]
        if "loss" in logs and self._callback.is_due(state):
            state.log_history[-1]["samples"] = self._samples


def spread(answers: int, groups: int) -> list[int]:
    """Up to `SAMPLES` places of answers, of as many groups as possible. groups: their size."""
    places = [g + k for k in range(groups) for g in range(0, answers, groups)]
    return sorted(places[:SAMPLES])


class GrpoTrainer(Rewarded, GRPOTrainer):
    """GRPOTrainer with rewards of evaluators."""


class RlooTrainer(Rewarded, RLOOTrainer):
    """RLOOTrainer with rewards of evaluators."""


class DistillTrainer(OnPolicyTrainer, DistillationTrainer):
    """DistillationTrainer whose teacher may get other prompts than the model.

    TRL runs both models on the same sequences, a prompt and an answer, and compares their last
    hidden states at the answer's tokens. Here, the teacher runs on its own prompt before the same
    answer, and returns its states at the same tokens. The loss is TRL's. On a CPU, the teacher
    processes what its prompts begin with only once (`sharing`).
    """

    def __init__(
        self, examples: Sequence[Prompt], *rest: Any, teacher: Teacher, model: Any, **named: Any
    ) -> None:
        self._teacher_prompts = teacher.prompts([prompt.row for prompt in examples])
        loaded = teacher.load()
        teacher.check_size(model, loaded)
        super().__init__(examples, *rest, model=model, teacher_model=loaded, **named)
        args: Any = self.args
        longest = max(map(len, self._teacher_prompts)) + args.max_completion_length
        self._shares = args.device.type != "cuda" and sharing.fits(loaded, longest)
        if self._shares:
            sharing.install(loaded)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """Add the number of each prompt, by which the teacher's is found."""
        batch = super()._generate_and_score_completions(inputs)
        batch["numbers"] = torch.tensor([int(row["prompt"]) for row in inputs])
        return batch

    def _compute_loss(self, unwrapped_student: Any, inputs: Any, *arguments: Any) -> Any:
        """TRL's loss; also the share of answer tokens for which both models expect the same one."""
        self._batch, self._top = inputs, list[torch.Tensor]()
        above: Any = super()
        with self.accelerator.autocast():  # TRL calls the models' decoders, which have none
            result = above._compute_loss(unwrapped_student, inputs, *arguments)
        student, teacher = self._top
        self._metrics["train"]["agreement"].append((student == teacher).float().mean().item())
        return result

    def _get_last_hidden_state(self, unwrapped_model: Any, *arguments: Any, **named: Any) -> Any:
        """[answers, tokens, size]; those of the teacher with its own prompts."""
        teacher = self.accelerator.unwrap_model(self.teacher_model)
        if unwrapped_model is teacher:
            states = self._states_of_teacher(teacher)
        else:
            states = super()._get_last_hidden_state(unwrapped_model, *arguments, **named)
        head = unwrapped_model.get_output_embeddings()
        with torch.no_grad():
            at_answers = torch.split(states[self._batch["completion_mask"].bool()], TILE)
            self._top.append(torch.cat([head(tile).argmax(dim=-1) for tile in at_answers]))
        return states

    def _states_of_teacher(self, teacher: Any) -> torch.Tensor:
        mask = self._batch["completion_mask"].bool()
        prompts = [torch.tensor(self._teacher_prompts[n]) for n in self._batch["numbers"].tolist()]
        answers = [
            ids[keep].cpu() for ids, keep in zip(self._batch["completion_ids"], mask, strict=True)
        ]
        rows = [torch.cat(pair) for pair in zip(prompts, answers, strict=True)]
        marks = [
            torch.cat([torch.full_like(prompt, NO_LOSS), answer])
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        padded = partial(pad_sequence, batch_first=True)
        ids, real = padded(rows).to(mask.device), padded([torch.ones_like(r) for r in rows])
        labels, real = padded(marks, padding_value=NO_LOSS).to(mask.device), real.to(mask.device)
        if self._shares:
            layout = sharing.Layout.of(ids, real, labels)
            states = sharing.output_of(teacher.base_model, layout).last_hidden_state
            before_answers = states[0, layout.loss_at]
        else:
            states = teacher.base_model(
                input_ids=ids, attention_mask=real, use_cache=False
            ).last_hidden_state
            before_answers = states[:, :-1][labels[:, 1:] != NO_LOSS]
        size = (*mask.shape, before_answers.shape[-1])
        aligned = torch.zeros(size, dtype=before_answers.dtype, device=before_answers.device)
        aligned[mask] = before_answers  # row by row, in the order of their tokens
        return aligned
