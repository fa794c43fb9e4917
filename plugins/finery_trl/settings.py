"""What all trainings share: their settings, and what the code that trains asks of a step."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finery import (
    Dataset,
    Job,
    Model,
    OneFile,
    Settings,
    Step,
    UsageError,
    did_you_mean,
    load_reference,
    nested_step,
    setting,
    takes,
)
from finery.rows import Row

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

    from finery_trl.model.accelerators import Accelerators
    from finery_trl.model.loading import Prepared
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Tokens

PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "gguf",
    "flash-attn", "liger-kernel",
)  # fmt: skip

WATCHER = "finery_trl.train.watch:watcher"
LAUNCHER = "finery_trl.train.launch:launch"
"""What only some trainings run, by name: its code is in the key of those that do."""
MOST_EPOCHS = 100_000
ALL_LINEAR = "all-linear"
"""PEFT's word for all linear layers but the head."""
TARGET_MODULES = "lora.target_modules"
"""Where errors about the layers of an adapter belong."""


class Lora(Settings):
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685), as in PEFT."""

    r: int = setting(16, ge=1, help="Rank: 8-16 for simple tasks, 64-128 for data-rich ones.")
    lora_alpha: int | None = setting(
        None, ge=1, help="Strength: what is learned is scaled by lora_alpha / r. Default: r."
    )
    lora_dropout: float = setting(0.0, ge=0, lt=1, help="Dropout in front of the adapter.")
    target_modules: str | list[str] = setting(
        ALL_LINEAR,
        help="Layers with an adapter: all-linear, names such as [q_proj, v_proj], or a regular "
        "expression for their whole paths.",
    )
    use_rslora: bool = setting(
        False, help="Scale by lora_alpha / sqrt(r) instead, for ranks of 64 and more."
    )
    use_dora: bool = setting(
        False, help="Learn the weights' magnitudes apart from their directions; slower."
    )


class Launch(Settings):
    """Several processes that train one model, each on its share of every batch."""

    processes: int = setting(2, ge=1, help="Processes, e.g. one a GPU.")
    config: OneFile | None = setting(
        None,
        help="A configuration file of accelerate (`accelerate config` writes one), for FSDP, "
        "DeepSpeed or several machines.",
    )


class Training(
    Step,
    isolated=True,
    packages=PACKAGES,
    sections=("train",),
    learns="answers",
    preflight="finery_trl.preflight:TrainingPreflight",
    metrics="finery_trl.view.live:METRICS",
    hints="finery_trl.hints:SFT",
):
    """Train a model on rows.

    Step types derive from `finery_trl.steps.training.TrlTraining`, which has `run`; this class is
    what the code below it knows of them. installs: the packages without which no
    training runs → what to install. estimated: whether `finery plan` estimates memory and time
    by this plugin's formulas.
    """

    estimated: ClassVar[bool] = True
    installs: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("torch", "transformers", "trl", "peft", "accelerate", "datasets"), "finery[train]"
    )

    model: Model = takes(
        role="base",
        help="The model to train: a Hugging Face folder, a GGUF (dequantised), or an adapter.",
    )
    rows: list[Dataset] = takes(role="train", help="Rows to learn from.")
    validation: Dataset | None = takes(
        None, role="validation", help="Rows to measure the validation loss on."
    )
    watch: Step | None = nested_step(
        "evaluate",
        given={"models": "model"},
        help="An evaluator that asks the model in training at each validation, e.g. `{use: "
        "eval.classification, rows: split.validation}`.",
    )
    metric_for_best_model: str = setting(
        "eval_loss",
        help="What the weights that are kept are chosen by: eval_loss, the lowest, or a metric of "
        "`watch`, the highest.",
    )
    lora: Lora | None = setting(Lora(), help="The adapter; null trains all weights.")
    adapter: Literal["new", "continue"] = setting(
        "new",
        help="Where `model` is an adapter itself: merge it and put a new one on top, or go on "
        "training it (then `lora` is left out: it keeps its own shape).",
    )
    quantization: Literal["nf4", "fp4"] | None = setting(
        None,
        help="QLoRA: keep the frozen weights in 4 bits while the adapter is trained, which saves "
        "most of their memory and costs time.",
    )
    double_quantization: bool = setting(
        True, help="Quantise the quantisation's own scales too: 0.4 bits a weight less."
    )
    merge: Literal["16-bit", "dequantized"] = setting(
        "16-bit",
        help="Which base a QLoRA adapter is merged onto when it is used: the 16-bit one, or what "
        "its 4-bit weights stand for, which is what the adapter was trained on.",
    )
    epochs: float = setting(
        3, gt=0, le=MOST_EPOCHS, help="Passes over the rows; 1-2 for fewer than 500 rows."
    )
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
    launch: Launch | None = setting(
        None,
        help="Train in several processes, through accelerate. The batches are those of one "
        "process, and the result is the same but for rounding.",
    )
    eval_steps: int | None = setting(
        None, ge=1, help="Optimizer steps between two validations. Default: one each epoch."
    )
    early_stopping_patience: int | None = setting(
        None, ge=1, help="Stop after this many validations in a row without a better one."
    )
    save_steps: int | None = setting(
        None,
        ge=1,
        affects_output=False,
        help="Optimizer steps between two further checkpoints, for long epochs; there is one at "
        "each validation and at each epoch's end anyway.",
    )
    logging_steps: int = setting(
        1, ge=1, affects_output=False, help="Optimizer steps between two reports of the loss."
    )
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = setting(
        [],
        affects_output=False,
        help="Trackers that also get the curves, by their own libraries. A tracker's key reaches "
        "the step by `env: [WANDB_API_KEY]`.",
    )
    tracking_dir: str = setting(
        "runs",
        affects_output=False,
        help="Folder for what trackers write on this machine, from where finery is called.",
    )

    def check(self) -> None:
        """Raise `UsageError` where settings contradict each other."""
        self._check_batches()
        self._check_adapter()
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise UsageError(
                "warmup_steps and warmup_ratio say the same thing twice",
                where="warmup_ratio",
                fix="drop one of them",
            )
        self._check_best()

    def read(
        self, rows: Iterable[Row], tokens: "Tokens", job: Job, what: str
    ) -> "Iterable[Proven]":
        """Rows as proven examples, one by one if possible. what: their name in errors."""
        raise NotImplementedError

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """(trainer class, TRL's configuration class, arguments of it beyond the common ones)."""
        raise NotImplementedError

    def prepare(self, dtype: "torch.dtype", longest: int, job: Job) -> "Prepared":
        """The model as the trainer takes it. longest: tokens of the longest row."""
        raise NotImplementedError

    def accelerators(self, dtype: "torch.dtype") -> "Accelerators":
        """What makes the training faster on this machine."""
        raise NotImplementedError

    def key_code(self) -> list[Any]:
        """The code that watches and that starts several processes, where the step does so."""
        used = {WATCHER: self.watch is not None, LAUNCHER: self.launch is not None}
        return [load_reference(name) for name, needed in used.items() if needed]

    @property
    def best(self) -> str:
        """Name of the metric that picks the best checkpoint."""
        return self.metric_for_best_model

    @property
    def processes(self) -> int:
        """Number of processes that train."""
        return 1 if self.launch is None else self.launch.processes

    @property
    def compares(self) -> bool:
        """Whether the method compares with a reference: the model before the training."""
        return False

    def continues(self) -> bool:
        """Whether an existing adapter is trained on, as far as the model is known by now."""
        both = self.lora is not None and self.adapter == "continue"
        return both and self.model.meta.get("format") == "adapter"

    def static_meta(self) -> dict[str, Any]:
        """The format: an adapter, or a whole model."""
        return {"format": "transformers" if self.lora is None else "adapter"}

    def key_packages(self) -> tuple[str, ...]:
        """bitsandbytes too, where the frozen weights are quantised."""
        return PACKAGES if self.quantization is None else (*PACKAGES, "bitsandbytes")

    def batch_size(self, longest: int) -> int:
        """Rows in memory at once, where the longest has `longest` tokens.

        It depends on settings and rows alone, never on the free memory: it decides which rows are
        in a batch, and so the result. (On two cores 4 to 32 rows of 45 tokens are equally fast.)
        """
        if self.per_device_train_batch_size is not None:
            return self.per_device_train_batch_size
        fitting = max(1, min(8, 8192 // longest))
        whole = self.effective_batch_size // self.processes
        return next(size for size in range(fitting, 0, -1) if whole % size == 0)

    def warmup(self, steps: int) -> int:
        """Optimizer steps of warm-up, of `steps` in all."""
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * steps)
        return min(10, steps // 10) if self.warmup_steps is None else self.warmup_steps

    def peft_config(self) -> "LoraConfig | None":
        """The new adapter's configuration; None where all weights are trained."""
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

    def _check_batches(self) -> None:
        whole, each = self.effective_batch_size, self.per_device_train_batch_size or 1
        together = each * self.processes
        if whole % together:
            parts = [f"per_device_train_batch_size {each}"] if each > 1 else []
            parts += [f"{self.processes} processes"] if self.processes > 1 else []
            raise UsageError(
                f"effective_batch_size {whole} is no multiple of {' times '.join(parts)}",
                where="effective_batch_size",
                fix=f"effective_batch_size: {max(1, round(whole / together)) * together}",
            )
        if self.launch is not None and self.launch.config is not None and self.watch is not None:
            raise UsageError(
                "a watched evaluator asks the whole model, which may be spread over processes",
                where="watch",
                fix="leave out watch, or launch.config",
            )

    def _check_best(self) -> None:
        best, watched = self.metric_for_best_model, []
        if self.watch is not None:
            if getattr(self.watch, "require", None):
                raise UsageError(
                    "a watched evaluator requires nothing: the training goes on whatever it says",
                    where="watch.require",
                    fix="judge the trained model by a step in section evaluate",
                )
            names: Callable[[], list[str]] = getattr(self.watch, "metric_names", list)
            watched = names()
        if best != "eval_loss" and best not in watched:
            raise UsageError(
                f"metric_for_best_model: nothing measures '{best}'",
                where="metric_for_best_model",
                fix=did_you_mean(best, ["eval_loss", *watched]),
            )
        if self.early_stopping_patience and best == "eval_loss" and self.validation is None:
            raise UsageError(
                "early_stopping_patience has no validation to look at",
                where="early_stopping_patience",
                fix="name rows: validation: split.validation",
            )

    def _check_adapter(self) -> None:
        if self.lora is not None:
            _check_pattern(self.lora.target_modules)
            if self.continues() and self.lora != Lora():
                raise UsageError(
                    "lora says how a new adapter is made, and `model` is an adapter, which is "
                    "trained on",
                    where="lora",
                    fix="leave lora out to train that adapter on, or set adapter: new to merge it "
                    "first and put a new one on top",
                )
            if self.merge != "16-bit" and self.quantization is None:
                raise UsageError(
                    "merge: dequantized means the base of a QLoRA adapter, and there is none",
                    where="merge",
                    fix="drop it, or set quantization: nf4",
                )
            return
        if self.quantization is not None:
            raise UsageError(
                "quantised weights can't be trained themselves: QLoRA trains an adapter on them",
                where="quantization",
                fix="drop `lora: null`, or `quantization`",
            )


def _check_pattern(wanted: str | Sequence[str]) -> None:
    """Raise `UsageError` for text that is no regular expression, and for no layers at all."""
    if not wanted:
        raise UsageError(
            "target_modules names no layer", where=TARGET_MODULES, fix=f"leave it out: {ALL_LINEAR}"
        )
    try:
        re.compile(wanted if isinstance(wanted, str) else "")
    except re.error as error:
        raise UsageError(
            f"target_modules: {wanted!r} is not a regular expression: {error}",
            where=TARGET_MODULES,
            fix="repair it, or name layers in a list",
        ) from None
