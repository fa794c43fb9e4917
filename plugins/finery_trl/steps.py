"""The step types of this plugin: trainings with TRL on answers, preferences, ratings and text.

They take a model and rows, and produce a trained `Model`. The step types of other plugins may
derive from these.
"""

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finery import (
    DataError,
    Dataset,
    Estimate,
    Inputs,
    Job,
    Key,
    Look,
    Model,
    Note,
    UsageError,
    setting,
    takes,
)
from finery.advanced import Proof
from finery.rows import Row
from finery_trl.checks import check_settings
from finery_trl.settings import MOST_EPOCHS, Training
from finery_trl.view.live import METRICS

if TYPE_CHECKING:
    import torch

    from finery_trl.model.loading import Prepared
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Reading
    from finery_trl.rows.turns import Learn


class TrlTraining(Training, metrics=METRICS):
    """Base of all step types that train. They implement `read` and `trainer`, see `Training`."""

    def check(self) -> None:
        """Raise `UsageError` if settings contradict each other."""
        check_settings(self)

    def prove(self, job: Job, samples: int) -> list[Proof]:
        """A `Proof` for each data set, whose rows are verified as by the training itself."""
        from finery_trl.preflight import prove

        return prove(self, job, samples)

    def run(self, job: Job) -> Model:
        """Verify the rows and train; an adapter or a whole model, with its tokenizer and curve."""
        from finery_trl.train.run import run

        return run(self, job)

    def cache_key(self) -> Key:
        """Also the code that watches and that starts several processes, if the step uses it."""
        code: list[Any] = []
        if self.watch is not None:
            from finery_trl.train.watch import watcher

            code.append(watcher)
        if self.launch is not None:
            from finery_trl.train.launch import launch

            code.append(launch)
        return super().cache_key() | Key(code=code)

    def prepare(self, dtype: "torch.dtype", longest: int, job: Job) -> "Prepared":
        """The model as loaded by `Prepared.of`; other libraries override this."""
        from finery_trl.model.loading import Prepared

        return Prepared.of(self, dtype, longest, job)

    def estimate(self, inputs: Inputs) -> Estimate | None:
        """Memory and time."""
        from finery_trl.estimate.forecast import estimate

        return estimate(self, inputs)

    def advise(self, inputs: Inputs) -> Iterable[Note]:
        """Notes on the first rows."""
        from finery_trl.advice import notes_on

        return notes_on(self, inputs)


class Sft(TrlTraining):
    """Fine-tune a model on the answers in rows, with TRL: LoRA, QLoRA, or all weights.

    The loss covers only the tokens of the assistant's turns, each up to its end: all turns of
    `messages`, or those of the completion. It never covers what users and tools say. Before the
    first optimizer step, finery verifies that every learned turn contributes to the loss, ends, and
    follows the exact prompt used at inference. The weights with the lowest validation loss are kept
    (without `validation`, the last). An interrupted training continues from its last checkpoint
    and produces the same bytes as an uninterrupted one on a machine with the same hardware and
    packages. If an operation has no deterministic kernel on a GPU, the bytes can differ, and the
    log names the operation.
    """

    rows: list[Dataset] = takes(role="train", help="Rows to train on, each with an answer.")
    loss: Literal["all_turns", "last_turn", "marked"] = setting(
        "all_turns",
        help="The assistant turns to learn: all, the last of each row, or those without "
        "`weight: 0` (as in OpenAI's fine-tuning format). Of rows with prompt and completion, only "
        "turns in the completion are learned.",
    )
    thinking: Literal["learned", "masked"] = setting(
        "learned",
        help="Whether the loss covers the thinking in answers (`reasoning_content`, or a "
        "`<think>` block in the text).",
    )
    without_thinking: Literal["template", "switch"] = setting(
        "template",
        help="Rows without thinking, on a chat template that can switch thinking off: `template` "
        "calls the template as for other rows (most then write an empty think block, which is "
        "learned); `switch` renders these rows with thinking switched off, so that their prompts "
        "are those of a request without thinking.",
    )
    packing: bool = setting(
        False,
        help="Concatenate the rows of a batch into one sequence instead of padding them. This is "
        "an error if the model's attention would let a row see its neighbors.",
    )

    def read(self, rows: Iterable[Row], reading: "Reading") -> "Iterable[Proven]":
        """Rows as tokens, with loss on their turns."""
        from finery_trl.rows.tokens import examples_of

        return examples_of(rows, reading, self.learn())

    def learn(self) -> "Learn":
        """The turns to learn, from the settings."""
        from finery_trl.rows.turns import Learn

        return Learn(self.loss, self.thinking, self.without_thinking)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's SFTTrainer."""
        from trl.trainer.sft_config import SFTConfig

        from finery_trl.train.trainers import SftTrainer

        return SftTrainer, SFTConfig, {"padding_free": self.packing}


class Pretrain(TrlTraining, learns="text"):
    """Continue the pre-training of a model on text, e.g. the documents of a domain.

    Rows have a `text`. Chunks of `docs.files` that follow each other are joined into documents
    again, and what overlapping chunks repeat is learned once. Each document ends with EOS, and all
    its tokens have loss. Short documents share a block of `max_length` tokens without seeing each
    other, and a longer one continues in further blocks. In other settings, a block counts as a row.
    With `validation`, the model's perplexity on held-out documents before and after is in its
    facts. A model forgets while it learns a domain: measure that with `eval.retention`. The chat
    template stays, and `trl.sft` can follow.
    """

    rows: list[Dataset] = takes(
        role="train",
        help="Text to train on: rows of `docs.files`, or others with a `text`, e.g. of `data.file` "
        "with `keep: [text]`.",
    )
    validation: Dataset | None = takes(
        None, role="validation", help="Other documents, to measure perplexity on."
    )
    packing: bool = setting(
        True,
        help="Let short documents share a block. This is an error if the model's attention would "
        "let them see their neighbors. Without it, each is padded.",
    )
    epochs: float = setting(1, gt=0, le=MOST_EPOCHS, help="Passes over the text.")
    learning_rate: float = setting(
        5e-5, gt=0, help="Peak learning rate, lower than in supervised fine-tuning to forget less."
    )
    per_device_train_batch_size: int | None = setting(
        None,
        ge=1,
        help="Blocks in memory at once; gradients are accumulated up to effective_batch_size. "
        "Default: as many as fit in 2,048 tokens, since every token has loss.",
    )
    batch_tokens: ClassVar[int] = 2048

    def check(self) -> None:
        """Also refuse to drop long documents, which are split."""
        super().check()
        if self.too_long != "error":
            raise UsageError(
                "no document is too long: those longer than max_length are split into blocks",
                where="too_long",
                fix="remove too_long",
            )

    def examine(self, look: Look) -> None:
        """Raise `DataError` for rows of which none has a column `text`."""
        from finery_trl.rows.text import NEEDS_TEXT

        for name in ("rows", "validation"):
            columns = look.columns(name)
            if columns and "text" not in columns.value:
                raise DataError(
                    f"{name}: there is no column `text`, but: {', '.join(sorted(columns.value))}",
                    where=name,
                    fix=NEEDS_TEXT,
                )

    def read(self, rows: Iterable[Row], reading: "Reading") -> "Iterable[Proven]":
        """Documents as blocks of tokens."""
        from finery_trl.rows.text import blocks_of

        return blocks_of(rows, reading, packing=self.packing)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's SFTTrainer, for blocks."""
        from trl.trainer.sft_config import SFTConfig

        from finery_trl.train.trainers import PretrainTrainer

        return PretrainTrainer, SFTConfig, {"padding_free": self.packing}

    def run(self, job: Job) -> Model:
        """Train as `TrlTraining` does; the perplexity before and after is in `meta`."""
        from finery_transformers.frozen.template import PROMPTS, facts_of

        model = super().run(job)
        model.meta["rows"] = sum(map(len, self.rows))
        # Documents show no prompts, so what is known about those of the model stays.
        del model.meta[PROMPTS]
        model.meta |= {PROMPTS: dict(facts)} if (facts := facts_of(self.model)) else {}
        points = json.loads((job.out / "curve.json").read_text(encoding="utf-8"))
        losses = {point["step"]: point["eval_loss"] for point in points if "eval_loss" in point}
        if losses:
            before, after = (round(math.exp(losses[s]), 3) for s in (0, model.meta["best_step"]))
            model.meta |= {"perplexity_before": before, "perplexity": after}
            job.log(f"perplexity on held-out documents: {before:,} before, {after:,} after")
        return model


class Preference(TrlTraining, learns="preferences"):
    """Train on better and worse answers. The reference is the model before the training."""

    compares = True

    model: Model = takes(
        role="base",
        help="The model to train, usually the output of `trl.sft`. It is also the reference.",
    )
    adapter: Literal["new", "continue"] = setting(
        "continue",
        help="If `model` is itself an adapter: `continue` trains it further, with its initial "
        "state as the reference (omit `lora`, since the adapter keeps its shape); `new` merges it, "
        "uses the merged model as the reference and trains a new adapter on top.",
    )
    beta: float = setting(
        0.1,
        gt=0,
        help="How strongly the model is held to the reference; lower values allow more change.",
    )
    epochs: float = setting(1, gt=0, le=MOST_EPOCHS, help="Passes over the rows.")
    learning_rate: float = setting(
        5e-6, gt=0, help="Peak learning rate, far lower than in supervised fine-tuning."
    )


class Dpo(Preference):
    """Train a model to prefer the chosen answer to the rejected one, with TRL's DPO.

    Direct preference optimization (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290). The
    untrained model is the reference. Use DPO after supervised fine-tuning: it shifts probability
    between answers that the model can already give. Rows are verified as in `trl.sft`, for both
    answers.
    """

    rows: list[Dataset] = takes(
        role="train", help="Preferences: rows with a prompt, a chosen and a rejected answer."
    )
    loss_type: Literal["sigmoid", "ipo", "hinge", "robust", "apo_zero", "apo_down"] = setting(
        "sigmoid", help="The loss, as named by TRL; sigmoid is the original DPO loss."
    )
    label_smoothing: float = setting(
        0.0,
        ge=0,
        lt=0.5,
        help="Expected share of preferences with chosen and rejected swapped; for loss_type: "
        "robust.",
    )
    sft_weight: float = setting(
        0.0,
        ge=0,
        help="Weight of an additional loss on the chosen answers, as in `trl.sft` (Pang et al. "
        "2024, https://arxiv.org/abs/2404.19733). DPO alone can make both answers less likely and "
        "unlearn where answers end; 0.2-1 prevents this.",
    )

    precompute_ref_log_probs: bool = setting(
        False,
        help="Compute the reference's log-probabilities once, before the training. The reference "
        "then needs no memory during the training, which matters if all weights are trained.",
    )

    config: ClassVar[str] = "trl.trainer.dpo_config:DPOConfig"

    def check(self) -> None:
        """Also refuse settings that another setting makes useless or impossible."""
        super().check()
        if self.precompute_ref_log_probs and self.launch is not None:
            raise UsageError(
                "precompute_ref_log_probs needs one process: TRL hands its results to the others "
                "in a file that they don't share",
                where="precompute_ref_log_probs",
                fix="remove it or launch",
            )
        if self.label_smoothing and self.loss_type != "robust":
            raise UsageError(
                f"loss_type: {self.loss_type} ignores label_smoothing",
                where="label_smoothing",
                fix="remove it, or set loss_type: robust",
            )

    def read(self, rows: Iterable[Row], reading: "Reading") -> "Iterable[Proven]":
        """Preferences as tokens."""
        from finery_trl.rows.pairs import pairs_of

        return pairs_of(rows, reading)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's DPOTrainer."""
        from trl.trainer.dpo_config import DPOConfig

        from finery_trl.train.trainers import DpoTrainer

        settings = {
            "beta": self.beta,
            "label_smoothing": self.label_smoothing,
            "precompute_ref_log_probs": self.precompute_ref_log_probs,
        }
        if self.sft_weight:
            losses = {"loss_type": [self.loss_type, "sft"], "loss_weights": [1.0, self.sft_weight]}
            return DpoTrainer, DPOConfig, {**settings, **losses}
        return DpoTrainer, DPOConfig, {**settings, "loss_type": [self.loss_type]}

    @property
    def keeps_reference(self) -> bool:
        """False if it is only needed before the training, when it is the model itself."""
        return not self.precompute_ref_log_probs


class Kto(Preference, learns="ratings"):
    """Train a model on single answers rated good or bad, with TRL's KTO.

    Kahneman-Tversky optimization (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306), for
    thumbs-up and thumbs-down ratings without pairs. The untrained model is the reference. Rows are
    verified as in `trl.sft`.
    """

    rows: list[Dataset] = takes(
        role="train",
        help="Rows with a prompt, a completion and `label: true` (good) or `false` (bad). A "
        "preference counts as one good and one bad answer.",
    )
    loss_type: Literal["kto", "apo_zero_unpaired"] = setting(
        "kto", help="The loss, as named by TRL; apo_zero_unpaired doesn't estimate the drift."
    )
    config: ClassVar[str] = "trl.trainer.kto_config:KTOConfig"

    def check(self) -> None:
        """Also refuse batches of one row, in which KTO can't estimate the drift."""
        super().check()
        reason = (
            "KTO estimates the drift of the model from other rows of a batch, so it needs at least "
            "two rows in memory"
        )
        instead = "loss_type: apo_zero_unpaired"
        if (self.per_device_train_batch_size or self.fewest_rows) < self.fewest_rows:
            raise UsageError(
                reason,
                where="per_device_train_batch_size",
                fix=f"per_device_train_batch_size: 2, or {instead}",
            )
        needed = self.fewest_processes * self.fewest_rows
        if self.effective_batch_size < needed:
            raise UsageError(
                reason + (" of each process" if self.fewest_processes > 1 else ""),
                where="effective_batch_size",
                fix=f"effective_batch_size: {needed}, or {instead}",
            )

    @property
    def fewest_rows(self) -> int:
        """Two where the drift is estimated from pairs of rows."""
        return 2 if self.loss_type == "kto" else 1

    def read(self, rows: Iterable[Row], reading: "Reading") -> "Iterable[Proven]":
        """Rated answers as tokens."""
        from finery_trl.rows.pairs import ratings_of

        return ratings_of(rows, reading)

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """TRL's KTOTrainer."""
        from trl.trainer.kto_config import KTOConfig

        from finery_trl.train.trainers import KtoTrainer

        return KtoTrainer, KTOConfig, {"beta": self.beta, "loss_type": self.loss_type}
