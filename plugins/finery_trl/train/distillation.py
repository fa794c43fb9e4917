"""TRL's trainer that distils a teacher, with prompts of the teacher's own.

Imports torch, so import it inside a function.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.distillation_trainer import DistillationTrainer

from finery_trl.rows.example import NO_LOSS
from finery_trl.rows.tokens import Prompt
from finery_trl.train import sharing
from finery_trl.train.on_policy import OnPolicyTrainer
from finery_trl.train.teacher import Teacher

TILE = 1024
"""Answer tokens whose logits are computed at once, to compare the likeliest tokens."""


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

    def _compute_loss(self, unwrapped_student: Any, inputs: Any, *rest: Any) -> Any:
        """TRL's loss; also the share of answer tokens for which both models expect the same one."""
        self._batch, self._top = inputs, list[torch.Tensor]()
        above: Any = super()
        with self.accelerator.autocast():  # TRL calls the models' decoders, which have none
            result = above._compute_loss(unwrapped_student, inputs, *rest)
        student, teacher = self._top
        self._metrics["train"]["agreement"].append((student == teacher).float().mean().item())
        return result

    def _get_last_hidden_state(self, unwrapped_model: Any, *rest: Any, **named: Any) -> Any:
        """[answers, tokens, size]; those of the teacher with its own prompts."""
        teacher = self.accelerator.unwrap_model(self.teacher_model)
        if unwrapped_model is teacher:
            states = self._states_of_teacher(teacher)
        else:
            states = super()._get_last_hidden_state(unwrapped_model, *rest, **named)
        head = unwrapped_model.get_output_embeddings()
        with torch.no_grad():
            at_answers = torch.split(states[self._batch["completion_mask"].bool()], TILE)
            self._top.append(torch.cat([head(tile).argmax(dim=-1) for tile in at_answers]))
        return states

    def _states_of_teacher(self, teacher: Any) -> torch.Tensor:
        mask = self._batch["completion_mask"].bool()
        prompts = [torch.tensor(self._teacher_prompts[n]) for n in self._batch["numbers"].tolist()]
        answers = [
            ids[own].cpu() for ids, own in zip(self._batch["completion_ids"], mask, strict=True)
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
