"""TRL's SFTTrainer, made reproducible and quiet. Imports torch: import it inside a function."""

import inspect
import math
from pathlib import Path
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_trainer import SFTTrainer

from finery import Job, StepError
from finery_trl import checkpoints
from finery_trl.order import LengthGroupedOrder
from finery_trl.tokens import NO_LOSS, Example


class Trainer(SFTTrainer):
    """SFTTrainer over proven examples.

    Rows come in an order of their own (`LengthGroupedOrder`), the validation loss is the mean
    over all loss tokens whatever the batches, nothing is sent or written beside checkpoints, and
    off the GPU the vocabulary's logits are computed only where a row of the batch has loss.
    """

    def __init__(
        self, examples: list[Example], held_out: list[Example] | None, **arguments: Any
    ) -> None:
        self._examples = examples
        # Sorted, to waste less on padding; the order doesn't matter to a mean.
        held_out = sorted(held_out or [], key=lambda e: -len(e.tokens))
        if held_out:
            self._held_out_mean = sum(e.loss_tokens for e in held_out) / len(held_out)
        super().__init__(
            train_dataset=_as_dataset(examples),
            eval_dataset=_as_dataset(held_out) if held_out else None,
            **arguments,
        )
        self.remove_callback(PrinterCallback)
        model: Any = self.model
        base = model.get_base_model() if arguments.get("peft_config") else model
        self._can_choose_logits = "logits_to_keep" in inspect.signature(base.forward).parameters

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean negative log-likelihood of the loss tokens of an optimizer step.

        In validation each batch is divided by its share of all loss tokens, which makes the mean
        over rows, that `evaluate` takes, a mean over tokens.
        """
        if num_items_in_batch is None and not model.training:
            num_items_in_batch = len(inputs["labels"]) * self._held_out_mean
        if self._uses_trl_loss() or return_outputs:
            trl: Any = super()
            return trl.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # Off the GPU, TRL computes logits, entropy and accuracy at every position, which costs a
        # third of the time when answers are short.
        targets = inputs["labels"][:, 1:]
        columns = (targets != NO_LOSS).any(dim=0).nonzero()[:, 0]
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            use_cache=False,
            logits_to_keep=columns,
        ).logits
        targets = targets[:, columns].flatten()
        loss = cross_entropy(
            logits.flatten(0, 1).float(), targets, ignore_index=NO_LOSS, reduction="sum"
        )
        return loss / (
            (targets != NO_LOSS).sum() if num_items_in_batch is None else num_items_in_batch
        )

    def create_model_card(self, *arguments: Any, **keywords: Any) -> None:
        """Write none: checkpoints are scratch, and what is shipped is described by its manifest."""

    def _uses_trl_loss(self) -> bool:
        on_gpu = self.args.device.type == "cuda"
        return on_gpu or self.aux_loss_enabled or not self._can_choose_logits

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        lengths = [len(e.tokens) for e in self._examples]
        return LengthGroupedOrder(lengths, self.args.per_device_train_batch_size, self.args.seed)

    def _send_telemetry(self) -> None:
        """TRL would tell Hugging Face about this training; whoever builds wasn't asked."""


class Course(TrainerCallback):
    """Decides when to validate and save, tells the job how it goes, and marks checkpoints.

    epoch_steps: optimizer steps an epoch. eval_steps: those between two validations, None: one
    each epoch.
    """

    def __init__(
        self,
        job: Job,
        *,
        epoch_steps: int,
        validates: bool,
        eval_steps: int | None,
        save_steps: int | None,
        logging_steps: int,
    ) -> None:
        self._job = job
        self._validates = validates
        self._eval_steps = eval_steps or epoch_steps
        self._save_steps = [self._eval_steps, epoch_steps, *([save_steps] if save_steps else [])]
        self._logging_steps = logging_steps
        self._losses: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the bar."""
        self._job.progress(state.global_step, state.max_steps, "training")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for what is due after this optimizer step."""
        step, last = state.global_step, state.global_step >= state.max_steps
        control.should_evaluate = self._validates and (last or step % self._eval_steps == 0)
        control.should_save = last or any(step % n == 0 for n in self._save_steps)

    def on_log(self, args: Any, state: Any, control: Any, **context: Any) -> None:
        """Report. `StepError` where a loss is no longer a number."""
        step, logs = state.global_step, context["logs"]
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise StepError(
                    f"the {name} is {logs[name]} at optimizer step {step}: training diverged",
                    fix=f"lower learning_rate (now {args.learning_rate:g}), or warm up longer",
                )
        if "eval_loss" in logs:
            self._job.metric("eval_loss", logs["eval_loss"], step)
        if "loss" in logs:
            self._job.progress(step, state.max_steps, f"loss {logs['loss']:.3f}")
            self._report_loss(logs, step, step == state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark what was saved as whole, then remove what it replaces."""
        folder = Path(args.output_dir)
        checkpoints.mark(folder / f"checkpoint-{state.global_step}")
        checkpoints.prune(folder, state.log_history)

    def _report_loss(self, logs: dict[str, float], step: int, last: bool) -> None:
        self._losses.append(logs["loss"])
        if last or step % self._logging_steps == 0:
            self._job.metric("loss", sum(self._losses) / len(self._losses), step)
            self._job.metric("learning_rate", logs["learning_rate"], step)
            self._losses.clear()


def _as_dataset(examples: list[Example]) -> Dataset:
    return Dataset.from_list([{"input_ids": e.tokens, "labels": e.labels} for e in examples])
