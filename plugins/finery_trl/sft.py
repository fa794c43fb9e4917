"""Supervised fine-tuning: learn the answers of rows."""

from typing import TYPE_CHECKING, Any, Literal

from finery import Dataset, Job, Model, Settings, Step, setting, takes
from finery.errors import UsageError

if TYPE_CHECKING:
    from peft import LoraConfig

PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "gguf",
)  # fmt: skip


class Lora(Settings):
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685), as in PEFT."""

    r: int = setting(16, ge=1, help="Rank: 8-16 for simple tasks, 64-128 for data-rich ones.")
    lora_alpha: int | None = setting(
        None, ge=1, help="Strength: what is learned is scaled by lora_alpha / r. Default: r."
    )
    lora_dropout: float = setting(0.0, ge=0, lt=1, help="Dropout in front of the adapter.")
    target_modules: str | list[str] = setting(
        "all-linear", help="Layers with an adapter: all-linear, or names such as [q_proj, v_proj]."
    )
    use_rslora: bool = setting(
        False, help="Scale by lora_alpha / sqrt(r) instead, for ranks of 64 and more."
    )
    use_dora: bool = setting(
        False, help="Learn the weights' magnitudes apart from their directions; slower."
    )


class Sft(Step, isolated=True, packages=PACKAGES, sections=("train",)):
    """Fine-tune a model on the answers of rows, with TRL: LoRA, or all weights.

    Loss lies on the completion's tokens alone, up to the end of its turn. Before the first
    optimizer step every row is proven to have loss, to end its turn, and to have the very prompt
    that the model will be asked. The weights with the lowest validation loss are kept (without
    `validation`, the last). An interrupted training goes on from its last checkpoint and ends
    with the bytes that it would have had.
    """

    model: Model = takes(
        help="The model to train: a Hugging Face folder, a GGUF (dequantised), or an adapter "
        "(merged, and the new one lies on top)."
    )
    rows: list[Dataset] = takes(help="Rows to learn, each with an answer.")
    validation: Dataset | None = takes(None, help="Rows to measure the validation loss on.")
    lora: Lora | None = setting(Lora(), help="The adapter; null trains all weights.")
    epochs: float = setting(3, gt=0, help="Passes over the rows; 1-2 for fewer than 500 rows.")
    learning_rate: float = setting(
        2e-4, gt=0, help="Peak learning rate; 1e-3 suits models of some 100 million parameters."
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = setting(
        "cosine", help="Course of the learning rate behind the warm-up."
    )
    warmup_steps: int | None = setting(
        None,
        ge=0,
        help="Optimizer steps in which the learning rate rises to its peak. Default: 10, but at "
        "most a tenth of all.",
    )
    warmup_ratio: float | None = setting(
        None, ge=0, lt=1, help="The same as a share of all optimizer steps."
    )
    effective_batch_size: int = setting(
        16, ge=1, help="Rows an optimizer step; 16 is stable for most tasks."
    )
    per_device_train_batch_size: int | None = setting(
        None,
        ge=1,
        help="Rows in memory at once; gradients are accumulated up to effective_batch_size. "
        "Default: as many as 8,192 tokens allow, at most 8.",
    )
    weight_decay: float = setting(0.0, ge=0, help="AdamW's weight decay.")
    max_grad_norm: float = setting(
        1.0, ge=0, help="Longer gradients are scaled to this norm; 0: none is."
    )
    max_length: int = setting(1024, ge=8, help="Longest row, in tokens, prompt and answer.")
    too_long: Literal["error", "drop"] = setting(
        "error",
        help="What becomes of longer rows. They are never cut: a cut answer teaches not to stop.",
    )
    gradient_checkpointing: bool = setting(
        False, help="Compute activations twice to save memory; a third slower."
    )
    dtype: Literal["auto", "bf16", "fp32"] = setting(
        "auto",
        help="Of the arithmetic and of frozen weights; auto: bf16 where the hardware multiplies "
        "it. What is trained is kept in fp32.",
    )
    eval_steps: int | None = setting(
        None, ge=1, help="Optimizer steps between two validations. Default: one each epoch."
    )
    save_steps: int | None = setting(
        None,
        ge=1,
        keyed=False,
        help="Optimizer steps between two further checkpoints, for long epochs; there is one at "
        "each validation and at each epoch's end anyway.",
    )
    logging_steps: int = setting(
        1, ge=1, keyed=False, help="Optimizer steps between two reports of the loss."
    )

    def check(self) -> None:
        """Raise `UsageError` where settings contradict each other."""
        size, whole = self.per_device_train_batch_size, self.effective_batch_size
        if size is not None and whole % size:
            raise UsageError(
                f"effective_batch_size {whole} is no multiple of "
                f"per_device_train_batch_size {size}",
                where="effective_batch_size",
                fix=f"effective_batch_size: {max(1, round(whole / size)) * size}",
            )
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise UsageError(
                "warmup_steps and warmup_ratio say the same thing twice",
                where="warmup_ratio",
                fix="drop one of them",
            )

    def run(self, job: Job) -> Model:
        """Train; an adapter, or a whole model, with its tokenizer, chat template and curve."""
        from finery_transformers.loading import load_tokenizer, template_arguments
        from finery_trl.output import write_model
        from finery_trl.tokens import Tokens, examples_of
        from finery_trl.training import train

        self.check()
        tokens = Tokens.of(load_tokenizer(self.model), template_arguments(self.model))
        limits: Any = {"max_length": self.max_length, "too_long": self.too_long}
        job.progress(0, 1, "reading rows")
        rows = (row for dataset in self.rows for row in dataset)
        examples = examples_of(rows, tokens, job, what="rows", **limits)
        held_out = None
        if self.validation is not None:
            held_out = examples_of(self.validation, tokens, job, what="validation", **limits)
        trained = train(self, tokens, examples, held_out, job)
        return write_model(self, trained, tokens, examples, job)

    def batch_size(self, longest: int) -> int:
        """Rows in memory at once, where the longest has `longest` tokens.

        From the settings and the rows alone, never from the memory that is free: it decides which
        rows are together, and so the result. (On two cores 4 to 32 rows of 45 tokens are equally
        fast.)
        """
        if self.per_device_train_batch_size is not None:
            return self.per_device_train_batch_size
        fitting = max(1, min(8, 8192 // longest))
        whole = self.effective_batch_size
        return next(size for size in range(fitting, 0, -1) if whole % size == 0)

    def warmup(self, steps: int) -> int:
        """Optimizer steps of warm-up, of `steps` in all."""
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * steps)
        return min(10, steps // 10) if self.warmup_steps is None else self.warmup_steps

    def peft_config(self) -> "LoraConfig | None":
        """The adapter's configuration; None where all weights are trained."""
        if self.lora is None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=self.lora.r,
            lora_alpha=self.lora.lora_alpha or self.lora.r,
            lora_dropout=self.lora.lora_dropout,
            target_modules=self.lora.target_modules,
            use_rslora=self.lora.use_rslora,
            use_dora=self.lora.use_dora,
            bias="none",
            task_type="CAUSAL_LM",
        )
