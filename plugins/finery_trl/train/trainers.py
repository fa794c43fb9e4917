"""Reproducible, quiet versions of TRL's trainers.

Imports torch, so import it inside a function.
"""

import functools
import inspect
import types
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head

from finery import StepError
from finery_trl.rows.example import NO_LOSS, Example, Proven
from finery_trl.rows.text import Block
from finery_trl.train import sharing
from finery_trl.train.callbacks import Callback
from finery_trl.train.schedule import RandomOrder, missing_rows

if TYPE_CHECKING:
    from finery_trl.rows.tokens import Tokens


class Reproducible:
    """Mixin for TRL's trainers.

    Rows are verified before and come in the order of `RandomOrder`, nothing but checkpoints
    is written or sent, and `Callback` decides what happens after each optimizer step.

    args: of the trainer. fills: whether rows without loss follow the last rows of an epoch, so that
    several processes have batches of equal size; otherwise accelerate repeats rows. fillers: these
    rows. by_length: whether the rows of an optimizer step may be put in the order of their lengths.
    ends: whether each row ends with an end of turn.
    """

    fills: ClassVar[bool] = False
    by_length: ClassVar[bool] = True
    ends: ClassVar[bool] = True

    def __init__(
        self,
        examples: Sequence[Proven],
        held_out: Sequence[Proven] | None,
        callback: Callback,
        *,
        args: Any,
        **arguments: Any,
    ) -> None:
        self._examples = examples
        self._processes = args.world_size
        self.fillers = self._fillers(examples, args.per_device_train_batch_size)
        self._callback = callback
        # Sorted, to need less padding; a mean doesn't depend on the order.
        self._held_out = sorted(held_out or [], key=lambda e: -e.size)
        validated = [
            *self._held_out, *self._fillers(self._held_out, args.per_device_eval_batch_size)
        ]  # fmt: skip
        self._validated = len(validated)
        trainer: Any = super()
        trainer.__init__(
            train_dataset=_as_dataset([*examples, *self.fillers]),
            eval_dataset=_as_dataset(validated) if held_out else None,
            args=args,
            callbacks=[callback],
            **arguments,
        )
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]

    def learned(self, batch: dict[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
        """(token ids, positions with loss) of each sequence of a batch of the data loader."""
        marks = (batch["completion_mask"] == 1).tolist()
        for ids, mask in zip(batch["input_ids"].tolist(), marks, strict=True):
            yield ids, [i for i, marked in enumerate(mask) if marked]

    def prove_rows(self, tokens: "Tokens") -> None:
        """Check that the batches match the rows, and that packed rows don't see each other."""
        prove_batches(self, self._examples, tokens)
        if getattr(self, "padding_free", False):
            prove_apart(self, self._examples)

    def training_step(self, model: Any, inputs: dict[str, Any], *arguments: Any) -> Any:
        """Run a batch forward and backward, and count its tokens."""
        mask = inputs.get("attention_mask")
        # A sum stays on the GPU until it is reported, since the CPU would have to wait for it.
        tokens = inputs["input_ids"].numel() if mask is None else mask.sum()
        self._callback.tokens = self._callback.tokens + tokens
        trainer: Any = super()
        return trainer.training_step(model, inputs, *arguments)

    def create_model_card(self, *arguments: Any, **keywords: Any) -> None:
        """Write none: checkpoints are temporary, and the output gets a different card."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **keywords: Any) -> Any:
        """Return the rows, which are tokens already."""
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        args: Any = self.args  # type: ignore[attr-defined]
        batches = args.gradient_accumulation_steps * args.world_size
        return RandomOrder(
            [e.size for e in self._examples],
            args.per_device_train_batch_size * batches,
            args.seed,
            fillers=len(self.fillers),
            by_length=self.by_length,
        )

    def _fillers(self, rows: Sequence[Proven], size: int) -> list[Proven]:
        """Rows without loss that follow `rows`. size: of the batches of a process."""
        if not self.fills or not rows:
            return []
        filler = Example("", rows[0].columns()["input_ids"][:2], [NO_LOSS] * 2)
        return [filler] * missing_rows(len(rows), size, self._processes)

    def _send_telemetry(self) -> None:
        """Send nothing. TRL would report this training to Hugging Face without asking the user."""


class SftTrainer(Reproducible, SFTTrainer):
    """SFTTrainer with a validation loss that is the mean over all loss tokens, for any batches.

    On a CPU, logits are computed only at positions with loss, and what rows of a batch begin with
    only once (`sharing`). On a GPU, TRL's fused head computes them in tiles, but without the
    entropy and accuracy that TRL also takes from it, for which the CPU waits in every batch.
    """

    fills = True

    def __init__(
        self,
        examples: Sequence[Proven],
        held_out: Sequence[Proven] | None,
        *arguments: Any,
        **named: Any,
    ) -> None:
        super().__init__(examples, held_out, *arguments, **named)
        if held_out:
            self._held_out_mean = sum(e.loss_tokens for e in held_out) / self._validated
        causal = _causal_model(self.model)
        self._can_choose_logits = _can_choose_logits(causal)
        longest = max(e.size for e in [*examples, *(held_out or [])])
        # The noise of NEFTune depends on the length of a sequence.
        plain = not self._uses_fused_head() and self.neftune_noise_alpha is None
        self._shares = plain and sharing.fits(causal, longest)
        if self._shares:
            sharing.install(causal)
        if self._uses_fused_head() and not self._uses_trl_loss():
            add_fused_lm_head(causal)  # computes nothing but log-probabilities

    def learned(self, batch: dict[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
        """(token ids, positions with loss) of each row of a batch, packed or padded."""
        ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
        if "attention_mask" in batch:
            for row, marks in zip(ids, labels, strict=True):
                yield row, [i for i, label in enumerate(marks) if label == row[i]]
            return
        starts = [i for i, at in enumerate(batch["position_ids"][0].tolist()) if at == 0]
        for start, end in zip(starts, [*starts[1:], len(ids[0])], strict=True):
            row, marks = ids[0][start:end], labels[0][start:end]
            yield row, [i for i, label in enumerate(marks) if label == row[i]]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean negative log-likelihood of the loss tokens of an optimizer step.

        In validation, each batch is divided by its share of all loss tokens, which turns the mean
        over rows that `evaluate` takes into a mean over tokens.
        """
        if num_items_in_batch is None and not model.training:
            num_items_in_batch = self._rows_in(inputs) * self._held_out_mean
        # DDP averages gradients over processes, and the count of tokens covers all processes.
        processes = self.accelerator.num_processes
        if self._uses_trl_loss() or return_outputs:
            if num_items_in_batch is not None and not model.training:
                num_items_in_batch *= processes  # TRL multiplies in validation, too
            trl: Any = super()
            return trl.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss, count = self._loss_and_count(model, inputs)
        if num_items_in_batch is None:
            return loss / count
        return loss * (processes if model.training else 1) / num_items_in_batch

    def _rows_in(self, inputs: dict[str, Any]) -> int:
        """The number of rows of a batch."""
        is_packed = "attention_mask" not in inputs
        return int((inputs["position_ids"] == 0).sum()) if is_packed else len(inputs["labels"])

    def _loss_and_count(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """The sum of the losses of all loss tokens of a batch, and the number of these tokens."""
        if self._uses_fused_head():
            output = model(**inputs, use_cache=False, fused_lm_head=True)
            return -output.log_probs.sum(), output.label_mask.sum()
        # On a CPU, TRL computes logits at every position, which takes a third of the time if
        # answers are short.
        logits, targets = self._logits_and_targets(model, inputs)
        loss = cross_entropy(
            logits.flatten(0, 1).float(), targets, ignore_index=NO_LOSS, reduction="sum"
        )
        return loss, (targets != NO_LOSS).sum()

    def _logits_and_targets(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        """Logits [rows, tokens, vocabulary] and, flat, the tokens to predict there."""
        ids, labels = inputs["input_ids"], inputs["labels"]
        has_fillers = self._processes > 1 and bool((labels == NO_LOSS).all(dim=1).any())
        if self._shares and "attention_mask" in inputs and not has_fillers:
            layout = sharing.Layout.of(ids, inputs["attention_mask"], labels)
            return sharing.logits_of(model, layout), layout.targets
        targets = labels[:, 1:]
        columns = (targets != NO_LOSS).any(dim=0).nonzero()[:, 0]
        if not len(columns):  # gradients must exist in each process, even if they are zero
            columns = columns.new_zeros(1)
        unlabelled = {k: v for k, v in inputs.items() if k != "labels"}
        logits = model(**unlabelled, use_cache=False, logits_to_keep=columns).logits
        return logits, targets[:, columns].flatten()

    def _uses_fused_head(self) -> bool:
        return self._uses_trl_loss() or self._is_on_gpu() or not self._can_choose_logits

    def _uses_trl_loss(self) -> bool:
        """Whether it has more parts, e.g. of routers, or Unsloth's kernels compute it."""
        unsloth = SFTTrainer.__name__.startswith("Unsloth")
        return self.aux_loss_enabled or (unsloth and self._is_on_gpu())

    def _is_on_gpu(self) -> bool:
        return bool(self.args.device.type == "cuda")


class PretrainTrainer(SftTrainer):
    """SftTrainer for blocks of text. It also validates before the first optimizer step."""

    ends = False

    def __init__(self, *arguments: Any, args: Any, **named: Any) -> None:
        args.per_device_eval_batch_size = 1  # a batch doesn't say how many blocks it has
        super().__init__(*arguments, args=args, **named)

    def train(
        self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **named: Any
    ) -> Any:
        """Train; a resumed training has the first validation in its history already."""
        self.args.eval_on_start = not resume_from_checkpoint and self._validated > 0
        return super().train(resume_from_checkpoint, *arguments, **named)

    def _rows_in(self, inputs: dict[str, Any]) -> int:
        return 1

    def _fillers(self, rows: Sequence[Proven], size: int) -> list[Proven]:
        return [
            Block(f.row_id, [f]) for f in super()._fillers(rows, size) if isinstance(f, Example)
        ]


class Comparing(Reproducible):
    """Mixin for the trainers that compare with a reference.

    Their losses are means over the rows of a batch, in which rows without loss would count. So
    each process validates on all rows: a mean over processes with unequal shares would be another.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        trainer: Any = self
        longest = max(e.size for e in [*self._examples, *self._held_out])
        if trainer.args.device.type != "cuda" and not trainer.aux_loss_enabled:
            for model in (trainer.model, trainer.ref_model):
                if model is not None and _can_choose_logits(_causal_model(model)):
                    _score_only_answers(_causal_model(model), longest)

    def get_eval_dataloader(self, *arguments: Any, **named: Any) -> Any:
        """All batches, instead of those of this process."""
        trainer: Any = super()
        loader = trainer.get_eval_dataloader(*arguments, **named)
        if self._processes > 1:
            shard = loader.batch_sampler
            shard.num_processes, shard.process_index, shard.even_batches = 1, 0, False
        return loader

    def evaluation_loop(self, *arguments: Any, **named: Any) -> Any:
        """Count the loss of each batch once, although all processes compute it."""
        gather: Any = self.accelerator.gather_for_metrics  # type: ignore[attr-defined]
        self.gather_function = lambda losses: gather(losses)[: len(losses)]
        trainer: Any = super()
        return trainer.evaluation_loop(*arguments, **named)

    def log(self, logs: dict[str, float], *arguments: Any) -> None:
        """Average validation metrics over rows, not over batches: the last batch may be smaller."""
        trainer: Any = self
        for values in trainer._metrics["eval"].values():
            size = trainer.args.per_device_eval_batch_size
            if len(values) > 1 and not trainer.model.training:
                last = len(self._held_out) - size * (len(values) - 1)
                mean = (size * sum(values[:-1]) + last * values[-1]) / len(self._held_out)
                values[:] = [mean]
        above: Any = super()
        above.log(logs, *arguments)


class DpoTrainer(Comparing, DPOTrainer):
    """DPOTrainer for verified preferences."""


class KtoTrainer(Comparing, KTOTrainer):
    """KTOTrainer for verified ratings.

    To estimate the drift, TRL pairs rows once, in the order of the file, and depends on that order.
    Here, the rows of each batch are paired when it is collated, whatever their lengths.
    """

    by_length = False

    def __init__(self, *arguments: Any, args: Any, **named: Any) -> None:
        args.train_sampling_strategy = "sequential"  # required by TRL; `RandomOrder` decides
        super().__init__(*arguments, args=args, **named)
        if self.calculate_KL:
            self.data_collator = _Rotating(self.data_collator)


class _Rotating:
    """A collator that adds the answer of its neighbor to each row."""

    def __init__(self, collator: Any) -> None:
        self._collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        answers = [row["completion_ids"] for row in rows]
        rotated = [answers[-1], *answers[:-1]]
        paired = [{**row, "KL_completion_ids": kl} for row, kl in zip(rows, rotated, strict=True)]
        batch: dict[str, Any] = self._collator(paired)
        return batch


def _causal_model(model: Any) -> Any:
    """The transformers model inside an adapter."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _can_choose_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(type(model).forward).parameters


def _score_only_answers(model: Any, longest: int) -> None:
    """Compute log-probabilities only for answers, and what rows begin with only once.

    This replaces TRL's fused head, which on a CPU
    computes every position, as well as entropy and accuracy. Those are zero here, since nothing
    shows them.
    """
    plain_forward = model.forward
    shares = sharing.fits(model, longest)
    if shares:
        sharing.install(model)

    @functools.wraps(type(model).forward)
    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None, **named: Any
    ) -> Any:
        if not fused_lm_head:
            return plain_forward(*args, labels=labels, **named)
        log_probs_of = _shared_log_probs if shares else _log_probs
        log_probs = log_probs_of(plain_forward, labels=labels, **named)
        zeros = torch.zeros_like(log_probs)
        return FusedCausalLMOutput(
            log_probs=log_probs,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
            label_mask=labels[:, 1:] != NO_LOSS,
        )

    model.forward = types.MethodType(forward, model)


def _log_probs(forward: Any, labels: torch.Tensor, **named: Any) -> torch.Tensor:
    """[rows, tokens - 1]: for each token after the first one, 0 without a label."""
    targets = labels[:, 1:]
    columns = (targets != NO_LOSS).any(dim=0).nonzero()[:, 0]
    logits = forward(logits_to_keep=columns, **named).logits
    right_columns = targets[:, columns]
    log_probs = -_losses(logits.flatten(0, 1), right_columns.flatten())
    zeros = torch.zeros(targets.shape, dtype=log_probs.dtype, device=log_probs.device)
    return zeros.index_copy(1, columns, log_probs.view(right_columns.shape))


def _shared_log_probs(
    forward: Any,
    labels: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    **_: Any,
) -> torch.Tensor:
    """Like `_log_probs`, for a model that understands a `Layout`."""
    layout = sharing.Layout.of(input_ids, attention_mask, labels)
    log_probs = -_losses(sharing.logits_of(forward, layout)[0], layout.targets)
    zeros = torch.zeros(labels.numel(), dtype=log_probs.dtype, device=log_probs.device)
    places = layout.places[layout.loss_at]
    return zeros.index_copy(0, places, log_probs).view(labels.shape)[:, :-1]


def _losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits.float(), targets, ignore_index=NO_LOSS, reduction="none")


def _as_dataset(examples: Sequence[Proven]) -> Any:
    columns = [e.columns() for e in examples]
    return Dataset.from_dict({name: [c[name] for c in columns] for name in columns[0]})


# -- the batches match the rows -------------------------------------------------------------------


def prove_batches(trainer: Any, examples: "Sequence[Proven]", tokens: "Tokens") -> None:
    """Check all batches of the first epoch as the model will see them.

    The loss of each row must be on its own tokens, begin after the first one and end with an end of
    turn (unless the trainer is for text), and the batches of all processes must contain exactly the
    loss tokens of all rows, except where accelerate repeats rows. Raises `StepError` otherwise.
    """
    loss_tokens = sequences = 0
    with torch.random.fork_rng():  # a data loader uses the random state of torch
        for batch in trainer.get_train_dataloader():
            for ids, learned in trainer.learned(batch):
                if not learned and trainer.fillers:
                    continue
                is_open = trainer.ends and learned and ids[learned[-1]] not in tokens.ends
                if not learned or learned[0] == 0 or is_open:
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
