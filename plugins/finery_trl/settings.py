"""The settings that all trainings share, and the interface that the training code uses."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec

from finery import (
    Dataset,
    File,
    Job,
    Key,
    Model,
    Promise,
    Resources,
    Settings,
    Step,
    nested_step,
    outside_key,
    setting,
    takes,
)
from finery.rows import Row
from finery_transformers.answering import constraint
from finery_transformers.precision import auto_dtype, usable_gpus

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig

    from finery_trl.model.loading import Prepared
    from finery_trl.rows.example import Proven
    from finery_trl.rows.tokens import Reading, Tokens
    from finery_trl.rows.turns import Learn

INSTALLED = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
PACKAGES = (
    "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "gguf",
)  # fmt: skip
"""Without the kernels that are used where they are installed (flash-attn, liger-kernel): they
change digits, and a store is to serve machines with and without them."""
INSTANCE = "MIG-"
"""What the id of an instance of a partitioned GPU begins with."""
MOST_EPOCHS = 100_000
ALL_LINEAR = "all-linear"
"""PEFT's name for all linear layers except the output layer."""
TARGET_MODULES = "lora.target_modules"
"""The setting that errors about the layers of an adapter point at."""


class Lora(Settings):
    """Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685), as in PEFT."""

    r: int = setting(16, ge=1, help="Rank: 8-16 for simple tasks, 64-128 for tasks with much data.")
    lora_alpha: int | None = setting(
        None, ge=1, help="Strength: the adapter's output is scaled by lora_alpha / r. Default: r."
    )
    lora_dropout: float = setting(0.0, ge=0, lt=1, help="Dropout on the adapter's input.")
    target_modules: str | list[str] = setting(
        ALL_LINEAR,
        help="Layers that get an adapter: all-linear, names such as [q_proj, v_proj], or a regular "
        "expression that matches their full paths.",
    )
    use_rslora: bool = setting(
        False, help="Scale by lora_alpha / sqrt(r) instead, for ranks of 64 or more."
    )
    use_dora: bool = setting(
        False, help="Learn the magnitude and direction of weights separately (DoRA); slower."
    )

    def peft_config(self, task_type: str) -> "LoraConfig":
        """The configuration of a new adapter. task_type: PEFT's name for what the model does."""
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.lora_alpha or self.r,
            lora_dropout=self.lora_dropout,
            target_modules=self.target_modules,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            bias="none",
            task_type=task_type,
        )


class Launch(Settings):
    """Several processes that train one model, each on a share of every batch."""

    processes: Annotated[int, msgspec.Meta(ge=1)] | Literal["auto"] = setting(
        2,
        help="Number of processes, one per GPU; auto: as many as there are visible GPUs, or in "
        "`gpus`, or fewer if they don't divide effective_batch_size. With auto, a machine with "
        "another number of GPUs repeats the training.",
    )
    nodes: int = setting(
        1,
        ge=1,
        help="Number of machines that share the processes, if the executor gives a step several, "
        "as slurm and ray do. Other executors run all processes on one machine.",
    )
    config: File | None = setting(
        None,
        help="A configuration file for accelerate (created by `accelerate config`), for FSDP or "
        "DeepSpeed.",
    )
    deepspeed: File | None = setting(
        None,
        help="A configuration file for DeepSpeed, for options that `deepspeed_config` in `config` "
        "doesn't have.",
    )


class Training(
    Step,
    isolated=True,
    gpus=1,
    packages=PACKAGES,
    installs=dict.fromkeys(INSTALLED, "finery[train]"),
    sections=("train",),
    learns="answers",
    family="language-model",
    rehearsal={
        "epochs": 1e-4, "warmup_steps": None, "warmup_ratio": None, "eval_steps": None,
        "save_steps": None, "early_stopping_patience": None, "launch": None, "report_to": [],
        "dtype": "auto",
    },
):  # fmt: skip
    """Train a model on rows.

    Step types derive from `finery_trl.steps.TrlTraining`, which implements `run`. This
    class is the interface that the training code knows. estimated: whether this plugin's formulas
    estimate the memory and time of the training. on_policy: whether the model writes the answers
    that it learns from. config: TRL's configuration class. watches_start: whether `watch` also
    tests the model before the training. compares: whether the method compares with a reference, the
    model before the training. batch_tokens: in memory at once by default.
    """

    estimated: ClassVar[bool] = True
    on_policy: ClassVar[bool] = False
    watches_start: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    batch_tokens: ClassVar[int] = 8192
    config: ClassVar[str] = "trl.trainer.sft_config:SFTConfig"

    model: Model = takes(
        role="base",
        help="The model to train: a Hugging Face folder, a GGUF file (dequantized), or an adapter.",
    )
    rows: list[Dataset] = takes(role="train", help="Rows to train on.")
    validation: Dataset | None = takes(
        None, role="validation", help="Rows to measure the validation loss on."
    )
    watch: Step | None = nested_step(
        "evaluate",
        given={"models": "model"},
        help="An evaluator that tests the model at each validation, e.g. `{use: "
        "eval.classification, rows: split.validation}`.",
    )
    metric_for_best_model: str = setting(
        "eval_loss",
        help="The metric that selects the weights to keep: eval_loss (lowest), or a metric of "
        "`watch` (highest).",
    )
    lora: Lora | None = setting(Lora(), help="The adapter to train; null trains all weights.")
    adapter: Literal["new", "continue"] = setting(
        "new",
        help="If `model` is itself an adapter: `new` merges it and trains a new one on top; "
        "`continue` trains it further (omit `lora`, since the adapter keeps its shape).",
    )
    quantization: Literal["nf4", "fp4"] | None = setting(
        None,
        help="QLoRA: hold the frozen weights in 4 bits while the adapter is trained. This saves "
        "most of their memory and takes longer.",
    )
    double_quantization: bool = setting(
        True, help="Also quantize the quantization scales, which saves 0.4 bits per weight."
    )
    merge: Literal["16-bit", "dequantized"] = setting(
        "16-bit",
        help="The base that a QLoRA adapter is merged into when it is used: the 16-bit weights, or "
        "the dequantized 4-bit weights that the adapter was trained on.",
    )
    epochs: float = setting(
        3, gt=0, le=MOST_EPOCHS, help="Passes over the rows; use 1-2 for fewer than 500 rows."
    )
    learning_rate: float = setting(
        2e-4, gt=0, help="Peak learning rate; 1e-3 suits models of some 100 million parameters."
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = setting(
        "cosine", help="Learning-rate schedule after warm-up."
    )
    warmup_steps: int | None = setting(
        None,
        ge=0,
        help="Optimizer steps during which the learning rate rises to its peak. Default: 10, but "
        "at most a tenth of all optimizer steps.",
    )
    warmup_ratio: float | None = setting(
        None,
        ge=0,
        lt=1,
        help="Warm-up as a share of all optimizer steps, instead of `warmup_steps`.",
    )
    effective_batch_size: int = setting(
        16, ge=1, help="Rows per optimizer step; 16 is stable for most tasks."
    )
    per_device_train_batch_size: int | None = setting(
        None,
        ge=1,
        help="Rows in memory at once; gradients are accumulated up to effective_batch_size. "
        "Default: as many as fit in 8,192 tokens.",
    )
    optim: Literal["adamw_torch_fused", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"] = (
        setting(
            "adamw_torch_fused",
            help="AdamW, as named by transformers: with states in 8 bits (a quarter of their "
            "memory), or paged, which moves them to main memory when the GPU is full. Useful when "
            "all weights are trained.",
        )
    )
    args: dict[str, Any] = setting(
        {},
        help="Further arguments of TRL's configuration (e.g. `SFTConfig`, `GRPOConfig`), by its "
        "names. Names and types are checked against the installed version. Those that finery "
        "decides are refused.",
        examples=[{"weight_decay": 0.01, "max_grad_norm": 0.3}, {"neftune_noise_alpha": 5.0}],
    )
    max_length: int = setting(
        1024, ge=8, help="Maximum length of a row in tokens, prompt and answer together."
    )
    too_long: Literal["error", "drop"] = setting(
        "error",
        help="What to do with longer rows. They are never truncated, since a truncated answer "
        "teaches the model not to stop.",
    )
    gradient_checkpointing: bool = setting(
        False, help="Recompute activations to save memory; training takes about a third longer."
    )
    activation_offloading: bool = setting(
        False,
        help="Keep activations in main memory until they are needed, to save GPU memory; slower. "
        "It has no effect on a CPU.",
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = setting(
        "auto",
        help="Compute dtype, also of frozen weights; auto: bf16 if the hardware multiplies it, "
        "else fp16 on a GPU that is fast in it, else fp32. fp16 needs a GPU, and has a gradient "
        "scaler. Trainable weights stay in fp32 regardless of the compute dtype.",
    )
    launch: Launch | None = setting(
        None,
        help="Train in several processes, one per GPU. Each optimizer step has the same rows as "
        "with one process.",
    )
    eval_steps: int | None = setting(
        None, ge=1, help="Optimizer steps between validations. Default: one validation per epoch."
    )
    early_stopping_patience: int | None = setting(
        None, ge=1, help="Stop after this many validations in a row without improvement."
    )
    save_steps: int | None = setting(
        None,
        ge=1,
        affects_output=False,
        help="Optimizer steps between additional checkpoints, for long epochs. A checkpoint is "
        "always saved at each validation and at the end of each epoch, and for an adapter after "
        "each minute without one.",
    )
    logging_steps: int = setting(
        1, ge=1, affects_output=False, help="Optimizer steps between reports of the loss."
    )
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = setting(
        [],
        affects_output=False,
        help="Experiment trackers that also receive the curves, through their own libraries. Pass "
        "a tracker's API key with `env: [WANDB_API_KEY]`.",
    )
    tracking_dir: str = setting(
        "runs",
        affects_output=False,
        help="Folder for files that trackers write on this machine, relative to the "
        "recipe's folder.",
    )

    def read(self, rows: Iterable[Row], reading: "Reading") -> "Iterable[Proven]":
        """Rows as verified examples, one by one if possible."""
        raise NotImplementedError

    def reading(self, tokens: "Tokens", job: Job, subject: str) -> "Reading":
        """How `read` reads the rows of an input. subject: its name in errors."""
        from finery_trl.rows.tokens import Reading

        return Reading(tokens, job, subject, self.max_length, self.too_long)

    def learn(self) -> "Learn | None":
        """The learned part of each row's turns; None if complete rows are compared or rated."""
        return None

    def trainer(self) -> tuple[Any, Any, dict[str, Any]]:
        """(trainer class, TRL's configuration class, its arguments beyond the common ones)."""
        raise NotImplementedError

    def arguments(self, tokens: "Tokens", job: Job) -> dict[str, Any]:
        """Further arguments of the trainer class, apart from TRL's configuration."""
        return {}

    def prepare(self, dtype: "torch.dtype", longest: int, job: Job) -> "Prepared":
        """The model in the form that the trainer takes. longest: tokens of the longest row."""
        raise NotImplementedError

    @property
    def processes(self) -> int:
        """Number of processes that train, on all nodes together."""
        if self.launch is None:
            return 1
        if isinstance(self.launch.processes, int):
            return self.launch.processes
        return _automatic(self)

    @property
    def fewest_processes(self) -> int:
        """Number of processes if it is written, else one: `auto` takes a number that fits."""
        return 1 if self.launch is None or self.launch.processes == "auto" else self.processes

    @property
    def answers_per_row(self) -> int:
        """Sequences of an optimizer step that belong to the same row."""
        return 1

    @property
    def shared_steps(self) -> int:
        """Optimizer steps in a row that learn from the same sequences; checkpoints follow them."""
        return 1

    def stop_reason(self, history: Sequence[Mapping[str, Any]], job: Job) -> str | None:
        """Why to end the training after a validation, in a sentence; None to go on.

        history: the log of the trainer, see `finery_trl.train.checkpoints`.
        """
        return None

    @property
    def best_by(self) -> str:
        """The metric that selects the weights to keep."""
        return self.metric_for_best_model

    @property
    def fewest_rows(self) -> int:
        """Rows that the method needs in memory at once."""
        return 1

    @property
    def is_launched(self) -> bool:
        """Whether the training starts further processes besides the one that runs the step."""
        return self.processes > 1 or (self.launch is not None and self.launch.config is not None)

    def cache_key(self) -> Key:
        """Also the dtype, if this machine decides it, and the packages of settings.

        The number of GPUs counts if it decides how many processes train. Processes that share a
        batch draw different noise (dropout, NEFTune) and average a comparison with a reference, or
        the load of experts, over other rows than one process.
        """
        optional = {
            "bitsandbytes": self.needs_bitsandbytes,
            constraint.PACKAGE: self.watch is not None and self.watch.cache_key().schemas,
        }
        return super().cache_key() | Key(
            packages=[package for package, is_used in optional.items() if is_used],
            facts={"dtype": auto_dtype()} if self.dtype == "auto" else {},
            gpus=self.launch is not None and self.launch.processes == "auto",
        )

    def resources(self) -> Resources:
        """A GPU for each process, and what trains, quantises and reports the curves.

        The number of machines is the written one, since `check` refuses `auto` with several nodes.
        """
        quantises = ["bitsandbytes"] if self.needs_bitsandbytes else []
        return super().resources() | Resources(
            gpus=self.processes,
            nodes=self.nodes,
            packages={
                **dict.fromkeys(quantises, "finery[train]"),
                **{name: name for name in self.report_to},
            },
        )

    @property
    def nodes(self) -> int:
        """On how many machines it trains."""
        return 1 if self.launch is None else self.launch.nodes

    @property
    def keeps_reference(self) -> bool:
        """Whether the reference is needed during the training."""
        return self.compares

    def continues(self) -> bool:
        """Whether an existing adapter is trained further; also if that isn't known yet."""
        both = self.lora is not None and self.adapter == "continue"
        return both and self.model.meta.get("format") == "adapter"

    def outputs(self) -> dict[str, Promise]:
        """The model, with its format: an adapter, or a complete model."""
        return {"": Promise(Model, {"format": "transformers" if self.lora is None else "adapter"})}

    @property
    def needs_bitsandbytes(self) -> bool:
        """Whether frozen weights or states of the optimizer are quantized."""
        return self.quantization is not None or self.optim_needs_bitsandbytes

    @property
    def optim_needs_bitsandbytes(self) -> bool:
        """Whether the optimizer is one of bitsandbytes."""
        return self.optim != "adamw_torch_fused"

    def batch_size(self, longest: int, processes: int | None = None) -> int:
        """Rows in memory of a process at once if the longest has `longest` tokens.

        processes: how many train; default: `self.processes`. The size for one process decides
        which rows share an optimizer step, and so the result. It depends only on settings and rows,
        never on the machine's memory. Few rows would leave a GPU idle if they are short. (On two
        cores, 4 to 32 rows of 45 tokens are equally fast.)
        """
        if self.per_device_train_batch_size is not None:
            return self.per_device_train_batch_size
        share = self.effective_batch_size // (processes or self.processes)
        fitting = max(1, min(share, self.batch_tokens // longest))
        fewest = self.fewest_rows
        smaller = (size for size in range(fitting, fewest - 1, -1) if share % size == 0)
        larger = (size for size in range(fewest, share + 1) if share % size == 0)
        return next(chain(smaller, larger), share)

    def warmup(self, steps: int) -> int:
        """Number of warm-up steps, out of `steps` optimizer steps."""
        if self.warmup_ratio is not None:
            return round(self.warmup_ratio * steps)
        return min(10, steps // 10) if self.warmup_steps is None else self.warmup_steps

    def peft_config(self) -> "LoraConfig | None":
        """The new adapter's configuration; None if all weights are trained."""
        return None if self.lora is None else self.lora.peft_config("CAUSAL_LM")


@outside_key
def count_gpus() -> int:
    """How many processes can have a GPU of their own; 0 if torch can't use any.

    Counted as the scheduler counts them, which gives a step its GPUs. CUDA shows a process only one
    instance of a partitioned GPU, so instances never train together.
    """
    gpus = usable_gpus()
    whole_gpus = [gpu for gpu in gpus if not gpu.id.startswith(INSTANCE)]
    return len(whole_gpus) or min(1, len(gpus))


@outside_key
def _automatic(step: Training) -> int:
    """Processes for `auto`: one per visible GPU, as far as they divide the effective batch.

    The number of GPUs that the step gets is in the key, see `depends_on_gpus`.
    """
    batches = step.effective_batch_size // (step.per_device_train_batch_size or 1)
    max_processes = min(count_gpus(), step.effective_batch_size // step.fewest_rows)
    return next(n for n in range(max(1, max_processes), 0, -1) if batches % n == 0)
